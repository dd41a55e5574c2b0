//! Manifests made by hand: puts any bytes into a store as the next version of a replica, without a writer, for states that the
//! extension does not (yet) produce. `tests/end_to_end/handmade.rs` mounts them.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};
use verneuil_config::{Config, TargetConfig};
use verneuil_format::{
    CHUNK_LEN_BYTES, Change, ChunkId, ChunkIndex, Identity, Manifest, NextState, Node, PatchBudget,
    SourceState, Written, pack_key,
};
use verneuil_store::{Condition, Pacer, Space, Store};

use crate::setup::{HOST, Setup};

/// Publishes versions of one database.
pub struct Publisher {
    runtime: Runtime,
    store: Store,
    key: String,
    manifest: Manifest,
    last: Vec<u8>,
    /// Every chunk that was ever published, as patches refer to stored versions.
    chunks: HashMap<ChunkId, Bytes>,
    nodes: HashMap<verneuil_format::NodeId, Arc<Node>>,
}

impl Publisher {
    /// Starts with no version, under the path `database` of the tests' source host.
    ///
    /// # Errors
    /// When the setup's store can't be opened.
    pub fn new(setup: &Setup, database: &Path) -> Result<Self> {
        let config = Config::parse(&setup.config().to_string(), "the test")?;
        let target: &TargetConfig = config.targets.first().context("the setup has a store")?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let store =
            runtime.block_on(Store::open(target, Arc::new(Pacer::new(10_000.0, 10_000))))?;
        let identity = Identity {
            software_version: "handmade".to_owned(),
            host: HOST.to_owned(),
            path: database.as_os_str().as_encoded_bytes().to_vec(),
            instance: [7; 16],
        };
        Ok(Self {
            runtime,
            store,
            key: setup.manifest_key(database),
            manifest: Manifest::empty(identity),
            last: Vec::new(),
            chunks: HashMap::new(),
            nodes: HashMap::new(),
        })
    }

    /// Publishes `content` as the next version; chunks that changed become patches as far as `budget` goes.
    ///
    /// # Errors
    /// When the store refuses, or the format can't express it.
    pub fn publish(&mut self, content: &[u8], budget: PatchBudget) -> Result<()> {
        let mut changes = BTreeMap::new();
        let step = CHUNK_LEN_BYTES as usize;
        for (index, bytes) in content.chunks(step).enumerate() {
            let begin = index * step;
            if self.last.get(begin..(begin + step).min(self.last.len())) == Some(bytes) {
                continue;
            }
            let bytes = Bytes::copy_from_slice(bytes);
            self.chunks.insert(ChunkId::of(&bytes), bytes.clone());
            let written = Written::Unknown;
            changes.insert(
                ChunkIndex(u32::try_from(index)?),
                Change::Bytes { bytes, written },
            );
        }
        let number = |at: usize| {
            content
                .get(at..at + 4)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u32::from_be_bytes)
        };
        let source = SourceState {
            file_len: content.len() as u64,
            page_size: (number(14) & 0xffff).max(512),
            change_counter: number(24),
            ..self.manifest.source().to_owned()
        };
        let next = NextState { source, changes };
        let updated = self
            .manifest
            .update(&next, &self.nodes, &self.chunks, budget)?;
        self.nodes
            .extend(updated.nodes.into_iter().map(|(at, node)| (at.id, node)));
        let body = Bytes::from(updated.manifest.encode()?);
        self.runtime.block_on(async {
            for pack in updated.packs {
                let key = pack_key(pack.id);
                self.store
                    .put(Space::Chunks, &key, Bytes::from(pack.body), Condition::None)
                    .await?;
            }
            self.store
                .put(Space::Manifests, &self.key, body, Condition::None)
                .await
        })?;
        self.manifest = updated.manifest;
        self.last = content.to_vec();
        Ok(())
    }
}
