//! The limit on requests per second, shared by everything in a process that uses one target; a
//! `Store` takes a token from it before each attempt of each request.
//!
//! It is the generic cell rate algorithm: `full_at` is the moment at which the bucket would be full
//! again, each admission moves it by one interval, and nobody is admitted while it lies more than
//! `burst - 1` intervals ahead. So n admissions within t satisfy (n - burst) · interval ≤ t, that is
//! n ≤ rate·t + burst, in every window. The wait happens under a fair lock and the admission is
//! dated *after* it: reserving a slot and sleeping would let late timers bunch admissions up.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep_until};

/// Slowest configurable rate: one request in a thousand seconds.
const REQUESTS_PER_SECOND_MIN: f64 = 0.001;

/// A limit: at most `requests_per_second`·t + `burst` admissions in every window of t seconds,
/// first come first served.
#[derive(Debug)]
pub struct Pacer {
    interval: Duration,
    tolerance: Duration,
    full_at: Mutex<Option<Instant>>,
    admitted: AtomicU64,
}

impl Pacer {
    /// A full bucket. A rate below 0.001 or not a number counts as 0.001, a burst of 0 as 1.
    pub fn new(requests_per_second: f64, burst: u32) -> Self {
        let rate = if requests_per_second >= REQUESTS_PER_SECOND_MIN {
            requests_per_second
        } else {
            REQUESTS_PER_SECOND_MIN
        };
        // Rounded up, so that rounding can only slow down.
        let interval = Duration::from_nanos((1e9 / rate).ceil() as u64);
        Self {
            interval,
            tolerance: interval.saturating_mul(burst.max(1) - 1),
            full_at: Mutex::new(None),
            admitted: AtomicU64::new(0),
        }
    }

    /// Waits for a token and takes it. Dropping the future takes none. Needs tokio's timer.
    pub async fn acquire(&self) {
        let mut full_at = self.full_at.lock().await;
        let mut now = Instant::now();
        if let Some(admit_at) = full_at.and_then(|at| at.checked_sub(self.tolerance))
            && admit_at > now
        {
            sleep_until(admit_at).await;
            now = Instant::now();
        }
        *full_at = Some(full_at.map_or(now, |at| at.max(now)) + self.interval);
        self.admitted.fetch_add(1, Ordering::Relaxed);
    }

    /// Requests admitted so far.
    pub fn admitted(&self) -> u64 {
        self.admitted.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    /// The most admissions in any window of `window`, minus what rate and burst allow.
    fn assert_every_window_holds(times: &[Instant], rate: f64, burst: u32) {
        for (first, start) in times.iter().enumerate() {
            for (last, end) in times.iter().enumerate().skip(first) {
                let count = (last - first + 1) as f64;
                let allowed = rate * (*end - *start).as_secs_f64() + f64::from(burst);
                assert!(
                    count <= allowed + 1e-6,
                    "{count} admissions, {allowed} allowed"
                );
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn every_window_admits_at_most_rate_times_t_plus_burst() {
        let (rate, burst) = (30.0, 100);
        let pacer = Pacer::new(rate, burst);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut times = Vec::new();
        for _ in 0..600 {
            // Idle stretches refill the bucket; back-to-back stretches drain it.
            if rng.u32(..40) == 0 {
                tokio::time::sleep(Duration::from_millis(rng.u64(..9_000))).await;
            }
            pacer.acquire().await;
            times.push(Instant::now());
        }
        assert_every_window_holds(&times, rate, burst);
        assert_eq!(pacer.admitted(), 600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_stream_gets_the_whole_rate() {
        let pacer = Pacer::new(30.0, 100);
        let start = Instant::now();
        for _ in 0..1_000 {
            pacer.acquire().await;
        }
        // 100 at once, then 900 at 30/s; timers have a granularity of 1 ms.
        let seconds = start.elapsed().as_secs_f64();
        assert!((29.9..31.0).contains(&seconds), "{seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_are_served_in_the_order_in_which_they_came() {
        let pacer = Arc::new(Pacer::new(10.0, 1));
        let served = Arc::new(std::sync::Mutex::new(Vec::new()));
        let mut tasks = Vec::new();
        for number in 0..20 {
            let (pacer, served) = (pacer.clone(), served.clone());
            tasks.push(tokio::spawn(async move {
                pacer.acquire().await;
                served.lock().unwrap().push(number);
            }));
            tokio::task::yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*served.lock().unwrap(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_gives_up_takes_no_token() {
        let pacer = Pacer::new(1.0, 1);
        pacer.acquire().await;
        let waited = tokio::time::timeout(Duration::from_millis(100), pacer.acquire()).await;
        assert!(waited.is_err());
        assert_eq!(pacer.admitted(), 1);
        let start = Instant::now();
        pacer.acquire().await;
        assert!(start.elapsed() <= Duration::from_millis(901));
    }
}
