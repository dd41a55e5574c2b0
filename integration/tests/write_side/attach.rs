//! ATTACH: one transaction over two databases, which SQLite joins by a super-journal. Each has a replica of its own, and each
//! version of each is one committed state.

use anyhow::{Result, ensure};
use verneuil_integration::ledger::{Ledger, check_books, open_books};
use verneuil_integration::session::Program;
use verneuil_integration::watch::Watch;
use verneuil_integration::watchdog;

use crate::support::{every_version_is_committed, is_equal, last_entry, watched};

const TRANSACTIONS: u64 = 1_000;

/// A run with fewer versions than this has not shown much.
const VERSIONS_MIN: usize = 20;

#[test]
fn a_thousand_transactions_over_two_attached_databases_each_version_of_each_is_a_committed_state()
-> Result<()> {
    let _limit = watchdog::limit("attach", 300);
    let (setup, watch) = watched()?;
    let two = setup.path("source/two.db");
    let watch_two = Watch::start(&setup.manifest_file(&two)?)?;
    let mut source = setup.writer(Program::Rusqlite)?;
    source.run(&[format!("ATTACH '{}' AS two", setup.uri(&two))])?;
    source.run(&open_books("main"))?;
    source.run(&open_books("two"))?;
    let (mut main_books, mut two_books) = (Ledger::new(1), Ledger::new(2));
    for n in 0..TRANSACTIONS {
        match n {
            333 => source.run(&["PRAGMA main.journal_mode=PERSIST"])?,
            500 => source.run(&["PRAGMA two.journal_mode=TRUNCATE"])?,
            666 => source.run(&["PRAGMA main.journal_mode=DELETE"])?,
            _ => {}
        }
        let mut lines = vec!["BEGIN IMMEDIATE".to_owned()];
        // Now and then only one of them, so that the two are not in step.
        if n % 7 != 0 {
            lines.extend(main_books.entry("main"));
        }
        if n % 5 != 0 {
            lines.extend(two_books.entry("two"));
        }
        lines.push(if n % 31 == 30 { "ROLLBACK" } else { "COMMIT" }.to_owned());
        if n % 31 == 30 {
            // What was rolled back was not entered.
            if n % 7 != 0 {
                main_books = Ledger::resume(1, main_books.entered() - 1, n);
            }
            if n % 5 != 0 {
                two_books = Ledger::resume(2, two_books.entered() - 1, n);
            }
        }
        source.run(&lines)?;
    }
    source.close()?;
    setup.flush()?;
    for (database, books, watch) in [
        (setup.database(), &main_books, watch),
        (two, &two_books, watch_two),
    ] {
        is_equal(&setup, &database)?;
        let said = check_books(&database)?;
        ensure!(
            said.last == books.entered(),
            "{said:?}, {} were entered",
            books.entered()
        );
        let shown = every_version_is_committed(&setup, watch, last_entry)?;
        ensure!(
            shown.last == books.entered(),
            "the last version of {} holds transaction {}",
            database.display(),
            shown.last
        );
        ensure!(
            shown.versions >= VERSIONS_MIN,
            "only {} versions",
            shown.versions
        );
    }
    Ok(())
}
