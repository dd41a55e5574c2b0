//! A whole snapshot into a file or a writer, verified chunk by chunk; `verneuilctl restore` calls it. It goes past the
//! caches of [`crate::frames`]: it reads everything once, and would only evict what readers need.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use nix::fcntl::OFlag;
use verneuil_format::limits::LEAF_ENTRIES;
use verneuil_format::{ChunkIndex, ChunkView, FormatError, FrameRef, Patch, assemble};

use crate::error::{DataError, FrameError, ReplicaError};
use crate::fetch::{GAP_RESTORE_BYTES, StoredChunk, plan_runs};
use crate::snapshot::{Snapshot, stored_chunk};

/// Chunks whose frames are sorted by pack at a time (1 GiB of database): bounds the memory of their list to a few
/// megabytes, and lets packs that many chunks refer to come whole.
const PLAN_CHUNKS: u32 = 16 * 1024;
/// Packs under way at the same time: bounds memory to about 8 MiB for each.
const RUNS_MAX: usize = 12;
/// Chunks that make one part of an ordered stream (4 MiB), and how many parts are fetched ahead of the writer.
const PART_CHUNKS: u32 = 64;
const PARTS_AHEAD: usize = 8;
/// Nodes of the chunk list fetched at the same time.
const NODE_READS_MAX: usize = 8;
/// What the names of temporary files have in common, and no other program's: what is left of them is removed.
const TEMP_MARK: &str = ".verneuil-restore-";
/// A temporary file that was written to more recently may be one that is about to be locked.
const TEMP_AGE_MIN: Duration = Duration::from_secs(60);

/// A chunk to be made out of stored bytes; owns what a blocking task needs.
struct Piece {
    index: ChunkIndex,
    id: verneuil_format::ChunkId,
    len: u32,
    entry: verneuil_format::Entry,
    patch: Option<Patch>,
}

impl Piece {
    fn of(view: &ChunkView<'_>) -> Self {
        Self {
            index: view.index,
            id: view.id,
            len: view.len,
            entry: view.entry,
            patch: view.patch.cloned(),
        }
    }

    fn view(&self) -> ChunkView<'_> {
        ChunkView {
            index: self.index,
            id: self.id,
            len: self.len,
            entry: self.entry,
            patch: self.patch.as_ref(),
        }
    }

    fn assemble(&self, stored: &[u8]) -> Result<Vec<u8>, FormatError> {
        assemble(&self.view(), stored.to_vec())
    }
}

/// Writes the snapshot to `file`, whatever that held before; zero chunks become holes. Not synced. `progress` is told
/// how many of how many bytes are done.
///
/// # Errors
/// A chunk that can't be had or is damaged, or a disk that is full; the file then holds an arbitrary part.
pub async fn restore_to_file(
    snapshot: &Snapshot,
    file: Arc<File>,
    path: &Path,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), ReplicaError> {
    let total = snapshot.len();
    let output = |cause| ReplicaError::output("write", path, cause);
    // Down to nothing first: holes must read as zeros.
    file.set_len(0)
        .and_then(|()| file.set_len(total))
        .map_err(output)?;
    let mut done = 0;
    progress(done, total);
    for plan in parts(snapshot, PLAN_CHUNKS) {
        warm_nodes(snapshot, &plan).await?;
        let mut by_frame: HashMap<FrameRef, Vec<Piece>> = HashMap::new();
        let mut wants = Vec::new();
        for view in snapshot.views(plan).await? {
            match stored_chunk(&view) {
                Some(stored) => {
                    let pieces = by_frame.entry(stored.at).or_default();
                    if pieces.is_empty() {
                        wants.push(stored);
                    }
                    pieces.push(Piece::of(&view));
                }
                None => {
                    let chunk = assemble(&view, Vec::new())
                        .map_err(|cause| snapshot.chunk_error(&view, cause.into()))?;
                    write_chunk(&file, view.index, &chunk).map_err(output)?;
                    done += u64::from(view.len);
                    progress(done, total);
                }
            }
        }
        let runs = plan_runs(wants, GAP_RESTORE_BYTES);
        let mut writes = futures::stream::iter(runs.into_iter().map(|run| {
            let pieces: Vec<Vec<Piece>> = run
                .iter()
                .filter_map(|want| by_frame.remove(&want.at))
                .collect();
            restore_run(snapshot, run, pieces, Arc::clone(&file), path)
        }))
        .buffer_unordered(RUNS_MAX);
        while let Some(written) = writes.next().await {
            done += written?;
            progress(done, total);
        }
    }
    Ok(())
}

/// Fetches one run and writes the chunks that are made of it; `pieces` are in the order of the run. Returns how many
/// bytes it wrote.
async fn restore_run(
    snapshot: &Snapshot,
    run: Vec<StoredChunk>,
    pieces: Vec<Vec<Piece>>,
    file: Arc<File>,
    path: &Path,
) -> Result<u64, ReplicaError> {
    let results = snapshot.client().inner.source.fetch_run(&run).await;
    let mut chunks: Vec<(Piece, Bytes)> = Vec::new();
    for (pieces, result) in pieces.into_iter().zip(results) {
        let stored = result.map(|(stored, _)| stored);
        for piece in pieces {
            match &stored {
                Ok(stored) if piece.entry.id == verneuil_format::ChunkId::of(stored) => {
                    chunks.push((piece, stored.clone()));
                }
                Ok(_) => {
                    let cause = FormatError::WrongStored { id: piece.entry.id };
                    return Err(snapshot.chunk_error(&piece.view(), cause.into()));
                }
                Err(error) => return Err(frame_error(snapshot, &piece, error)),
            }
        }
    }
    enum Failure {
        Format(Box<Piece>, FormatError),
        Write(io::Error),
    }
    let written = tokio::task::spawn_blocking(move || {
        let mut written = 0;
        for (piece, stored) in chunks {
            let chunk = match piece.assemble(&stored) {
                Ok(chunk) => chunk,
                Err(cause) => return Err(Failure::Format(Box::new(piece), cause)),
            };
            write_chunk(&file, piece.index, &chunk).map_err(Failure::Write)?;
            written += chunk.len() as u64;
        }
        Ok(written)
    })
    .await
    .map_err(|_| ReplicaError::Interrupted {
        database: snapshot.database(),
    })?;
    written.map_err(|failure| match failure {
        Failure::Format(piece, cause) => snapshot.chunk_error(&piece.view(), cause.into()),
        Failure::Write(cause) => ReplicaError::output("write", path, cause),
    })
}

/// Links that are followed, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// Where the links of a file that is not there lead to.
fn behind_links(out: &Path) -> PathBuf {
    let mut path = out.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(target) = std::fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Restores to `out`: a temp file beside it, synced, then renamed over it. What `out` named before is replaced at
/// once and whole; who has it open goes on reading the old file. A symbolic link is followed.
///
/// # Errors
/// As [`restore_to_file`]; also if `out` is no regular file, or has a journal or write-ahead log that sqlite would
/// apply to the restored copy. `out` is then as it was, and the temp file is gone.
pub async fn restore_to_path(
    snapshot: &Snapshot,
    out: &Path,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), ReplicaError> {
    let output = |action| move |cause| ReplicaError::output(action, out, cause);
    let target = match std::fs::metadata(out) {
        Ok(meta) if meta.is_file() => std::fs::canonicalize(out).map_err(output("resolve"))?,
        Ok(meta) => {
            let what = if meta.is_dir() {
                "it is a directory"
            } else {
                "it is not a regular file"
            };
            return Err(output("replace")(io::Error::other(what)));
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => behind_links(out),
        Err(cause) => return Err(output("look up")(cause)),
    };
    let Some(name) = target.file_name() else {
        return Err(output("write")(io::Error::from(
            io::ErrorKind::InvalidFilename,
        )));
    };
    refuse_journals(&target)?;
    let directory = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(TEMP_MARK);
    if prefix.len() > 200 {
        // A name of full length has no room for more.
        prefix = OsString::from(TEMP_MARK);
    }
    sweep(&directory, &prefix);
    let temp = tempfile::Builder::new()
        .prefix(&prefix)
        .tempfile_in(&directory)
        .map_err(output("create a temporary file beside"))?;
    // Tells that somebody is at it, for as long as it is open. Where files can't be locked, nothing is swept either.
    if let Err(error) = temp.as_file().try_lock() {
        tracing::debug!(%error, "the temporary file is not locked");
    }
    let file = Arc::new(temp.as_file().try_clone().map_err(output("write"))?);
    restore_to_file(snapshot, file, &target, progress).await?;
    temp.as_file().sync_all().map_err(output("sync"))?;
    // One may have appeared meanwhile.
    refuse_journals(&target)?;
    temp.persist(&target)
        .map_err(|error| output("replace")(error.error))?;
    File::open(&directory)
        .and_then(|dir| dir.sync_all())
        .map_err(output("sync the directory of"))
}

/// Writes the snapshot's bytes in order, all verified, with at most some 32 MiB in memory. Blocks while `out` does.
///
/// # Errors
/// As [`restore_to_file`]; what was written before the error is a correct beginning.
pub async fn restore_to_writer(
    snapshot: &Snapshot,
    out: &mut dyn Write,
    progress: &(dyn Fn(u64, u64) + Send + Sync),
) -> Result<(), ReplicaError> {
    let (mut done, total) = (0, snapshot.len());
    progress(done, total);
    let writer = |cause| ReplicaError::Writer {
        cause: Arc::new(cause),
    };
    for plan in parts(snapshot, PLAN_CHUNKS) {
        warm_nodes(snapshot, &plan).await?;
        let mut pieces = futures::stream::iter(split(plan, PART_CHUNKS))
            .map(|part| part_bytes(snapshot, part))
            .buffered(PARTS_AHEAD);
        while let Some(bytes) = pieces.next().await {
            let bytes = bytes?;
            out.write_all(&bytes).map_err(writer)?;
            done += bytes.len() as u64;
            progress(done, total);
        }
    }
    out.flush().map_err(writer)
}

/// The bytes of some successive chunks.
async fn part_bytes(snapshot: &Snapshot, part: Range<u32>) -> Result<Vec<u8>, ReplicaError> {
    let views = snapshot.views(part).await?;
    let mut wants: Vec<StoredChunk> = views.iter().filter_map(stored_chunk).collect();
    wants.sort_unstable_by_key(|want| (want.at, want.id));
    wants.dedup_by_key(|want| (want.at, want.id));
    let runs = plan_runs(wants, GAP_RESTORE_BYTES);
    let source = &snapshot.client().inner.source;
    let fetched: Vec<_> = futures::stream::iter(runs)
        .map(|run| async move {
            let results = source.fetch_run(&run).await;
            run.into_iter().zip(results).collect::<Vec<_>>()
        })
        .buffer_unordered(RUNS_MAX)
        .collect()
        .await;
    let stored: HashMap<_, _> = fetched
        .into_iter()
        .flatten()
        .map(|(want, result)| ((want.at, want.id), result.map(|(stored, _)| stored)))
        .collect();
    let pieces: Vec<(Piece, Bytes)> = views
        .iter()
        .map(|view| {
            let piece = Piece::of(view);
            match stored_chunk(view).and_then(|want| stored.get(&(want.at, want.id))) {
                None => Ok((piece, Bytes::new())),
                Some(Ok(stored)) => Ok((piece, stored.clone())),
                Some(Err(error)) => Err(frame_error(snapshot, &piece, error)),
            }
        })
        .collect::<Result<_, _>>()?;
    let assembled = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        for (piece, stored) in pieces {
            match piece.assemble(&stored) {
                Ok(chunk) => bytes.extend_from_slice(&chunk),
                Err(cause) => return Err((Box::new(piece), cause)),
            }
        }
        Ok(bytes)
    });
    assembled
        .await
        .map_err(|_| ReplicaError::Interrupted {
            database: snapshot.database(),
        })?
        .map_err(|(piece, cause)| snapshot.chunk_error(&piece.view(), cause.into()))
}

fn frame_error(snapshot: &Snapshot, piece: &Piece, error: &Arc<FrameError>) -> ReplicaError {
    snapshot.chunk_error(&piece.view(), DataError::Frame(Arc::clone(error)))
}

/// Removes the temporary files of restores that were killed, as far as it can: those that nobody holds locked.
fn sweep(directory: &Path, prefix: &OsStr) {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    for entry in entries.flatten() {
        if !entry.file_name().as_bytes().starts_with(prefix.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let removed = (|| {
            let age = entry.metadata()?.modified()?.elapsed();
            // A clock that was set back makes it young.
            if age.unwrap_or_default() < TEMP_AGE_MIN {
                return Ok(());
            }
            let file = File::options()
                .read(true)
                .custom_flags(OFlag::O_NOFOLLOW.bits() | OFlag::O_NONBLOCK.bits())
                .open(&path)?;
            file.try_lock()?;
            std::fs::remove_file(&path)
        })();
        if let Err(error) = removed {
            tracing::debug!(path = %path.display(), %error, "a temporary file of another restore stays");
        }
    }
}

/// A database that sqlite would open with somebody else's journal is worse than none.
fn refuse_journals(target: &Path) -> Result<(), ReplicaError> {
    for suffix in ["-journal", "-wal"] {
        let mut beside = target.as_os_str().to_owned();
        beside.push(suffix);
        let beside = PathBuf::from(beside);
        // An empty one, as journal_mode=TRUNCATE leaves, does nothing.
        if std::fs::metadata(&beside).is_ok_and(|meta| meta.len() > 0) {
            return Err(ReplicaError::OutputInUse {
                path: target.to_owned(),
                beside,
            });
        }
    }
    Ok(())
}

fn write_chunk(file: &File, index: ChunkIndex, chunk: &[u8]) -> io::Result<()> {
    if chunk.iter().all(|&byte| byte == 0) {
        return Ok(());
    }
    file.write_all_at(chunk, index.start())
}

/// Loads the leaves of the chunk list that these chunks need, several at a time; the lookups that follow find them.
async fn warm_nodes(snapshot: &Snapshot, chunks: &Range<u32>) -> Result<(), ReplicaError> {
    let firsts = split(chunks.clone(), LEAF_ENTRIES);
    futures::stream::iter(firsts)
        .map(|part| async move { snapshot.views(part.start..part.start + 1).await.map(drop) })
        .buffer_unordered(NODE_READS_MAX)
        .try_collect()
        .await
}

fn parts(snapshot: &Snapshot, len: u32) -> impl Iterator<Item = Range<u32>> + use<> {
    split(0..snapshot.manifest().chunk_count(), len)
}

fn split(chunks: Range<u32>, len: u32) -> impl Iterator<Item = Range<u32>> {
    let end = chunks.end;
    chunks
        .step_by(len as usize)
        .map(move |start| start..end.min(start.saturating_add(len)))
}
