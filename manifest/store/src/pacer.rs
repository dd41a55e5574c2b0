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

/// The rule by itself; time is given to it.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    tolerance: Duration,
    full_at: Option<Instant>,
}

impl Bucket {
    fn new(requests_per_second: f64, burst: u32) -> Self {
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
            full_at: None,
        }
    }

    /// The earliest moment of the next admission; `None` is any.
    fn admits_at(&self) -> Option<Instant> {
        self.full_at?.checked_sub(self.tolerance)
    }

    /// Admits one, `now` being no earlier than `admits_at`.
    fn take(&mut self, now: Instant) {
        let full_at = self.full_at.map_or(now, |at| at.max(now));
        self.full_at = Some(full_at + self.interval);
    }
}

/// A limit: at most `requests_per_second`·t + `burst` admissions in every window of t seconds,
/// first come first served.
#[derive(Debug)]
pub struct Pacer {
    bucket: Mutex<Bucket>,
    admitted: AtomicU64,
    before_each: fn(),
}

impl Pacer {
    /// A full bucket. A rate below 0.001 or not a number counts as 0.001, a burst of 0 as 1.
    pub fn new(requests_per_second: f64, burst: u32) -> Self {
        Self {
            bucket: Mutex::new(Bucket::new(requests_per_second, burst)),
            admitted: AtomicU64::new(0),
            before_each: || (),
        }
    }

    /// The same limit; this is called before each request that it admits.
    #[must_use]
    pub fn with(self, before_each: fn()) -> Self {
        Self {
            before_each,
            ..self
        }
    }

    /// Waits for a token and takes it. Dropping the future takes none. Needs tokio's timer.
    pub async fn acquire(&self) {
        let mut bucket = self.bucket.lock().await;
        let mut now = Instant::now();
        if let Some(admits_at) = bucket.admits_at()
            && admits_at > now
        {
            sleep_until(admits_at).await;
            now = Instant::now();
        }
        bucket.take(now);
        self.admitted.fetch_add(1, Ordering::Relaxed);
        drop(bucket);
        (self.before_each)();
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

    /// Arrivals of `requests`, after the pauses that `pause` gives, on a clock of our own; timers
    /// are up to `late` late.
    fn admissions(
        (rate, burst): (f64, u32),
        requests: usize,
        rng: &mut fastrand::Rng,
        late: Duration,
        mut pause: impl FnMut(&mut fastrand::Rng) -> Duration,
    ) -> Vec<Instant> {
        let mut bucket = Bucket::new(rate, burst);
        let mut now = Instant::now();
        let mut times = Vec::new();
        for _ in 0..requests {
            now += pause(rng);
            if let Some(admits_at) = bucket.admits_at()
                && admits_at > now
            {
                now = admits_at + late.mul_f64(rng.f64());
            }
            bucket.take(now);
            times.push(now);
        }
        times
    }

    #[test]
    fn every_window_admits_at_most_rate_times_t_plus_burst() {
        let mut rng = fastrand::Rng::with_seed(7);
        for (rate, burst) in [(30.0, 100), (1_000.0, 1_000), (0.5, 1), (333.3, 7)] {
            for late_us in [0, 2_000] {
                // Idle stretches refill the bucket, back-to-back stretches drain it.
                let idle_ms = (3e3 * f64::from(burst) / rate) as u64 + 1;
                let pause = |rng: &mut fastrand::Rng| match rng.u32(..40) {
                    0 => Duration::from_millis(rng.u64(..idle_ms)),
                    _ => Duration::ZERO,
                };
                let late = Duration::from_micros(late_us);
                let times = admissions((rate, burst), 800, &mut rng, late, pause);
                for (first, from) in times.iter().enumerate() {
                    for (last, to) in times.iter().enumerate().skip(first) {
                        let count = (last - first + 1) as f64;
                        let allowed = rate * (*to - *from).as_secs_f64() + f64::from(burst);
                        assert!(count <= allowed + 1e-6, "{count} of {allowed}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_steady_stream_gets_the_whole_rate() {
        let mut rng = fastrand::Rng::with_seed(7);
        let no_pause = |_: &mut fastrand::Rng| Duration::ZERO;
        let times = admissions((30.0, 100), 1_000, &mut rng, Duration::ZERO, no_pause);
        let seconds = (times[999] - times[0]).as_secs_f64();
        // 100 at once, then 900 at 30 a second.
        assert!((29.99..30.01).contains(&seconds), "{seconds} s");
        // Late timers cost nothing but a single delay while there is a burst to draw on.
        let late = Duration::from_millis(2);
        let times = admissions((30.0, 100), 1_000, &mut rng, late, no_pause);
        let seconds = (times[999] - times[0]).as_secs_f64();
        assert!((29.9..30.1).contains(&seconds), "{seconds} s");
    }

    #[tokio::test]
    async fn waiters_are_served_in_the_order_in_which_they_came() {
        let pacer = Arc::new(Pacer::new(200.0, 1));
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

    #[tokio::test]
    async fn a_waiter_that_gives_up_takes_no_token() {
        let pacer = Pacer::new(0.001, 1);
        pacer.acquire().await;
        let waited = tokio::time::timeout(Duration::from_millis(20), pacer.acquire()).await;
        assert!(waited.is_err());
        assert_eq!(pacer.admitted(), 1);
        let next = pacer.bucket.lock().await.admits_at().unwrap();
        assert!(next <= Instant::now() + Duration::from_secs(1_000));
    }
}
