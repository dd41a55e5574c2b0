//! What the server behind a front has accepted: every object as it is now, and every version of every manifest in the order in
//! which they came; `serve.rs` enters them, `tests/store_faults` judges them.

use std::collections::{BTreeMap, HashMap};

use anyhow::{Context, Result, ensure};
use verneuil_format::{ChunkIndex, Manifest, NodeId, Stored, assemble, decode_frame, pack_key};

/// A manifest that was accepted.
#[derive(Clone, Debug)]
pub struct Version {
    /// Bucket and key.
    pub path: String,
    /// Its bytes.
    pub body: Vec<u8>,
    /// Packs that it names and that were not there when it was sent.
    pub missing: Vec<String>,
}

/// Everything that was accepted. Bodies are kept: the tests' databases are small.
#[derive(Clone, Debug, Default)]
pub struct Books {
    objects: BTreeMap<String, Vec<u8>>,
    versions: Vec<Version>,
}

impl Books {
    /// Packs that this manifest names and that are not here. `body` need not be a manifest.
    pub(super) fn missing_of(&self, body: &[u8]) -> Vec<String> {
        let nodes: HashMap<NodeId, std::sync::Arc<verneuil_format::Node>> = HashMap::new();
        let packs = Manifest::decode(body)
            .ok()
            .and_then(|manifest| manifest.pack_ids(&nodes).ok());
        let keys = packs.into_iter().flatten().map(pack_key);
        keys.filter(|key| self.pack(key).is_none()).collect()
    }

    /// Enters an object that was accepted.
    pub(super) fn enter(&mut self, path: &str, body: &[u8]) {
        self.objects.insert(path.to_owned(), body.to_vec());
    }

    /// Enters a manifest that was accepted.
    pub(super) fn enter_version(&mut self, version: Version) {
        self.enter(&version.path, &version.body);
        self.versions.push(version);
    }

    /// Every manifest, oldest first.
    #[must_use]
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    fn pack(&self, key: &str) -> Option<&[u8]> {
        let found = self.objects.iter().find(|(path, _)| path.ends_with(key));
        found.map(|(_, body)| &body[..])
    }

    /// The database that a version describes, put together from what was accepted.
    ///
    /// # Errors
    /// When the version or a pack is damaged or missing, or the database has more chunks than a flat list.
    pub fn database(&self, version: &Version) -> Result<Vec<u8>> {
        let manifest = Manifest::decode(&version.body).context("a published manifest")?;
        let nodes: HashMap<NodeId, std::sync::Arc<verneuil_format::Node>> = HashMap::new();
        let mut database = Vec::new();
        for index in 0..manifest.chunk_count() {
            let view = manifest.chunk(ChunkIndex(index), &nodes)?;
            let stored = match view.entry.stored {
                Stored::Zero => Vec::new(),
                Stored::Frame(at) => {
                    let key = pack_key(at.pack);
                    let pack = self.pack(&key).with_context(|| format!("no pack {key}"))?;
                    let (from, to) = (at.offset as usize, (at.offset + at.len) as usize);
                    let frame = pack
                        .get(from..to)
                        .with_context(|| format!("{key} is short"))?;
                    decode_frame(frame, verneuil_format::CHUNK_LEN_BYTES as usize)?
                }
            };
            database.extend(assemble(&view, stored)?);
        }
        ensure!(
            database.len() as u64 == manifest.file_len(),
            "{} bytes of {}",
            database.len(),
            manifest.file_len()
        );
        Ok(database)
    }
}
