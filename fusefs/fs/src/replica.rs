//! The [`Source`] of a real mount: `fs` reads snapshots of verneuil-replica through it.

use std::ops::Range;
use std::sync::Arc;

use verneuil_format::manifest_key;
use verneuil_replica as replica;
use verneuil_replica::ReplicaError;

use crate::source::{Entry, EntryKind, Head, Loaded, Snapshot, Source, SourceError};

impl Source for replica::Client {
    type Snapshot = replica::Snapshot;

    async fn hosts(&self) -> Result<Vec<String>, SourceError> {
        match Self::hosts(self).await {
            Ok(hosts) => Ok(hosts),
            // The first write creates the store; until then a mount is empty, not broken.
            Err(error) if error.is_not_found() => {
                tracing::debug!(%error, "nothing is replicated yet");
                Ok(Vec::new())
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn list(&self, host: &str, dir: &[u8]) -> Result<Vec<Entry>, SourceError> {
        let entries = Self::list(self, host, dir).await?;
        let entry = |entry: replica::DirEntry| Entry {
            name: entry.name,
            kind: match entry.kind {
                replica::EntryKind::Directory => EntryKind::Directory,
                replica::EntryKind::Database => EntryKind::Database,
            },
        };
        Ok(entries.into_iter().map(entry).collect())
    }

    async fn head(&self, host: &str, path: &[u8]) -> Result<Option<Head>, SourceError> {
        let head = self.stat(&manifest_key(host, path)).await?;
        Ok(head.map(|head| Head {
            len: head.file_len,
            mtime_ns: head.commit_time_ns,
        }))
    }

    async fn load(
        &self,
        host: &str,
        path: &[u8],
        known: Option<&Arc<replica::Snapshot>>,
    ) -> Result<Loaded<replica::Snapshot>, SourceError> {
        Ok(
            match Self::load(self, &manifest_key(host, path), known).await? {
                replica::Loaded::Unchanged => Loaded::Unchanged,
                replica::Loaded::New(snapshot) => Loaded::New(snapshot),
                replica::Loaded::Missing => Loaded::Missing,
            },
        )
    }
}

impl Snapshot for replica::Snapshot {
    fn head(&self) -> Head {
        let head = self.manifest().head();
        Head {
            len: head.file_len,
            mtime_ns: head.commit_time_ns,
        }
    }

    fn read_cached(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        Self::read_cached(self, offset, len)
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, SourceError> {
        Ok(Self::read(self, offset, len).await?)
    }

    async fn diff(&self, newer: &Self) -> Result<Vec<Range<u64>>, SourceError> {
        Ok(Self::diff(self, newer).await?)
    }
}

impl From<ReplicaError> for SourceError {
    fn from(error: ReplicaError) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(error) = cause {
            let more = error.to_string();
            // Some errors repeat what caused them.
            if !text.contains(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        Self(text)
    }
}
