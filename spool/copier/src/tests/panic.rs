//! A lane that panics, as a bug could make it: provoked from outside, by a logger that does not survive what it is told.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};
use verneuil_config::CopierConfig;

use super::service::runtime;
use super::world::World;
use crate::Copier;

const PATIENCE: Duration = Duration::from_secs(60);

/// The database of which the next warning is fatal to whoever logs it.
static FATAL: Mutex<Option<PathBuf>> = Mutex::new(None);

/// A logger for the whole process, which only minds warnings about [`FATAL`].
struct Logger;

struct Mentions(bool);

impl Visit for Mentions {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let mut fatal = FATAL.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fatal = |path: &PathBuf| format!("{value:?}") == path.to_string_lossy();
        self.0 |= field.name() == "db" && fatal.take_if(|path| is_fatal(path)).is_some();
    }
}

impl Subscriber for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut mentions = Mentions(false);
        event.record(&mut mentions);
        assert!(!mentions.0, "this logger fails, and the lane with it");
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Lets the lane of `world` die while its store is away, and brings the store back.
fn kill_lane(world: &mut World, copier: &Copier) {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| tracing::subscriber::set_global_default(Logger).unwrap());
    let (store, away) = (
        world.dir.path().join("store"),
        world.dir.path().join("away"),
    );
    fs::rename(&store, &away).unwrap();
    fs::write(&store, "not a directory").unwrap();
    *FATAL.lock().unwrap() = Some(world.path.clone());
    world.transact(&[1]);
    let begun = Instant::now();
    while FATAL.lock().unwrap().is_some() {
        assert!(begun.elapsed() < PATIENCE, "the lane does not complain");
        std::thread::sleep(Duration::from_millis(5));
    }
    while copier.living_lanes_count() > 0 {
        assert!(begun.elapsed() < PATIENCE, "the lane lives on");
        std::thread::sleep(Duration::from_millis(5));
    }
    fs::remove_file(&store).unwrap();
    fs::rename(&away, &store).unwrap();
}

#[test]
fn a_panicked_lane_is_restarted() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(2));
    let copier = Copier::new(&CopierConfig::default(), &[]);
    copier.flush(&world.db, Some(PATIENCE)).unwrap();

    // By the next connection that is opened: what was committed before arrives, and what is committed after.
    kill_lane(&mut world, &copier);
    copier.serve(&world.db).unwrap();
    for chunk in [0, 1] {
        let begun = Instant::now();
        while runtime.block_on(world.published_bytes()) != Some(fs::read(&world.path).unwrap()) {
            assert!(begun.elapsed() < PATIENCE, "nothing arrives");
            std::thread::sleep(Duration::from_millis(20));
        }
        world.transact(&[chunk]);
    }

    // By the next flush.
    copier.flush(&world.db, Some(PATIENCE)).unwrap();
    kill_lane(&mut world, &copier);
    copier.flush(&world.db, Some(PATIENCE)).unwrap();
    runtime.block_on(world.check_complete());
}
