//! A model of a database file under random commits: `updates` compares manifests with it.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::world::{CHUNK, World, noise, source};
use crate::*;

/// Chunks of the largest file: ten leaf slots and four inner ones in the small tree.
pub const CHUNKS_MAX: usize = 40;

#[derive(Clone, Debug)]
pub enum Op {
    /// Pages of 4 KiB with new bytes, anywhere in the file (which grows if need be).
    Write {
        page: usize,
        pages: usize,
        seed: u64,
    },
    /// One whole chunk with new bytes.
    Fill { chunk: usize, seed: u64 },
    /// Whole chunks of zeros.
    Zero { chunk: usize, chunks: usize },
    /// One chunk becomes what it was in an earlier state.
    Revert { chunk: usize, back: usize },
    /// A new length, in units of 512 bytes.
    Resize { units: usize },
}

/// How a commit tells what it changed.
#[derive(Clone, Copy, Debug)]
pub enum Telling {
    /// The ranges that differ; what can be left out is left out.
    Tersely,
    /// Too much: unchanged chunks and wider ranges.
    Verbosely,
    /// Not all: something else has written, too.
    Incompletely,
    /// Whole chunks.
    Unknown,
    /// Whole chunks that the store already has.
    Stored,
}

#[derive(Clone, Debug)]
pub struct Commit {
    pub ops: Vec<Op>,
    pub telling: Telling,
    pub budget: PatchBudget,
    pub page_size: u32,
}

pub fn commits() -> impl Strategy<Value = Vec<Commit>> {
    let pages = CHUNKS_MAX * 16;
    let op = prop_oneof![
        6 => (0..pages, 1..3usize, any::<u64>()).prop_map(|(page, pages, seed)| Op::Write { page, pages, seed }),
        2 => (0..CHUNKS_MAX, any::<u64>()).prop_map(|(chunk, seed)| Op::Fill { chunk, seed }),
        1 => (0..CHUNKS_MAX, 1..9usize).prop_map(|(chunk, chunks)| Op::Zero { chunk, chunks }),
        2 => (0..CHUNKS_MAX, 1..4usize).prop_map(|(chunk, back)| Op::Revert { chunk, back }),
        2 => (0..=CHUNKS_MAX * CHUNK / 512).prop_map(|units| Op::Resize { units }),
        1 => (0..=CHUNK / 128).prop_map(|units| Op::Resize { units }),
    ];
    let telling = prop_oneof![
        4 => Just(Telling::Tersely),
        2 => Just(Telling::Verbosely),
        2 => Just(Telling::Incompletely),
        1 => Just(Telling::Unknown),
        1 => Just(Telling::Stored),
    ];
    let budget = prop_oneof![
        2 => Just(PatchBudget::ORDINARY),
        2 => Just(PatchBudget::BUSY),
        1 => (0..40_000u32).prop_map(PatchBudget::of_bytes),
        1 => Just(PatchBudget::NONE),
    ];
    let page_size = prop_oneof![
        Just(0u32),
        Just(512),
        Just(4_096),
        Just(65_536),
        Just(1_000)
    ];
    let commit = (prop::collection::vec(op, 0..6), telling, budget, page_size).prop_map(
        |(ops, telling, budget, page_size)| Commit {
            ops,
            telling,
            budget,
            page_size,
        },
    );
    prop::collection::vec(commit, 1..9)
}

/// The file after a commit; `history` holds its earlier states, the last one last.
pub fn apply(history: &[Vec<u8>], commit: &Commit) -> Vec<u8> {
    let mut file = history.last().cloned().unwrap_or_default();
    let write = |file: &mut Vec<u8>, offset: usize, bytes: &[u8]| {
        let bytes = &bytes[..bytes.len().min(CHUNKS_MAX * CHUNK - offset)];
        file.resize(file.len().max(offset + bytes.len()), 0);
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    for op in &commit.ops {
        match *op {
            Op::Write { page, pages, seed } => {
                write(&mut file, page * 4_096, &noise(seed, pages * 4_096))
            }
            Op::Fill { chunk, seed } => write(&mut file, chunk * CHUNK, &noise(seed, CHUNK)),
            Op::Zero { chunk, chunks } => write(&mut file, chunk * CHUNK, &vec![0; chunks * CHUNK]),
            Op::Revert { chunk, back } => {
                let old = history
                    .iter()
                    .rev()
                    .nth(back)
                    .and_then(|old| old.chunks(CHUNK).nth(chunk));
                old.into_iter()
                    .for_each(|old| write(&mut file, chunk * CHUNK, old));
            }
            Op::Resize { units } => file.resize(units * 512, 0),
        }
    }
    file
}

/// What the commit says that it changed.
pub fn tell(old: &[u8], new: &[u8], commit: &Commit, world: &mut World) -> NextState {
    let mut changes = BTreeMap::new();
    let old: Vec<&[u8]> = old.chunks(CHUNK).collect();
    for (i, content) in new.chunks(CHUNK).enumerate() {
        let index = ChunkIndex(i as u32);
        let before = old.get(i).copied().unwrap_or_default();
        let mut resized = before.to_vec();
        resized.resize(content.len(), 0);
        let verbosely = matches!(commit.telling, Telling::Verbosely);
        if resized == content && !verbosely {
            // Unchanged, new and zero, or only resized: need not be mentioned.
            continue;
        }
        let bytes = Bytes::copy_from_slice(content);
        let written = match commit.telling {
            Telling::Stored if content.iter().all(|&b| b == 0) => {
                changes.insert(index, Change::Stored(Entry::zero(content.len() as u32)));
                continue;
            }
            Telling::Stored => {
                let mut pack = PackBuilder::new();
                let slot = pack.push(content).unwrap();
                let pack = pack.finish();
                world.put(&pack);
                let entry = Entry {
                    id: ChunkId::of(content),
                    stored: Stored::Frame(pack.frames[slot]),
                };
                changes.insert(index, Change::Stored(entry));
                continue;
            }
            Telling::Unknown => Written::Unknown,
            Telling::Incompletely => {
                let all = differences(before, content, false);
                Written::Ranges(all.into_iter().step_by(2).collect())
            }
            Telling::Tersely | Telling::Verbosely => {
                Written::Ranges(differences(before, content, verbosely))
            }
        };
        changes.insert(index, Change::Bytes { bytes, written });
    }
    // Beyond the end: to be ignored.
    let beyond = Change::Bytes {
        bytes: Bytes::from_static(b"beyond"),
        written: Written::Unknown,
    };
    changes.insert(ChunkIndex(chunk_count(new.len() as u64) as u32), beyond);
    NextState {
        source: source(new.len(), commit.page_size),
        changes,
    }
}

/// The bytes below both ends that differ (nearly exactly), in reverse order; if `verbosely` with neighbours and something impossible.
fn differences(old: &[u8], new: &[u8], verbosely: bool) -> Vec<std::ops::Range<u32>> {
    let unit = if verbosely { 3_000 } else { 16 };
    let mut ranges = Vec::new();
    let common = old.len().min(new.len());
    for start in (0..common).step_by(unit) {
        let end = (start + unit).min(common);
        match ranges.last_mut() {
            _ if old[start..end] == new[start..end] => {}
            Some(std::ops::Range { end: last, .. }) if *last == start as u32 => *last = end as u32,
            _ => ranges.push(start as u32..end as u32),
        }
    }
    if verbosely {
        ranges.extend([70_000..80_000, 5..5, 65_000..u32::MAX]);
    }
    ranges.reverse();
    ranges
}
