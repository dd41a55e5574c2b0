//! A manifest as JSON, for `verneuilctl manifest --decode`.

use futures::stream::{self, StreamExt};
use serde::Serialize;
use verneuil_format::{ChunkIndex, ChunkView, Stored, pack_key};
use verneuil_replica::{ReplicaError, Snapshot};

use crate::failure::Failure;
use crate::output::{Sink, json_for_terminals, json_path};
use crate::time;

/// Parts of the chunk list that are looked up at the same time, and their length: one node each.
const PARTS_MAX: usize = 8;
const PART_CHUNKS: usize = 1024;

#[derive(Serialize)]
struct Manifest {
    host: String,
    path: String,
    software_version: String,
    instance: String,
    generation: u64,
    length_bytes: u64,
    commit_time: String,
    commit_time_ns: i64,
    page_size_bytes: u32,
    change_counter: u32,
    source_mtime_ns: i64,
    source_ctime_ns: i64,
}

#[derive(Serialize)]
struct Chunk {
    index: u32,
    length_bytes: u32,
    /// Of the chunk as it is now.
    id: String,
    #[serde(flatten)]
    stored: Option<Frame>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<Patch>,
}

#[derive(Serialize)]
struct Frame {
    pack: String,
    offset_bytes: u32,
    frame_length_bytes: u32,
}

#[derive(Serialize)]
struct Patch {
    /// Of the version in the pack.
    stored_id: String,
    /// Offset in the chunk and length.
    ranges: Vec<(u32, usize)>,
}

/// The whole manifest, chunk list included, piece by piece: a list may be longer than memory. A chunk that is in no pack is zeros (before
/// its patch).
pub async fn json(snapshot: &Snapshot, out: Sink<'_>) -> Result<(), Failure> {
    let manifest = snapshot.manifest();
    let (identity, source) = (manifest.identity(), manifest.source());
    let decoded = pretty(&Manifest {
        host: identity.host.clone(),
        path: json_path(&identity.path),
        software_version: identity.software_version.clone(),
        instance: identity
            .instance
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
        generation: manifest.generation().0,
        length_bytes: manifest.file_len(),
        commit_time: time::utc(source.taken_ns),
        commit_time_ns: source.taken_ns,
        page_size_bytes: source.page_size,
        change_counter: source.change_counter,
        source_mtime_ns: source.mtime_ns,
        source_ctime_ns: source.ctime_ns,
    })?;
    // The chunks become its last field, laid out as the others are.
    let fields = decoded.trim_end_matches("\n}");
    out(format!("{fields},\n  \"chunks\": [").as_bytes())?;
    let parts = (0..manifest.chunk_count()).step_by(PART_CHUNKS);
    let mut parts = stream::iter(parts)
        .map(|start| async move {
            let end = manifest
                .chunk_count()
                .min(start.saturating_add(PART_CHUNKS as u32));
            let views = snapshot.views(start..end).await?;
            Ok::<Vec<Chunk>, ReplicaError>(views.iter().map(chunk).collect())
        })
        .buffered(PARTS_MAX);
    let mut separator = "\n    ";
    while let Some(part) = parts.next().await {
        for chunk in part? {
            let text = pretty(&chunk)?.replace('\n', "\n    ");
            out(format!("{separator}{text}").as_bytes())?;
            separator = ",\n    ";
        }
    }
    let end = if manifest.chunk_count() == 0 {
        "]\n}\n"
    } else {
        "\n  ]\n}\n"
    };
    out(end.as_bytes())
}

fn pretty(value: &impl Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| json_for_terminals(&text))
        .map_err(|error| Failure::Failed(format!("cannot make JSON of the manifest: {error}")))
}

fn chunk(view: &ChunkView<'_>) -> Chunk {
    let ChunkIndex(index) = view.index;
    Chunk {
        index,
        length_bytes: view.len,
        id: view.id.to_hex(),
        stored: match view.entry.stored {
            Stored::Zero => None,
            Stored::Frame(at) => Some(Frame {
                pack: pack_key(at.pack),
                offset_bytes: at.offset,
                frame_length_bytes: at.len,
            }),
        },
        patch: view.patch.map(|patch| Patch {
            stored_id: view.entry.id.to_hex(),
            ranges: patch
                .ranges
                .iter()
                .map(|range| (range.offset, range.bytes.len()))
                .collect(),
        }),
    }
}
