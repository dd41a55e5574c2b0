//! One suite for both kinds of store, and what only S3 can get wrong: credentials, buckets, time limits, pacing. S3 is a
//! real SeaweedFS.
//!
//! Credentials reach the SDK through the environment, and a test can't change its own safely: each S3 test starts a server
//! and runs itself again as a child that has them.
#![allow(clippy::panic, clippy::unwrap_used)] // helpers of tests are not seen as tests

mod suite;

use anyhow::{Context, Result};
use bytes::Bytes;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};
use verneuil_config::{DirectoryConfig, S3Config, TargetConfig};
use verneuil_integration::front::{Fault, Front, Operation, Rule};
use verneuil_integration::process::{run, tied};
use verneuil_integration::seaweed::{Seaweed, credentials};
use verneuil_store::{Condition, ErrorKind, GetOptions, Pacer, Space, Store};

/// Tells the child where the server is.
const ADDRESS_VARIABLE: &str = "VERNEUIL_TEST_S3_ADDRESS";
/// A child that takes longer hangs.
const CHILD_LIMIT: Duration = Duration::from_secs(180);

/// Runs `test` in a child that has these credentials, beside a server of its own.
fn beside_seaweedfs(
    name: &str,
    environment: Vec<(String, String)>,
    test: impl AsyncFnOnce(SocketAddr) -> Result<()>,
) -> Result<()> {
    if let Ok(address) = std::env::var(ADDRESS_VARIABLE) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        return runtime.block_on(test(address.parse()?));
    }
    let server = Seaweed::start()?;
    let mut child = tied(std::env::current_exe()?);
    child.args([name, "--exact", "--nocapture"]);
    child.envs(environment);
    child.env(ADDRESS_VARIABLE, server.address().to_string());
    let ended = run(&mut child, CHILD_LIMIT)?.ok();
    ended.with_context(|| format!("the server's log ends:\n{}", server.log_tail()))?;
    Ok(())
}

fn good_credentials() -> Vec<(String, String)> {
    use verneuil_integration::seaweed::{ACCESS_KEY, SECRET_KEY};
    credentials(ACCESS_KEY, SECRET_KEY)
}

fn config(endpoint: String) -> S3Config {
    let mut config = S3Config::new("us-east-1", "packs-of-test", "manifests-of-test");
    config.endpoint = Some(endpoint);
    config.create_buckets_on_demand = true;
    config
}

fn unpaced() -> Arc<Pacer> {
    Arc::new(Pacer::new(1_000_000.0, 1_000_000))
}

async fn open(config: &S3Config, pacer: &Arc<Pacer>) -> Result<Store> {
    Ok(Store::open(&TargetConfig::S3(config.clone()), pacer.clone()).await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_store_conforms() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let target = TargetConfig::Directory(DirectoryConfig { path });
    suite::run(&Store::open(&target, unpaced()).await.unwrap()).await;
}

#[test]
fn s3_store_conforms_on_seaweedfs() -> Result<()> {
    beside_seaweedfs(
        "s3_store_conforms_on_seaweedfs",
        good_credentials(),
        async |server| {
            let store = open(&config(format!("http://{server}")), &unpaced()).await?;
            // The buckets do not exist yet.
            let missing = store
                .get(Space::Manifests, "k", GetOptions::default())
                .await;
            assert_eq!(missing.unwrap_err().kind, ErrorKind::NotFound);
            let missing = store.list(Space::Manifests, "", false, None).await;
            assert_eq!(missing.unwrap_err().kind, ErrorKind::StoreMissing);
            suite::run(&store).await;
            Ok(())
        },
    )
}

#[test]
fn a_prefix_comes_before_every_key_and_is_not_seen() -> Result<()> {
    beside_seaweedfs(
        "a_prefix_comes_before_every_key_and_is_not_seen",
        good_credentials(),
        async |server| {
            let plain = config(format!("http://{server}"));
            let mut prefixed = plain.clone();
            prefixed.prefix = "back/ups/".to_owned();
            let plain = open(&plain, &unpaced()).await?;
            let prefixed = open(&prefixed, &unpaced()).await?;
            suite::put(&prefixed, "a/k", b"1").await;
            suite::put(&plain, "a/other", b"1").await;
            assert_eq!(plain.head(Space::Manifests, "back/ups/a/k").await?.len, 1);
            let page = prefixed.list(Space::Manifests, "", false, None).await?;
            let keys: Vec<_> = page.objects.iter().map(|listed| &listed.key).collect();
            assert_eq!(keys, ["a/k"]);
            let page = prefixed.list(Space::Manifests, "", true, None).await?;
            assert_eq!(page.prefixes, ["a/"]);
            Ok(())
        },
    )
}

#[test]
fn a_missing_bucket_is_created_only_on_demand() -> Result<()> {
    beside_seaweedfs(
        "a_missing_bucket_is_created_only_on_demand",
        good_credentials(),
        async |server| {
            let mut config = config(format!("http://{server}"));
            config.create_buckets_on_demand = false;
            let store = open(&config, &unpaced()).await?;
            let put = store
                .put(Space::Chunks, "k", Bytes::new(), Condition::None)
                .await;
            let error = put.unwrap_err();
            assert_eq!(error.kind, ErrorKind::StoreMissing, "{error}");
            assert!(
                error.to_string().contains("create_buckets_on_demand"),
                "{error}"
            );
            let get = store.get(Space::Chunks, "k", GetOptions::default()).await;
            assert_eq!(get.unwrap_err().kind, ErrorKind::StoreMissing);

            config.create_buckets_on_demand = true;
            let pacer = unpaced();
            let store = open(&config, &pacer).await?;
            store
                .put(Space::Chunks, "k", Bytes::new(), Condition::Absent)
                .await?;
            assert_eq!(
                pacer.admitted(),
                3,
                "the refused write, the bucket, the write"
            );
            store
                .put(Space::Chunks, "l", Bytes::new(), Condition::Absent)
                .await?;
            assert_eq!(pacer.admitted(), 4);
            Ok(())
        },
    )
}

#[test]
fn wrong_credentials_are_denied_and_the_error_says_where_they_come_from() -> Result<()> {
    let mut environment = credentials("verneuil-test", "surely-not-the-password");
    environment.push(("RUST_BACKTRACE".to_owned(), "0".to_owned()));
    beside_seaweedfs(
        "wrong_credentials_are_denied_and_the_error_says_where_they_come_from",
        environment,
        async |server| {
            let pacer = unpaced();
            let store = open(&config(format!("http://{server}")), &pacer).await?;
            let put = store
                .put(Space::Chunks, "k", Bytes::new(), Condition::None)
                .await;
            let get = store.get(Space::Chunks, "k", GetOptions::default()).await;
            let list = store.list(Space::Chunks, "", true, None).await;
            let head = store.head(Space::Chunks, "k").await;
            for error in [
                put.unwrap_err(),
                get.unwrap_err(),
                list.unwrap_err(),
                head.unwrap_err(),
            ] {
                let text = error.to_string();
                assert_eq!(error.kind, ErrorKind::Denied, "{text}");
                assert!(text.contains("AWS_ACCESS_KEY_ID"), "{text}");
                assert!(text.contains("packs-of-test"), "{text}");
                assert!(!text.contains("surely-not"), "{text}");
            }
            assert_eq!(pacer.admitted(), 4, "what is denied is not tried again");
            Ok(())
        },
    )
}

#[test]
fn missing_credentials_are_denied_before_anything_is_sent() -> Result<()> {
    let mut environment = credentials("", "");
    environment.retain(|(name, _)| !name.contains("KEY"));
    beside_seaweedfs(
        "missing_credentials_are_denied_before_anything_is_sent",
        environment,
        async |server| {
            let front = Front::start(server)?;
            let store = open(&config(front.endpoint()), &unpaced()).await?;
            let head = store.head(Space::Chunks, "k").await;
            let error = head.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Denied, "{error}");
            assert!(error.to_string().contains("AWS_ACCESS_KEY_ID"), "{error}");
            assert_eq!(front.requests().len(), 0);
            Ok(())
        },
    )
}

#[test]
fn an_endpoint_that_cannot_be_reached_is_unavailable_within_the_time_limits() -> Result<()> {
    beside_seaweedfs(
        "an_endpoint_that_cannot_be_reached_is_unavailable_within_the_time_limits",
        good_credentials(),
        async |_| {
            // Nobody listens on the first; the second takes connections and says nothing.
            let closed = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
            let silent = TcpListener::bind("127.0.0.1:0")?;
            for (address, kind) in [
                (closed, ErrorKind::Unavailable),
                (silent.local_addr()?, ErrorKind::TimedOut),
            ] {
                let mut config = config(format!("http://{address}"));
                config.request_timeout_ms = 300;
                config.max_attempts = 3;
                let pacer = unpaced();
                let store = open(&config, &pacer).await?;
                let start = Instant::now();
                let error = store.head(Space::Chunks, "k").await.unwrap_err();
                let elapsed = start.elapsed();
                assert_eq!(error.kind, kind, "{error}");
                assert!(error.is_retryable());
                assert_eq!((error.attempts, pacer.admitted()), (3, 3), "{error}");
                assert!(error.to_string().contains(&address.to_string()), "{error}");
                assert!(elapsed < Duration::from_secs(3), "{elapsed:?}");
            }
            Ok(())
        },
    )
}

#[test]
fn a_body_that_stops_half_way_is_timed_out() -> Result<()> {
    beside_seaweedfs(
        "a_body_that_stops_half_way_is_timed_out",
        good_credentials(),
        async |server| {
            let front = Front::start(server)?;
            let mut config = config(front.endpoint());
            config.request_timeout_ms = 400;
            config.max_attempts = 2;
            let store = open(&config, &unpaced()).await?;
            suite::put(&store, "k", b"content").await;
            front.play(Rule::all(Fault::Stall));
            let start = Instant::now();
            let get = store
                .get(Space::Manifests, "k", GetOptions::default())
                .await;
            let error = get.unwrap_err();
            assert_eq!(error.kind, ErrorKind::TimedOut, "{error}");
            assert!(
                start.elapsed() < Duration::from_secs(3),
                "{:?}",
                start.elapsed()
            );
            front.mend()?;
            store
                .get(Space::Manifests, "k", GetOptions::default())
                .await?;
            Ok(())
        },
    )
}

#[test]
fn a_listing_that_is_cut_off_or_damaged_is_an_error() -> Result<()> {
    beside_seaweedfs(
        "a_listing_that_is_cut_off_or_damaged_is_an_error",
        good_credentials(),
        async |server| {
            let front = Front::start(server)?;
            let mut config = config(front.endpoint());
            config.max_attempts = 2;
            let store = open(&config, &unpaced()).await?;
            for key in ["a", "b", "c", "d"] {
                suite::put(&store, key, b"content").await;
            }
            for fault in [Fault::Shortened, Fault::Truncated, Fault::WrongBytes] {
                front.play(Rule::on(Operation::List, fault));
                let listed = store.list(Space::Manifests, "", false, None).await;
                let error = listed.unwrap_err();
                assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
                assert_eq!(error.attempts, 2, "{error}");
                // The next attempt is asked for all of it.
                front.play(Rule::on(Operation::List, fault).times(1));
                let page = store.list(Space::Manifests, "", false, None).await?;
                assert_eq!(page.objects.len(), 4);
            }
            Ok(())
        },
    )
}

#[test]
fn every_request_that_arrives_took_a_token_retries_and_listings_too() -> Result<()> {
    beside_seaweedfs(
        "every_request_that_arrives_took_a_token_retries_and_listings_too",
        good_credentials(),
        async |server| {
            let front = Front::start(server)?;
            let pacer = unpaced();
            let store = open(&config(front.endpoint()), &pacer).await?;
            let same = |what: &str| {
                assert_eq!(front.requests().len() as u64, pacer.admitted(), "{what}");
            };
            suite::put(&store, "k", b"content").await;
            same("a write that creates its bucket");
            for status in [500, 503] {
                front.play(Rule::all(Fault::Answer(status, "SlowDown")).times(3));
                let before = pacer.admitted();
                store.head(Space::Manifests, "k").await?;
                assert_eq!(pacer.admitted() - before, 4, "three refusals of {status}");
                same("retries");
            }
            front.play(Rule::all(Fault::Answer(503, "SlowDown")));
            let put = store
                .put(Space::Manifests, "k", Bytes::new(), Condition::None)
                .await;
            let error = put.unwrap_err();
            assert_eq!(
                (error.kind, error.attempts),
                (ErrorKind::Throttled, 6),
                "{error}"
            );
            same("an exhausted write");
            front.mend()?;
            for range in [0..3, 3..3, 100..200] {
                let options = GetOptions::range(range);
                store.get(Space::Manifests, "k", options).await?;
            }
            same("ranges");
            suite::put(&store, "l", b"").await;
            let first = store
                .list_at_most(Space::Manifests, "", false, None, 1)
                .await?;
            let second = store.list_at_most(Space::Manifests, "", false, first.next, 1);
            assert_eq!(second.await?.objects[0].key, "l");
            store.delete(Space::Manifests, "l").await?;
            same("listings and deletions");
            Ok(())
        },
    )
}

#[test]
fn the_server_sees_at_most_rate_times_t_plus_burst_in_every_window() -> Result<()> {
    beside_seaweedfs(
        "the_server_sees_at_most_rate_times_t_plus_burst_in_every_window",
        good_credentials(),
        async |server| {
            const RATE: f64 = 40.0;
            const BURST: u32 = 10;
            // A request may be late, and the next one not: that much the network can bunch up.
            const LATENESS: f64 = 0.05;
            let front = Front::start(server)?;
            suite::put(
                &open(&config(front.endpoint()), &unpaced()).await?,
                "k",
                b"x",
            )
            .await;
            let before = front.requests().len();
            let pacer = Arc::new(Pacer::new(RATE, BURST));
            let store = open(&config(front.endpoint()), &pacer).await?;
            let start = Instant::now();
            let readers = (0..8).map(|_| {
                let store = store.clone();
                tokio::spawn(async move {
                    for _ in 0..15 {
                        store.head(Space::Manifests, "k").await.unwrap();
                    }
                })
            });
            for reader in futures::future::join_all(readers).await {
                reader?;
            }
            let seconds = start.elapsed().as_secs_f64();
            let times: Vec<Instant> = front.requests()[before..]
                .iter()
                .map(|request| request.at)
                .collect();
            assert_eq!(times.len(), 120);
            // Eight readers and a writer; a reader that finds the pool empty for a moment adds one.
            let connections = front.connections();
            assert!(
                connections <= 24,
                "{connections} connections for 122 requests"
            );
            for (first, from) in times.iter().enumerate() {
                for (last, to) in times.iter().enumerate().skip(first) {
                    let window = (*to - *from).as_secs_f64() + LATENESS;
                    let allowed = RATE * window + f64::from(BURST);
                    let count = last - first + 1;
                    assert!(count as f64 <= allowed, "{count} in {window} s");
                }
            }
            // 110 after the burst, at 40 a second; the limit is also used.
            assert!((2.7..5.0).contains(&seconds), "{seconds} s");
            Ok(())
        },
    )
}

#[test]
fn a_store_that_goes_away_and_comes_back_still_has_what_it_acknowledged() -> Result<()> {
    beside_seaweedfs(
        "a_store_that_goes_away_and_comes_back_still_has_what_it_acknowledged",
        good_credentials(),
        async |_| {
            let mut server = Seaweed::start()?;
            let mut config = config(server.endpoint());
            config.max_attempts = 1;
            let store = open(&config, &unpaced()).await?;
            suite::put(&store, "k", b"content").await;
            server.stop()?;
            let error = store.head(Space::Manifests, "k").await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            server.start_again()?;
            assert_eq!(store.head(Space::Manifests, "k").await?.len, 7);
            Ok(())
        },
    )
}
