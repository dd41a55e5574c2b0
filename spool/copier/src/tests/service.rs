//! The threads, and what a flush says.

use std::path::Path;
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use verneuil_config::{Config, CopierConfig, DirectoryConfig, SpoolConfig, TargetConfig};
use verneuil_spool::{Database, DatabaseInfo, Spool};

use crate::error::{CopyError, FlushError};
use crate::{Copier, flush_spool};

use super::world::World;

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn copier() -> Copier {
    Copier::new(&CopierConfig::default(), &[])
}

#[test]
fn a_flush_holds_everything_committed_before_it() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(5));
    let copier = copier();
    copier.serve(&world.db).unwrap();
    for round in 0..5 {
        world.transact(&[round]);
        world.transact(&[4 - round]);
        copier.flush(&world.db, None).unwrap();
        runtime.block_on(world.check_complete());
    }
}

#[test]
fn commits_arrive_without_a_flush() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(2));
    let copier = copier();
    copier.serve(&world.db).unwrap();
    world.transact(&[1]);
    let deadline = Instant::now() + Duration::from_secs(30);
    while runtime.block_on(world.published_bytes()) != Some(std::fs::read(&world.path).unwrap()) {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_flush_within_a_transaction_holds_what_was_committed_before_it() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(5));
    let copier = copier();
    copier.flush(&world.db, None).unwrap();
    world.transact(&[1]);
    copier.flush(&world.db, None).unwrap();
    world.write(&[2, 3]);
    copier.flush(&world.db, None).unwrap();
    runtime.block_on(world.check_complete());
    world.finalise();
    world.end();
    copier.flush(&world.db, None).unwrap();
    runtime.block_on(world.check_complete());
}

#[test]
fn a_flush_after_a_writer_was_killed_at_its_commit_holds_that_commit() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(5));
    let copier = copier();
    world.transact(&[1]);
    copier.flush(&world.db, None).unwrap();
    // In the log, with the killed one behind it: one publication is not enough.
    let held = world.db.lock_copier().unwrap();
    world.transact(&[2]);
    world.write(&[3]);
    world.finalise();
    world.kill_writer();
    drop(held);
    copier.flush(&world.db, None).unwrap();
    runtime.block_on(world.check_complete());
}

#[test]
fn a_flush_waits_for_another_copier_and_takes_over_from_it() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(5));
    world.transact(&[1]);
    let other = world.db.lock_copier().unwrap();
    assert!(other.is_some());
    std::thread::scope(|scope| {
        let flush = scope.spawn(|| copier().flush(&world.db, None));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!flush.is_finished());
        drop(other);
        flush.join().unwrap().unwrap();
    });
    runtime.block_on(world.check_complete());
}

#[test]
fn a_flush_fails_with_the_store_and_succeeds_when_it_is_back() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(5));
    let store = world.dir.path().join("store");
    std::fs::write(&store, "in the way").unwrap();
    let copier = copier();
    world.transact(&[1]);
    let error = copier.flush(&world.db, None).unwrap_err();
    assert!(
        matches!(error, FlushError::Failed(CopyError::Store(_))),
        "{error}"
    );
    let noted = world.noted_error().expect("written down for others");
    assert!(error.to_string().contains(&noted), "{noted}");
    world.transact(&[2]);
    std::fs::remove_file(&store).unwrap();
    copier.flush(&world.db, None).unwrap();
    runtime.block_on(world.check_complete());
    assert_eq!(world.noted_error(), None);
}

#[test]
fn a_spool_is_flushed_without_the_application() {
    let runtime = runtime();
    let mut world = runtime.block_on(World::new(5));
    world.transact(&[1]);
    let spool = world.spool.root().to_owned();
    let flushed = flush_spool(&spool, &Config::default()).unwrap();
    assert_eq!(flushed.databases.len(), 1);
    assert_eq!(
        (
            flushed.databases[0].path.as_path(),
            flushed.databases[0].hostname.as_str()
        ),
        (world.path.as_path(), "here")
    );
    assert!(flushed.databases[0].result.is_ok());
    assert!(flushed.unreadable.is_empty() && flushed.other_boots.is_empty());
    runtime.block_on(world.check_complete());

    std::fs::remove_file(&world.path).unwrap();
    let flushed = flush_spool(&spool, &Config::default()).unwrap();
    assert!(matches!(flushed.databases[0].result, Err(FlushError::Gone)));
}

#[test]
fn what_is_no_spool_is_not_flushed() {
    let dir = tempfile::tempdir().unwrap();
    for path in [dir.path(), Path::new("/nowhere/at/all")] {
        let error = flush_spool(path, &Config::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// Many databases in one spool, with a copier that needs minutes for them.
struct Crowd {
    root: std::path::PathBuf,
    spool: Spool,
    info: DatabaseInfo,
    copier: Copier,
    _dir: tempfile::TempDir,
}

impl Crowd {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let spool = Spool::new(&SpoolConfig {
            dir: root.join("spool"),
            permissions: 0o700,
        });
        let info = DatabaseInfo {
            hostname: "here".to_owned(),
            targets: vec![TargetConfig::Directory(DirectoryConfig {
                path: root.join("store"),
            })],
        };
        let slow = CopierConfig {
            requests_per_second: 1.0,
            burst: 1,
            ..CopierConfig::default()
        };
        Self {
            root,
            spool,
            info,
            copier: Copier::new(&slow, &[]),
            _dir: dir,
        }
    }

    fn open(&self, number: usize) -> std::sync::Arc<Database> {
        let path = self.root.join(format!("{number:04}.db"));
        std::fs::write(&path, [0; 4096]).unwrap();
        Database::open(&self.spool, &path, self.info.clone())
    }

    /// Descriptors of this process that lead to its files.
    fn descriptors(&self) -> usize {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
        descriptors
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|file| file.starts_with(&self.root))
            .count()
    }
}

/// A process has 1,024 descriptors as a rule, and they are the application's.
#[test]
fn databases_that_were_closed_wait_for_their_turn_without_descriptors() {
    const DATABASES: usize = 200;
    /// Those whose turn it is: 16, with control page, lock, logs and the database.
    const DESCRIPTORS_MAX: usize = 112;
    let crowd = Crowd::new();
    for number in 0..DATABASES {
        crowd.copier.serve(&crowd.open(number)).unwrap();
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while crowd.descriptors() > DESCRIPTORS_MAX {
        assert!(
            Instant::now() < deadline,
            "{} are held",
            crowd.descriptors()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(
        crowd.copier.lanes_count() > DATABASES / 2,
        "they still wait"
    );
}

#[test]
fn a_flush_does_not_queue_behind_what_waits_at_the_backgrounds_pace() {
    const DATABASES: usize = 100;
    let crowd = Crowd::new();
    for number in 0..DATABASES {
        crowd.copier.serve(&crowd.open(number)).unwrap();
    }
    let last = crowd.open(DATABASES);
    crowd.copier.serve(&last).unwrap();
    let limit = Duration::from_secs(60);
    crowd.copier.flush(&last, Some(limit)).unwrap();
    assert!(
        crowd.copier.lanes_count() > DATABASES / 2,
        "the others still wait"
    );
}

#[test]
fn a_spool_of_more_databases_than_a_flush_has_open_is_flushed() {
    let crowd = Crowd::new();
    let count = crate::flush::FLUSHED_AT_ONCE_MAX + 3;
    for number in 0..count {
        crowd.open(number);
    }
    let flush = flush_spool(&crowd.root.join("spool"), &Config::default()).unwrap();
    assert!(flush.databases.iter().all(|done| done.result.is_ok()));
    let mut paths: Vec<_> = flush.databases.iter().map(|done| &done.path).collect();
    assert!(paths.is_sorted());
    paths.dedup();
    assert_eq!((paths.len(), flush.unreadable.len()), (count, 0));
}
