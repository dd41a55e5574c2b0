//! The copier's process: one real `Lane` per target, of which this thread polls one at a time, past as many points of `trial` as it likes. Dropped, it
//! was killed.

use std::future::{Future, poll_fn};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use verneuil_config::{CopierConfig, TargetConfig};
use verneuil_spool::{Database, Spool};

use crate::Copier;
use crate::base::target_id;
use crate::destination::{Destination, Threads};
use crate::error::FlushError;
use crate::lane::{Lane, Tried};
use crate::service::{FlushRequest, LedgerSlot, Shared};

use super::super::trial;

/// How long a thread that read for a dead copier may hold its lock.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

/// The outcome, and the answer if it was a flush.
type End = (Lane, Tried, Option<Result<(), FlushError>>);

enum Place {
    Nowhere,
    Resting(Box<Lane>),
    /// Stopped at a point, or waiting for a writer.
    Under(Pin<Box<dyn Future<Output = End>>>),
}

/// How far a target came.
pub(super) enum Turn {
    /// There is no spool yet.
    NoSpool,
    /// At a point, or waiting for somebody.
    Stopped,
    Ended(Tried, Option<Result<(), FlushError>>),
}

pub(super) struct Carrier {
    runtime: Runtime,
    shared: Arc<Shared>,
    destinations: Vec<(Arc<Destination>, Threads)>,
    // What dies with the process.
    ledger: Arc<LedgerSlot>,
    places: Vec<Place>,
}

impl Carrier {
    pub(super) fn new(targets: &[TargetConfig]) -> Self {
        let config = CopierConfig {
            requests_per_second: 1_000_000.0,
            burst: 1_000_000,
            ..CopierConfig::default()
        };
        let start = |target| {
            let (destination, threads) = Destination::start(target, &config).unwrap();
            (Arc::new(destination), threads)
        };
        Self {
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
            shared: Copier::new(&config, &[]).shared,
            destinations: targets.iter().map(start).collect(),
            ledger: Arc::default(),
            places: targets.iter().map(|_| Place::Nowhere).collect(),
        }
    }

    pub(super) fn kill(&mut self) {
        self.places.fill_with(|| Place::Nowhere);
        self.ledger = Arc::default();
    }

    /// The database, as `verneuilctl copy` and `flush` find it.
    fn database(spool: &Spool) -> Result<Option<Arc<Database>>, String> {
        let Some(folder) = spool
            .contents()
            .ok()
            .and_then(|contents| contents.folders.first().cloned())
        else {
            return Ok(None);
        };
        Database::open_or_repair(spool, &folder)
            .map(Some)
            .or_else(|error| {
                if error.is_not_found() {
                    Ok(None)
                } else {
                    Err(error.to_string())
                }
            })
    }

    /// The copier goes on with a target: for at most so many points, and for so long.
    pub(super) fn turn(
        &mut self,
        spool: &Spool,
        path: &Path,
        target: usize,
        is_flush: bool,
        (points, limit): (Option<u32>, Duration),
    ) -> Result<Turn, String> {
        let begun = Instant::now();
        loop {
            let place = std::mem::replace(&mut self.places[target], Place::Nowhere);
            let mut run = match place {
                Place::Under(run) => run,
                place => {
                    let Some(db) = Self::database(spool)? else {
                        self.places[target] = place;
                        return Ok(Turn::NoSpool);
                    };
                    if db.path() != path {
                        return Err(format!("the spool is that of {}", db.path().display()));
                    }
                    let lane = match place {
                        Place::Resting(lane) => *lane,
                        _ => self.new_lane(&db, target),
                    };
                    start(lane, db, is_flush)
                }
            };
            trial::allow(points);
            let polled = self.runtime.block_on(async {
                tokio::time::timeout(
                    limit,
                    poll_fn(|context| match run.as_mut().poll(context) {
                        Poll::Ready(end) => Poll::Ready(Some(end)),
                        Poll::Pending if trial::has_stopped() => Poll::Ready(None),
                        Poll::Pending => Poll::Pending,
                    }),
                )
                .await
            });
            let Ok(Some((lane, tried, answer))) = polled else {
                self.places[target] = Place::Under(run);
                return Ok(Turn::Stopped);
            };
            self.places[target] = Place::Resting(Box::new(lane));
            if matches!(tried, Tried::Elsewhere) && answer.is_none() {
                if begun.elapsed() > LOCK_PATIENCE {
                    return Err("somebody keeps the lock of a dead copier".to_owned());
                }
                std::thread::sleep(Duration::from_millis(2));
                continue;
            }
            return Ok(Turn::Ended(tried, answer));
        }
    }

    fn new_lane(&self, db: &Database, target: usize) -> Lane {
        let destination = self.destinations[target].0.clone();
        let id = target_id(&destination.target, db);
        Lane::new(
            self.shared.clone(),
            destination,
            id,
            db,
            self.ledger.clone(),
            (Arc::default(), Arc::default()),
        )
    }
}

fn start(mut lane: Lane, db: Arc<Database>, is_flush: bool) -> Pin<Box<dyn Future<Output = End>>> {
    Box::pin(async move {
        let destination = lane.destination.clone();
        let turn = destination.turn(is_flush).await;
        if !is_flush {
            let tried = lane.attempt(&db, false, turn).await;
            return (lane, tried, None);
        }
        let (answer, reply) = sync_channel(1);
        let tried = lane.flush(&db, &FlushRequest { answer }, turn).await;
        (lane, tried, reply.try_recv().ok())
    })
}
