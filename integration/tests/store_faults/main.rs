//! Every request that the products send, and everything that can go wrong with it on its way to S3: a real SeaweedFS behind a
//! front (`integration/src/front`) that misbehaves.
//!
//! - `table`: which request meets which fault, and what is left out for which reason;
//! - `site`: a source host whose stores are behind fronts, and what is asked of it;
//! - `writing`, `reading`: what happens in one cell of the table;
//! - `words`: what an error must say.

mod reading;
mod site;
mod table;
mod words;
mod writing;

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use verneuil_integration::seaweed::Seaweed;
use verneuil_integration::watchdog;

use table::Cell;

/// Cells that run at once: mostly they wait.
const CELLS_AT_ONCE: usize = 16;

/// `all`: also the cells that are left out of an ordinary run; anything else: only the cells whose name contains it.
const CHOICE_VARIABLE: &str = "VERNEUIL_STORE_FAULTS";

#[test]
fn whatever_goes_wrong_with_whichever_request_nothing_wrong_is_published_served_or_reported()
-> Result<()> {
    let _limit = watchdog::limit("store_faults", 900);
    let choice = std::env::var(CHOICE_VARIABLE).unwrap_or_default();
    let cells: Vec<Cell> = table::cells()
        .into_iter()
        .filter(|cell| match &choice[..] {
            "" => !cell.is_extra(),
            "all" => true,
            part => cell.to_string().contains(part),
        })
        .collect();
    let server = Seaweed::start()?;
    site::make_shared_buckets(&server)?;
    let (begun, next, failed) = (Instant::now(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CELLS_AT_ONCE {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let begun = Instant::now();
                    let result = cell.run(&server);
                    let took = begun.elapsed();
                    match result {
                        Ok(()) => eprintln!("{cell}: well ({took:.1?})"),
                        Err(error) => {
                            eprintln!("{cell}: FAILED ({took:.1?}): {error:#}");
                            if let Ok(mut failed) = failed.lock() {
                                failed.push(format!("{cell}: {error:#}"));
                            }
                        }
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_default();
    eprintln!("{} cells in {:.1?}", cells.len(), begun.elapsed());
    if cells.is_empty() || !failed.is_empty() {
        bail!(
            "{} of {} cells failed:\n{}",
            failed.len(),
            cells.len(),
            failed.join("\n")
        );
    }
    Ok(())
}
