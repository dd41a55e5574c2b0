//! Single flight: of all readers that miss the same chunk at the same time one fetches it, the others wait for its
//! result. Used by [`crate::frames`] only.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

type Waiting<K, V> = Arc<Mutex<HashMap<K, watch::Receiver<Option<V>>>>>;

/// What is being fetched now.
#[derive(Debug)]
pub(crate) struct InFlight<K, V> {
    waiting: Waiting<K, V>,
}

/// Whose turn it is to fetch.
pub(crate) enum Turn<K: Hash + Eq + Clone, V> {
    /// The caller's: it fetches and calls [`Claim::finish`].
    Mine(Claim<K, V>),
    /// Somebody else's.
    Theirs(Follower<V>),
}

/// The duty to fetch one thing. Dropping it unfinished lets somebody else try.
pub(crate) struct Claim<K: Hash + Eq + Clone, V> {
    key: K,
    sender: watch::Sender<Option<V>>,
    waiting: Waiting<K, V>,
}

/// Waits for what somebody else fetches.
pub(crate) struct Follower<V> {
    receiver: watch::Receiver<Option<V>>,
}

fn lock<K, V>(waiting: &Waiting<K, V>) -> MutexGuard<'_, HashMap<K, watch::Receiver<Option<V>>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K: Hash + Eq + Clone, V: Clone> InFlight<K, V> {
    pub(crate) fn new() -> Self {
        Self {
            waiting: Arc::default(),
        }
    }

    /// Who fetches `key`?
    pub(crate) fn turn(&self, key: K) -> Turn<K, V> {
        let mut waiting = lock(&self.waiting);
        if let Some(receiver) = waiting.get(&key) {
            return Turn::Theirs(Follower {
                receiver: receiver.clone(),
            });
        }
        let (sender, receiver) = watch::channel(None);
        waiting.insert(key.clone(), receiver);
        Turn::Mine(Claim {
            key,
            sender,
            waiting: Arc::clone(&self.waiting),
        })
    }
}

impl<K: Hash + Eq + Clone, V> Claim<K, V> {
    /// Another one who waits for the result.
    pub(crate) fn follow(&self) -> Follower<V> {
        Follower {
            receiver: self.sender.subscribe(),
        }
    }

    /// Hands the result to everybody who waits. What later callers should find must already be in the cache: from
    /// here on they no longer find this flight.
    pub(crate) fn finish(self, value: V) {
        self.sender.send_replace(Some(value));
    }
}

impl<K: Hash + Eq + Clone, V> Drop for Claim<K, V> {
    fn drop(&mut self) {
        lock(&self.waiting).remove(&self.key);
    }
}

impl<V: Clone> Follower<V> {
    /// The result, or `None` when its fetcher gave up (its task was dropped).
    pub(crate) async fn result(mut self) -> Option<V> {
        match self.receiver.wait_for(Option::is_some).await {
            Ok(value) => value.clone(),
            Err(_closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn followers_get_the_result_and_an_abandoned_claim_passes_on() {
        let flights: InFlight<u32, u32> = InFlight::new();
        let Turn::Mine(claim) = flights.turn(1) else {
            panic!("the first is in charge")
        };
        let Turn::Theirs(follower) = flights.turn(1) else {
            panic!("the second waits")
        };
        assert!(matches!(flights.turn(2), Turn::Mine(_)));
        claim.finish(42);
        assert_eq!(follower.result().await, Some(42));

        let Turn::Mine(claim) = flights.turn(1) else {
            panic!("it is over")
        };
        let Turn::Theirs(follower) = flights.turn(1) else {
            panic!("under way again")
        };
        drop(claim);
        assert_eq!(follower.result().await, None);
        assert!(matches!(flights.turn(1), Turn::Mine(_)));
    }
}
