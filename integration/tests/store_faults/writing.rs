//! One request of the copier's meets a fault: the application must not notice, nobody may claim success, and all arrives when
//! the fault has ended.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use verneuil_integration::front::{Fault, Operation, Request, Rule};
use verneuil_integration::process::until;
use verneuil_integration::seaweed::Seaweed;

use crate::site::{ATTEMPTS_MAX, RATE, SILENCE_MS, Site};
use crate::table::Arrangement;
use crate::words::names_the_cause;

/// How long the background is left alone with the fault.
const WINDOW: Duration = Duration::from_secs(3);
/// The shortest pause of the background after its first failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(500);
/// How often one publication sends the same kind of request: two packs at most, and a write is repeated after the making of a bucket.
const SAME_REQUESTS_MAX: usize = 4;
/// Requests of a command beside those that its attempts repeat.
const COMMAND_REQUESTS_MAX: usize = 20;
/// How long a healthy target may take on a busy machine: the other one misbehaves for all that time.
const HEALTHY_LIMIT: Duration = Duration::from_secs(30);
/// How soon the background notes that a request has failed.
const NOTED_LIMIT: Duration = Duration::from_secs(30);
/// A store that has come back is noticed after the pause of a backoff, 8 s by then.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(60);

pub fn run(
    server: &Seaweed,
    number: usize,
    operation: Operation,
    fault: Fault,
    arrangement: Arrangement,
) -> Result<()> {
    let mut site = Site::new(server, number, fault, arrangement)?;
    let is_first = arrangement.is_bucketless() || operation == Operation::PutFirstManifest;
    if !is_first {
        // What there is has been published by an application that is gone: the next one reads the manifest.
        let mut before = site.application()?;
        site.commit(&mut before, true)?;
        ensure!(before.row("PRAGMA verneuil_flush_replication_data")? == "1");
        before.close()?;
    }
    site.fronts[0].play(Rule::on(operation, fault));
    let begun = Instant::now();
    let requests_before = site.fronts[0].requests().len();
    let mut source = site.application()?;
    // 1. The application's commits succeed at once.
    let mut times = Vec::new();
    for is_large in [true, false, false, true, false] {
        let took = site
            .commit(&mut source, is_large)
            .context("a commit while the store misbehaves")?;
        times.push(took);
    }
    times.sort_unstable();
    // One that waits for a silent store waits for at least so long.
    ensure!(
        times[0] < Duration::from_millis(SILENCE_MS / 2),
        "all commits waited: {times:?}"
    );
    for healthy in 1..site.fronts.len() {
        until("the healthy target has all", HEALTHY_LIMIT, || {
            site.has_all(healthy)
        })?;
    }
    // 3. Retries are paced.
    std::thread::sleep(WINDOW.saturating_sub(begun.elapsed()));
    is_paced(&site, requests_before, begun.elapsed())?;
    until("the background has noted it", NOTED_LIMIT, || {
        let is_struck = |request: &Request| request.is_struck;
        let requests = site.fronts[0].requests();
        ensure!(requests.iter().any(is_struck), "no such request was sent");
        let status = site.status()?;
        let is_done = |target: &Value| target["up_to_date"] == true;
        let (struck, healthy) = status["targets"]
            .as_array()
            .and_then(|targets| targets.split_first())
            .context("no target")?;
        // Some faults are got over at the second try. What has arrived is noted a moment later.
        let is_over = is_done(struck) && site.has_all(0).is_ok();
        ensure!(is_over || !struck["error"].is_null(), "{status}");
        ensure!(healthy.iter().all(is_done), "{status}");
        Ok(())
    })?;
    // 2. Nobody claims success, and everybody names the cause.
    let all_before = site.fronts[0].requests().len();
    let commands_begun = Instant::now();
    let claims = claims(&site);
    let sent = site.fronts[0].requests().len() - all_before;
    let bound = background_max(commands_begun.elapsed()) + claims.len() * COMMAND_REQUESTS_MAX;
    ensure!(
        sent <= bound,
        "{sent} requests for {} commands",
        claims.len()
    );
    let endpoint = site.fronts[0].address().to_string();
    let mut is_stored = site.has_all(0).is_ok();
    for (name, claim) in &claims {
        match claim {
            Ok(()) => {
                site.has_all(0)
                    .with_context(|| format!("{name} claims success"))?;
                is_stored = true;
            }
            Err(said) => {
                names_the_cause(said, operation, fault, &endpoint)
                    .with_context(|| format!("what {name} says"))?;
                for healthy in &site.fronts[1..] {
                    let other = healthy.address().to_string();
                    ensure!(!said.contains(&other), "{name} blames {other}: {said}");
                    ensure!(said.contains("1 of 2 targets"), "{name}: {said}");
                }
            }
        }
    }
    let said = source.row("PRAGMA verneuil_status")?;
    let told: Value = serde_json::from_str(&said).context(said)?;
    for (name, status) in [("pragma", &told), ("verneuilctl", &site.status()?)] {
        shows(status, is_stored, (operation, fault), &endpoint)
            .with_context(|| format!("status of {name}: {status}"))?;
    }
    // 4. All arrives, without any help.
    site.fronts[0].mend()?;
    let mended = Instant::now();
    until("all has arrived", ARRIVAL_LIMIT, || site.has_all(0))?;
    let after = mended.elapsed();
    site.flush().context("a flush after the fault")?;
    let status = site.status()?;
    for index in 0..site.fronts.len() {
        site.has_all(index)?;
        site.restored_equals_source(index)?;
        let target = &status["targets"][index];
        ensure!(
            target["up_to_date"] == true && target["error"].is_null(),
            "after the fault: {target}"
        );
    }
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    site.has_only_committed_states()?;
    eprintln!("arrived {after:.1?} after the fault");
    source.close()?;
    site.forget_own_buckets(server)
}

/// The most that the background may send in a time.
fn background_max(time: Duration) -> usize {
    RATE as usize * (time.as_secs() as usize + 1) + RATE as usize
}

/// How many publications the background may begin in a time.
fn tries_max(time: Duration) -> usize {
    let (mut tries, mut begins, mut pause) = (0, Duration::ZERO, PAUSE_MIN);
    while begins <= time {
        tries += 1;
        begins += pause;
        pause *= 2;
    }
    tries
}

fn is_paced(site: &Site, before: usize, time: Duration) -> Result<()> {
    let requests = site.fronts[0].requests();
    let sent = &requests[before..];
    let lines = || sent.iter().map(|request| &request.line).collect::<Vec<_>>();
    let struck = sent.iter().filter(|request| request.is_struck).count();
    let bound = ATTEMPTS_MAX * SAME_REQUESTS_MAX * tries_max(time);
    ensure!(
        struck <= bound,
        "{struck} attempts in {time:?}, of {bound}: {:#?}",
        lines()
    );
    let bound = background_max(time);
    ensure!(
        sent.len() <= bound,
        "{} requests in {time:?}, of {bound}: {:#?}",
        sent.len(),
        lines()
    );
    Ok(())
}

/// What everybody who can be asked says, all at the same time.
fn claims(site: &Site) -> Vec<(&'static str, Result<(), String>)> {
    let is_one = |said: String| {
        ensure!(said == "1", "the pragma gave {said:?}");
        Ok(())
    };
    std::thread::scope(|scope| {
        let asked = [
            ("flush", scope.spawn(|| site.flush())),
            ("sync", scope.spawn(|| site.sync())),
            (
                "the pragma",
                scope.spawn(move || {
                    site.pragma("verneuil_flush_replication_data")
                        .and_then(is_one)
                }),
            ),
            (
                "the wait",
                scope.spawn(move || site.pragma("verneuil_wait=500").and_then(is_one)),
            ),
        ];
        asked
            .into_iter()
            .map(|(name, thread)| {
                let claim = thread
                    .join()
                    .map_err(|_| "it panicked".to_owned())
                    .and_then(|claim| claim.map_err(|error| format!("{error:#}")));
                (name, claim)
            })
            .collect()
    })
}

/// Whether a status shows what is the matter.
fn shows(
    status: &Value,
    is_stored: bool,
    (operation, fault): (Operation, Fault),
    endpoint: &str,
) -> Result<()> {
    let target = &status["targets"][0];
    let name = target["target"].as_str().unwrap_or_default();
    ensure!(name.contains(endpoint), "the first target is {name:?}");
    for healthy in status["targets"].as_array().into_iter().flatten().skip(1) {
        ensure!(
            healthy["up_to_date"] == true && healthy["error"].is_null(),
            "the healthy target: {healthy}"
        );
    }
    if is_stored {
        return Ok(());
    }
    ensure!(target["up_to_date"] == false, "it is said to be up to date");
    for error in [&target["error"], &status["last_error"]] {
        let said = error.as_str().unwrap_or_default();
        names_the_cause(said, operation, fault, endpoint)?;
    }
    Ok(())
}
