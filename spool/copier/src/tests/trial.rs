//! What the state machine (`machine`) and some other tests do to a copier that this thread polls: stop it at a given point, spoil its
//! requests. `pass` and `requests` ask here; the rest is not on trial.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Poll, Waker};

use verneuil_config::{DirectoryConfig, TargetConfig};
use verneuil_store::{ErrorKind, Store, StoreError};

/// What happens to one request of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Spoil {
    /// It never reaches the store.
    Refuse,
    /// The store carries it out, and the answer is lost.
    LoseAnswer,
}

#[derive(Default)]
struct Trial {
    /// How many points may still be passed; `None`: all.
    points_left: Option<u32>,
    /// Who stands at a point: requests that are under way at once stand at one each.
    stopped: Vec<Waker>,
    /// By the target's name.
    faults: BTreeMap<String, Fault>,
}

/// The n-th request from now on is spoiled, or every one.
#[derive(Clone, Copy)]
enum Fault {
    Away,
    Nth(u32, Spoil),
}

thread_local! {
    static TRIAL: RefCell<Trial> = RefCell::default();
}

fn with<T>(f: impl FnOnce(&mut Trial) -> T) -> T {
    TRIAL.with_borrow_mut(f)
}

/// From now on so many points are passed.
pub(super) fn allow(points: Option<u32>) {
    let stopped = with(|trial| {
        trial.points_left = points;
        std::mem::take(&mut trial.stopped)
    });
    stopped.into_iter().for_each(Waker::wake);
}

/// Runs until it has passed so many points and stands at the next one; its result if it ends before.
pub(super) async fn run_to<F: Future + Unpin>(run: &mut F, points: u32) -> Option<F::Output> {
    allow(Some(points));
    let end = poll_fn(|context| match Pin::new(&mut *run).poll(context) {
        Poll::Ready(end) => Poll::Ready(Some(end)),
        Poll::Pending if has_stopped() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    })
    .await;
    allow(None);
    end
}

/// Whether the copier stands at a point.
pub(super) fn has_stopped() -> bool {
    with(|trial| !trial.stopped.is_empty())
}

/// The target's requests fail until [`mend`].
pub(super) fn take_away(target: &str) {
    with(|trial| trial.faults.insert(target.to_owned(), Fault::Away));
}

/// The target's request number `n` from now on is spoiled (0: the next one).
pub(super) fn spoil(target: &str, n: u32, spoil: Spoil) {
    with(|trial| trial.faults.insert(target.to_owned(), Fault::Nth(n, spoil)));
}

/// Whether something is, or will be, wrong with the target.
pub(super) fn is_faulty(target: &str) -> bool {
    with(|trial| trial.faults.contains_key(target))
}

/// All is well with the target again.
pub(super) fn mend(target: &str) {
    with(|trial| trial.faults.remove(target));
}

/// All is as for tests that are not on trial.
pub(super) fn end() {
    with(|trial| *trial = Trial::default());
}

/// A place where the copier can be stopped, and killed.
pub(crate) async fn point() {
    poll_fn(|context| {
        with(|trial| match &mut trial.points_left {
            None => Poll::Ready(()),
            Some(0) => {
                trial.stopped.push(context.waker().clone());
                Poll::Pending
            }
            Some(left) => {
                *left -= 1;
                Poll::Ready(())
            }
        })
    })
    .await;
}

/// A request, between two points, which may be spoiled.
pub(crate) async fn request<T>(
    store: &Store,
    key: &str,
    request: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    point().await;
    let name = store.describe();
    let spoiled = with(|trial| match trial.faults.get_mut(&name)? {
        Fault::Away => Some(Spoil::Refuse),
        Fault::Nth(0, spoil) => {
            let spoil = *spoil;
            trial.faults.remove(&name);
            Some(spoil)
        }
        Fault::Nth(left, _) => {
            *left -= 1;
            None
        }
    });
    let result = match spoiled {
        None => request.await,
        Some(Spoil::Refuse) => Err(failure(key).await),
        Some(Spoil::LoseAnswer) => {
            drop(request.await);
            Err(failure(key).await)
        }
    };
    point().await;
    result
}

/// An error as a store makes them, for a request that may have taken effect.
async fn failure(key: &str) -> StoreError {
    let nowhere = TargetConfig::Directory(DirectoryConfig {
        path: "not/absolute".into(),
    });
    let pacer = std::sync::Arc::new(verneuil_store::Pacer::new(1.0, 1));
    let mut error = Store::open(&nowhere, pacer).await.unwrap_err();
    error.kind = ErrorKind::TimedOut;
    error.object = key.to_owned();
    error.cause = "on trial".to_owned();
    error
}
