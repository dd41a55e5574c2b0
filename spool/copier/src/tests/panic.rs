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
use crate::error::FlushError;

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

/// The store of a world goes away, and whoever warns of it panics; returns what brings it back.
fn plant(world: &World) -> impl FnOnce() + use<> {
    static LOGGER: Once = Once::new();
    LOGGER.call_once(|| tracing::subscriber::set_global_default(Logger).unwrap());
    let (store, away) = (
        world.dir.path().join("store"),
        world.dir.path().join("away"),
    );
    fs::rename(&store, &away).unwrap();
    fs::write(&store, "not a directory").unwrap();
    *FATAL.lock().unwrap() = Some(world.path.clone());
    move || {
        fs::remove_file(&store).unwrap();
        fs::rename(&away, &store).unwrap();
    }
}

fn wait_for(what: &str, mut is_there: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_there() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not seen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_panicked_lane_says_so_and_begins_anew_by_itself() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(2));
    let copier = Copier::new(&CopierConfig::default(), &[]);
    copier.flush(&world.db, Some(PATIENCE)).unwrap();

    // Nobody opens, closes or flushes anything.
    let bring_back = plant(&world);
    world.transact(&[1]);
    wait_for("a panic in the status", || {
        world
            .noted_error()
            .is_some_and(|error| error.contains("panicked") && error.contains("this logger fails"))
    });
    bring_back();
    for chunk in [0, 1] {
        let committed = fs::read(&world.path).unwrap();
        wait_for("what was committed", || {
            runtime.block_on(world.published_bytes()).as_ref() == Some(&committed)
        });
        world.transact(&[chunk]);
    }
    copier.flush(&world.db, Some(PATIENCE)).unwrap();
    assert_eq!(world.noted_error(), None);

    // A flush that meets the panic fails, the next one does not.
    let bring_back = plant(&world);
    world.transact(&[1]);
    let error = copier.flush(&world.db, Some(PATIENCE)).unwrap_err();
    assert!(matches!(error, FlushError::Stopped(_)), "{error}");
    bring_back();
    copier.flush(&world.db, Some(PATIENCE)).unwrap();
    runtime.block_on(world.check_complete());
}
