//! The way of a frame's content: memory, disk cache, store; each chunk and node is fetched by one reader at a time.
//! [`crate::snapshot`] asks here, [`crate::fetch`] does the requests.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{FuturesUnordered, StreamExt};
use moka::policy::EvictionPolicy;
use tokio::runtime::Handle;
use verneuil_format::limits::FRAME_LEN_MAX_BYTES;
use verneuil_format::{Node, NodeId, NodeRef, NodeSource, pack_key};

use crate::disk::DiskCache;
use crate::error::FrameError;
use crate::fetch::{Content, Fetched, GAP_READ_BYTES, Source, plan_runs};
use crate::inflight::{Claim, Follower, InFlight, Turn};

type Outcome<C> = Result<<C as Content>::Value, Arc<FrameError>>;
type Claimed<C> = (C, Claim<<C as Content>::Id, Outcome<C>>);

/// How often a reader takes over from a fetcher that gave up. That happens when the runtime ends, or a bug panics.
const TURNS_MAX: usize = 3;

/// Verified content of one kind (chunks, or nodes) by id.
pub(crate) struct Frames<C: Content> {
    memory: moka::sync::Cache<C::Id, C::Value>,
    flights: InFlight<C::Id, Outcome<C>>,
    disk: Arc<DiskCache>,
    source: Arc<Source>,
    runtime: Handle,
}

impl<C: Content> Frames<C> {
    pub(crate) fn new(
        capacity_bytes: u64,
        disk: Arc<DiskCache>,
        source: Arc<Source>,
        runtime: Handle,
    ) -> Arc<Self> {
        let memory = moka::sync::Cache::builder()
            .max_capacity(capacity_bytes)
            .weigher(|_, value| C::weight_bytes(value))
            // What was fetched is about to be read: a policy that refuses newcomers would fetch it twice.
            .eviction_policy(EvictionPolicy::lru())
            .build();
        Arc::new(Self {
            memory,
            flights: InFlight::new(),
            disk,
            source,
            runtime,
        })
    }

    /// What is in memory. Never blocks.
    pub(crate) fn cached(&self, id: &C::Id) -> Option<C::Value> {
        self.memory.get(id)
    }

    /// Keeps a value that the caller has verified.
    pub(crate) fn keep(&self, id: C::Id, value: C::Value) {
        self.memory.insert(id, value);
    }

    /// The contents of `wants`, in order. The fetches go on when the caller is dropped: somebody else may wait too.
    pub(crate) async fn get(self: &Arc<Self>, wants: &[C]) -> Vec<Outcome<C>> {
        let mut outcomes: Vec<Option<Outcome<C>>> = vec![None; wants.len()];
        for _ in 0..TURNS_MAX {
            let mut claimed: Vec<Claimed<C>> = Vec::new();
            let mut followers: Vec<(usize, Follower<Outcome<C>>)> = Vec::new();
            for (i, want) in wants
                .iter()
                .enumerate()
                .filter(|&(i, _)| outcomes[i].is_none())
                .collect::<Vec<_>>()
            {
                if let Some(value) = self.cached(&want.id()) {
                    outcomes[i] = Some(Ok(value));
                    continue;
                }
                match self.flights.turn(want.id()) {
                    Turn::Theirs(follower) => followers.push((i, follower)),
                    Turn::Mine(claim) => {
                        // The last flight may have landed between the two looks.
                        if let Some(value) = self.cached(&want.id()) {
                            claim.finish(Ok(value.clone()));
                            outcomes[i] = Some(Ok(value));
                        } else {
                            followers.push((i, claim.follow()));
                            claimed.push((*want, claim));
                        }
                    }
                }
            }
            if !claimed.is_empty() {
                let this = Arc::clone(self);
                self.runtime.spawn(async move { this.fetch(claimed).await });
            }
            for (i, follower) in followers {
                outcomes[i] = follower.result().await;
            }
            if outcomes.iter().all(Option::is_some) {
                break;
            }
        }
        let interrupted = |want: &C| FrameError {
            pack_key: pack_key(want.at().pack),
            reports: Vec::new(),
            is_damaged: false,
        };
        wants
            .iter()
            .zip(outcomes)
            .map(|(want, outcome)| outcome.unwrap_or_else(|| Err(Arc::new(interrupted(want)))))
            .collect()
    }

    /// Fetches what was claimed: from the disk cache, the rest from the store.
    async fn fetch(self: &Arc<Self>, mut claimed: Vec<Claimed<C>>) {
        if !self.disk.is_empty() {
            let this = Arc::clone(self);
            let looked_up = tokio::task::spawn_blocking(move || this.look_up(claimed)).await;
            // A panic there has dropped the claims: those who wait try again.
            claimed = looked_up.unwrap_or_default();
        }
        let wants = claimed.iter().map(|(want, _)| *want).collect();
        let runs = plan_runs(wants, GAP_READ_BYTES);
        let mut fetches: FuturesUnordered<_> = runs
            .into_iter()
            .map(|run| async move {
                let results = self.source.fetch_run(&run).await;
                (run, results)
            })
            .collect();
        let mut claims: std::collections::HashMap<C::Id, Claim<C::Id, Outcome<C>>> = claimed
            .into_iter()
            .map(|(want, claim)| (want.id(), claim))
            .collect();
        while let Some((run, results)) = fetches.next().await {
            let mut fetched: Vec<(C, Bytes)> = Vec::new();
            for (want, result) in run.into_iter().zip(results) {
                let outcome = result.map(|(value, frame): Fetched<C>| {
                    self.keep(want.id(), value.clone());
                    fetched.push((want, frame));
                    value
                });
                if let Some(claim) = claims.remove(&want.id()) {
                    claim.finish(outcome);
                }
            }
            if !self.disk.is_empty() && !fetched.is_empty() {
                let disk = Arc::clone(&self.disk);
                tokio::task::spawn_blocking(move || {
                    for (want, frame) in fetched {
                        disk.insert(&want.name(), &frame);
                    }
                });
            }
        }
    }

    /// Serves from the disk cache what is there; returns the rest. Blocks.
    fn look_up(&self, claimed: Vec<Claimed<C>>) -> Vec<Claimed<C>> {
        let mut rest = Vec::new();
        for (want, claim) in claimed {
            let check = |frame: &[u8]| want.verify(frame).ok();
            match self
                .disk
                .lookup(&want.name(), u64::from(FRAME_LEN_MAX_BYTES), check)
            {
                Some(value) => {
                    self.keep(want.id(), value.clone());
                    claim.finish(Ok(value));
                }
                None => rest.push((want, claim)),
            }
        }
        rest
    }
}

impl NodeSource for Frames<NodeRef> {
    fn node(&self, id: &NodeId) -> Option<Arc<Node>> {
        self.cached(id)
    }
}
