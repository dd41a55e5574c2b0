//! Several targets, one of which fails: the other is never later than without it, and a flush tells the truth about each.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use verneuil_format::Manifest;
use verneuil_integration::fault::{DirectoryAway, Proxy};
use verneuil_integration::footprint::used_bytes;
use verneuil_integration::process::until;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Setup, Target};
use verneuil_integration::state::{check_state, same_bytes};
use verneuil_integration::watch::Watch;
use verneuil_integration::watchdog;
use verneuil_integration::workload::{Workload, WorkloadOptions};

use crate::support::{ARRIVAL_LIMIT, every_version_of, restore_with, session_with, utf8};

/// Commits whose arrival is timed, of each database and in each state of the faulty target.
const TIMED: usize = 40;

/// What a machine that is busy with other tests may add to one of two medians.
const MEDIAN_SLACK: Duration = Duration::from_millis(25);
/// … and to one of two maxima. Every time limit and pause of a faulty store is longer.
const MAX_SLACK: Duration = Duration::from_millis(700);

/// Offset of the change counter in a database's header.
const CHANGE_COUNTER: u64 = 24;

/// A host with two targets, the setup's own and a directory; and the configurations with each of them alone.
struct Two {
    setup: Setup,
    directory: PathBuf,
    both: Value,
    only_own: Value,
    only_directory: Value,
}

impl Two {
    fn new(kind: Kind, own_first: bool) -> Result<Self> {
        let setup = Setup::new(kind)?;
        let directory = setup.path("second-store");
        std::fs::create_dir(&directory)?;
        let second = json!({"directory": {"path": directory}});
        let only_own = setup.config();
        let own = only_own["replication_targets"][0].clone();
        let (mut both, mut only_directory) = (only_own.clone(), only_own.clone());
        both["replication_targets"] = if own_first {
            json!([own, second])
        } else {
            json!([second, own])
        };
        only_directory["replication_targets"] = json!([second]);
        Ok(Self {
            setup,
            directory,
            both,
            only_own,
            only_directory,
        })
    }

    fn proxy(&self) -> Result<&Proxy> {
        match self.setup.target() {
            Target::S3 { proxy, .. } => Ok(proxy),
            Target::Directory(_) | Target::Given { .. } => bail!("an S3 store was asked for"),
        }
    }

    fn writer(&self) -> Result<Session> {
        session_with(&self.setup, &self.both, Program::Python)
    }

    /// Fails unless the only target of `config` holds the source.
    fn holds(&self, config: &Value) -> Result<()> {
        let out = self.setup.path("held.db");
        restore_with(&self.setup, config, &self.setup.database(), &out)?;
        same_bytes(&self.setup.database(), &out)
    }

    fn flush(&self) -> Result<verneuil_integration::process::Finished> {
        self.setup
            .ctl_with(&self.both, &["flush", utf8(&self.setup.spool())?])
    }
}

fn commit(source: &mut Session, workload: &mut Workload, transactions: u64) -> Result<()> {
    for _ in 0..transactions {
        source.run(&workload.step())?;
    }
    Ok(())
}

/// How long the last commit of `database` takes to be in the directory store.
fn arrival(manifest: &Path, database: &Path) -> Result<Duration> {
    let begin = Instant::now();
    let mut counter = [0; 4];
    std::fs::File::open(database)?.read_exact_at(&mut counter, CHANGE_COUNTER)?;
    let counter = u32::from_be_bytes(counter);
    loop {
        // It is not there before the first publication.
        if let Ok(bytes) = std::fs::read(manifest)
            && Manifest::decode(&bytes)?.source().change_counter == counter
        {
            return Ok(begin.elapsed());
        }
        ensure!(
            begin.elapsed() < ARRIVAL_LIMIT,
            "commit {counter} of {} has not arrived at the healthy target after {ARRIVAL_LIMIT:?}",
            database.display()
        );
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn median_and_max(mut times: Vec<Duration>) -> Result<(Duration, Duration)> {
    times.sort_unstable();
    Ok((
        *times.get(times.len() / 2).context("no times")?,
        *times.last().context("no times")?,
    ))
}

/// Two databases take turns: one has the healthy target alone, the other the faulty one too.
fn never_later(fault: &str, break_it: impl Fn(&Proxy)) -> Result<()> {
    let _limit = watchdog::limit("never_later", 200);
    let two = Two::new(Kind::S3, true)?;
    let setup = &two.setup;
    let alone = setup.path("source/alone.db");
    let mut alone_config = two.only_directory.clone();
    alone_config["replication_spooling_dir"] = json!(setup.path("spool-alone"));
    let mut with_one = Session::open(
        Program::Python,
        &Opening {
            uri: &setup.uri(&alone),
            load: true,
            env: &setup.env_with(&alone_config),
        },
    )?;
    let mut with_two = two.writer()?;
    let manifest = |database: &Path| two.directory.join(setup.manifest_key(database));
    let (alone_manifest, both_manifest) = (manifest(&alone), manifest(&setup.database()));
    for session in [&mut with_one, &mut with_two] {
        session.run(&[
            "CREATE TABLE t(x)",
            "INSERT INTO t VALUES(randomblob(3000))",
        ])?;
    }
    ensure!(with_two.row("PRAGMA verneuil_flush_replication_data")? == "1");

    for is_broken in [false, true] {
        if is_broken {
            break_it(two.proxy()?);
        }
        let (mut times_one, mut times_two) = (Vec::new(), Vec::new());
        for _ in 0..TIMED {
            for (session, manifest, database, times) in [
                (&mut with_one, &alone_manifest, &alone, &mut times_one),
                (
                    &mut with_two,
                    &both_manifest,
                    &setup.database(),
                    &mut times_two,
                ),
            ] {
                session.run(&["UPDATE t SET x=randomblob(3000)"])?;
                times.push(arrival(manifest, database)?);
                // Longer than the interval between manifests, so that each goes out at once.
                std::thread::sleep(Duration::from_millis(30));
            }
        }
        let (median_one, max_one) = median_and_max(times_one)?;
        let (median_two, max_two) = median_and_max(times_two)?;
        eprintln!(
            "{fault}, broken: {is_broken}: alone {median_one:?} (at most {max_one:?}), beside the other target {median_two:?} (at most {max_two:?})"
        );
        ensure!(
            median_two <= median_one * 2 + MEDIAN_SLACK,
            "{fault}, broken: {is_broken}: half of the commits arrive after {median_two:?}, and after {median_one:?} without the other target"
        );
        ensure!(
            max_two <= max_one * 2 + MAX_SLACK,
            "{fault}, broken: {is_broken}: a commit arrived after {max_two:?}, and after {max_one:?} at most without the other target"
        );
    }
    two.proxy()?.mend();
    with_one.close()?;
    with_two.close().map(drop)
}

#[test]
fn a_target_whose_line_is_cut_never_delays_the_other() -> Result<()> {
    never_later("cut", Proxy::cut)
}

#[test]
fn a_target_that_never_answers_never_delays_the_other() -> Result<()> {
    never_later("hanging", Proxy::hang)
}

#[test]
fn a_flush_names_the_target_that_is_away_and_succeeds_once_it_is_back() -> Result<()> {
    let _limit = watchdog::limit("one_away", 300);
    for own_first in [true, false] {
        let two = Two::new(Kind::S3, own_first)?;
        let proxy = two.proxy()?;
        let mut workload = Workload::new(61, WorkloadOptions::default());
        let mut source = two.writer()?;
        commit(&mut source, &mut workload, 10)?;
        two.flush()?.ok()?;
        two.holds(&two.only_own)?;
        two.holds(&two.only_directory)?;
        proxy.cut();
        commit(&mut source, &mut workload, 30)?;
        let said = two.flush()?.expect_failure()?;
        let endpoint = proxy.address().to_string();
        ensure!(
            said.contains(&endpoint),
            "the flush does not name {endpoint}: {said}"
        );
        ensure!(
            !said.contains(utf8(&two.directory)?),
            "the flush blames the healthy target: {said}"
        );
        two.holds(&two.only_directory)
            .context("the healthy target after the flush")?;
        proxy.mend();
        // First by itself, then by a flush.
        commit(&mut source, &mut workload, 5)?;
        until("it catches up", Duration::from_secs(90), || {
            two.holds(&two.only_own)
        })?;
        proxy.cut();
        commit(&mut source, &mut workload, 5)?;
        proxy.mend();
        two.flush()?.ok().context("the target is back")?;
        two.holds(&two.only_own)?;
        two.holds(&two.only_directory)?;
        source.close()?;
    }
    Ok(())
}

#[test]
fn the_flush_pragma_names_the_target_that_is_away() -> Result<()> {
    let _limit = watchdog::limit("pragma_away", 200);
    let two = Two::new(Kind::S3, false)?;
    let mut workload = Workload::new(62, WorkloadOptions::default());
    let mut source = two.writer()?;
    commit(&mut source, &mut workload, 5)?;
    two.proxy()?.cut();
    commit(&mut source, &mut workload, 5)?;
    let Err(error) = source.row("PRAGMA verneuil_flush_replication_data") else {
        bail!("the pragma said success although one target lacks data")
    };
    let (text, endpoint) = (format!("{error:#}"), two.proxy()?.address().to_string());
    ensure!(text.contains(&endpoint), "no {endpoint} in {text}");
    two.holds(&two.only_directory)?;
    two.proxy()?.mend();
    // The next process finds in the spool what the target lacks.
    let mut source = two.writer()?;
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    two.holds(&two.only_own)?;
    source.close().map(drop)
}

#[test]
fn a_target_that_is_gone_for_good_costs_the_other_nothing_and_the_spool_stays_bounded() -> Result<()>
{
    let _limit = watchdog::limit("gone", 200);
    let mut two = Two::new(Kind::Directory, true)?;
    let gone = two.setup.path("gone");
    std::fs::write(&gone, "not a directory\n")?;
    two.both["replication_targets"] =
        json!([{"directory": {"path": gone}}, {"directory": {"path": two.directory}}]);
    let mut workload = Workload::new(63, WorkloadOptions::default());
    for _ in 0..3 {
        let mut source = two.writer()?;
        for _ in 0..10 {
            commit(&mut source, &mut workload, 20)?;
            let database_bytes = std::fs::metadata(two.setup.database())?.len();
            let spool_bytes = used_bytes(&two.setup.spool());
            ensure!(
                spool_bytes <= 4 * database_bytes + (16 << 20),
                "{spool_bytes} bytes of spool beside a database of {database_bytes}"
            );
        }
        until("the healthy target has it all", ARRIVAL_LIMIT, || {
            two.holds(&two.only_directory)
        })?;
        let said = two.flush()?.expect_failure()?;
        ensure!(
            said.contains(utf8(&gone)?) && !said.contains(utf8(&two.directory)?),
            "the flush does not name {}: {said}",
            gone.display()
        );
        source.close()?;
    }
    // Taken out of the configuration, it is nobody's trouble any more.
    let mut source = session_with(&two.setup, &two.only_directory, Program::Python)?;
    commit(&mut source, &mut workload, 1)?;
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    source.close()?;
    two.setup
        .ctl_with(&two.only_directory, &["flush", utf8(&two.setup.spool())?])?
        .ok()?;
    two.holds(&two.only_directory)
}

#[test]
fn every_version_of_each_target_is_a_committed_state_while_they_come_and_go() -> Result<()> {
    const ROUNDS: usize = 8;
    let _limit = watchdog::limit("come_and_go", 300);
    let two = Two::new(Kind::Directory, true)?;
    let Target::Directory(own) = two.setup.target() else {
        bail!("a directory store was asked for")
    };
    let key = two.setup.manifest_key(&two.setup.database());
    let watch_own = Watch::start(&own.join(&key))?;
    let watch_directory = Watch::start(&two.directory.join(&key))?;
    let mut workload = Workload::new(64, WorkloadOptions::default());
    let mut source = two.writer()?;
    for round in 0..ROUNDS {
        commit(&mut source, &mut workload, 15)?;
        let root = if round % 2 == 0 { own } else { &two.directory };
        let away = DirectoryAway::take(root)?;
        commit(&mut source, &mut workload, 30)?;
        if round % 3 == 2 {
            // What each target lacks survives the process.
            source.kill();
            source = two.writer()?;
            commit(&mut source, &mut workload, 5)?;
        }
        drop(away);
        if round % 2 == 1 {
            commit(&mut source, &mut workload, 15)?;
        }
        until("both have it all", Duration::from_secs(60), || {
            two.holds(&two.only_own)?;
            two.holds(&two.only_directory)
        })
        .with_context(|| format!("round {round}"))?;
    }
    two.flush()?.ok()?;
    source.close()?;
    for (config, watch) in [
        (&two.only_own, watch_own),
        (&two.only_directory, watch_directory),
    ] {
        let shown = every_version_of(&two.setup, config, watch, check_state)?;
        ensure!(shown.last == workload.committed(), "{shown:?}");
        ensure!(
            // At least one for each round: each target was shown whole at its end.
            shown.versions >= ROUNDS,
            "only {} versions",
            shown.versions
        );
    }
    Ok(())
}
