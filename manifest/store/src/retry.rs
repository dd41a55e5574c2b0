//! Attempts, backoff and time limits, the same for every backend; called by `Store`, takes a token
//! from its `Pacer` for each attempt.

use crate::{ErrorKind, Operation, Pacer, StoreError};
use std::sync::Mutex;
use std::time::Duration;

/// The first wait is at most this, each further one at most twice the one before.
const BACKOFF_FIRST_MS: u64 = 100;
/// No wait is longer: six attempts then span half a minute, a store's restart.
const BACKOFF_MAX_MS: u64 = 10_000;
/// A directory answers or is broken; this is for a network file system whose server restarts.
const DIRECTORY_TIMEOUT_MS: u64 = 120_000;
/// One repetition covers what is transient on a local disk (a directory removed under our feet).
const DIRECTORY_ATTEMPTS_MAX: u32 = 3;

/// How often and how long a request is tried.
#[derive(Debug)]
pub(crate) struct Retry {
    attempt_timeout: Duration,
    attempts_max: u32,
    backoff_first_ms: u64,
    rng: Mutex<fastrand::Rng>,
}

impl Retry {
    pub(crate) fn for_s3(request_timeout_ms: u64, attempts_max: u32) -> Self {
        Self::new(
            request_timeout_ms,
            attempts_max,
            BACKOFF_FIRST_MS,
            fastrand::Rng::new(),
        )
    }

    pub(crate) fn for_directory() -> Self {
        Self::new(
            DIRECTORY_TIMEOUT_MS,
            DIRECTORY_ATTEMPTS_MAX,
            BACKOFF_FIRST_MS,
            fastrand::Rng::new(),
        )
    }

    fn new(
        attempt_timeout_ms: u64,
        attempts_max: u32,
        backoff_first_ms: u64,
        rng: fastrand::Rng,
    ) -> Self {
        Self {
            attempt_timeout: Duration::from_millis(attempt_timeout_ms.max(1)),
            attempts_max: attempts_max.max(1),
            backoff_first_ms,
            rng: Mutex::new(rng),
        }
    }

    /// Full jitter: anything between nothing and the doubled limit, so that the clients of a store
    /// that comes back do not come back together.
    fn backoff(&self, failed_attempts: u32) -> Duration {
        let doublings = failed_attempts.saturating_sub(1).min(16);
        let limit_ms = (self.backoff_first_ms << doublings).min(BACKOFF_MAX_MS);
        let mut rng = self.rng.lock().unwrap_or_else(|poison| poison.into_inner());
        Duration::from_millis(rng.u64(..=limit_ms))
    }

    /// Runs `attempt` until it succeeds, fails for good, or has been tried often enough. The time
    /// limit covers the whole attempt, so a body that stalls half way ends it too.
    pub(crate) async fn run<T, F, Fut>(
        &self,
        pacer: &Pacer,
        operation: Operation,
        name: impl Fn() -> String,
        attempt: F,
    ) -> Result<T, StoreError>
    where
        F: Fn() -> Fut,
        Fut: Future<Output = Result<T, StoreError>>,
    {
        let mut attempts = 0;
        loop {
            pacer.acquire().await;
            attempts += 1;
            let timed = tokio::time::timeout(self.attempt_timeout, attempt()).await;
            let mut error = match timed {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => StoreError::new(
                    ErrorKind::TimedOut,
                    operation,
                    name(),
                    format!(
                        "no complete answer within {} ms",
                        self.attempt_timeout.as_millis()
                    ),
                ),
            };
            error.attempts = attempts;
            if attempts >= self.attempts_max || !error.is_retryable() {
                return Err(error);
            }
            let backoff = self.backoff(attempts);
            tracing::debug!(%error, attempts, backoff_ms = backoff.as_millis() as u64, "retrying");
            tokio::time::sleep(backoff).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    fn failing(kind: ErrorKind) -> StoreError {
        StoreError::new(kind, Operation::Get, "s3://b/k", "because")
    }

    async fn run_counting(retry: &Retry, pacer: &Pacer, kind: ErrorKind) -> (u32, StoreError) {
        let calls = AtomicU32::new(0);
        let result: Result<(), _> = retry
            .run(pacer, Operation::Get, String::new, || {
                calls.fetch_add(1, Ordering::Relaxed);
                async move { Err(failing(kind)) }
            })
            .await;
        (calls.load(Ordering::Relaxed), result.unwrap_err())
    }

    #[tokio::test]
    async fn every_attempt_takes_a_token_and_attempts_are_bounded() {
        let retry = Retry::new(1_000, 6, 1, fastrand::Rng::with_seed(1));
        let pacer = Pacer::new(1_000.0, 100);
        let (calls, error) = run_counting(&retry, &pacer, ErrorKind::Unavailable).await;
        assert_eq!((calls, error.attempts, pacer.admitted()), (6, 6, 6));
        assert!(error.to_string().contains("after 6 attempts"), "{error}");
    }

    #[tokio::test]
    async fn what_cannot_succeed_is_tried_once() {
        let retry = Retry::new(1_000, 6, 1, fastrand::Rng::with_seed(1));
        for kind in [
            ErrorKind::NotFound,
            ErrorKind::StoreMissing,
            ErrorKind::PreconditionFailed,
            ErrorKind::Denied,
            ErrorKind::BadRequest,
        ] {
            let pacer = Pacer::new(1_000.0, 100);
            assert_eq!(run_counting(&retry, &pacer, kind).await.0, 1, "{kind:?}");
        }
    }

    #[tokio::test]
    async fn an_attempt_that_hangs_is_timed_out() {
        let retry = Retry::new(50, 2, 1, fastrand::Rng::with_seed(1));
        let pacer = Pacer::new(1_000.0, 100);
        let start = std::time::Instant::now();
        let result: Result<(), _> = retry
            .run(
                &pacer,
                Operation::Put,
                || "s3://b/k".into(),
                std::future::pending,
            )
            .await;
        let error = result.unwrap_err();
        assert_eq!(error.kind, ErrorKind::TimedOut);
        assert_eq!((error.attempts, pacer.admitted()), (2, 2));
        assert!((100..1_000).contains(&start.elapsed().as_millis()));
    }

    #[test]
    fn backoff_grows_to_its_limit_and_uses_the_whole_range() {
        let retry = Retry::new(1_000, 6, BACKOFF_FIRST_MS, fastrand::Rng::with_seed(1));
        let longest = |attempt| (0..200).map(|_| retry.backoff(attempt)).max().unwrap();
        let shortest = |attempt| (0..200).map(|_| retry.backoff(attempt)).min().unwrap();
        assert!(longest(1) <= Duration::from_millis(BACKOFF_FIRST_MS));
        assert!(longest(40) <= Duration::from_millis(BACKOFF_MAX_MS));
        assert!(longest(8) > Duration::from_millis(BACKOFF_MAX_MS * 3 / 4));
        assert!(shortest(8) < Duration::from_millis(BACKOFF_MAX_MS / 4));
    }
}
