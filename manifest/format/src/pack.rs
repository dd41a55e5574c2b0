//! Packs: the objects that hold chunks and nodes, up to 64 zstd frames one after the other; `update` builds them, readers decode their frames.

use std::ops::Range;

use zstd::zstd_safe;

use crate::entry::FrameRef;
use crate::error::{FormatError, malformed, within};
use crate::ids::PackId;
use crate::limits::{
    FRAME_LEN_MAX_BYTES, NODE_LEN_MAX_BYTES, PACK_FRAMES_MAX, PACK_LEN_MAX_BYTES, ZSTD_LEVEL,
};

/// A finished pack, to be stored under [`crate::pack_key`] before any manifest names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pack {
    /// BLAKE3 of the body.
    pub id: PackId,
    /// The frames, concatenated.
    pub body: Vec<u8>,
    /// Where each one is, in the order of the pushes.
    pub frames: Vec<FrameRef>,
}

/// Collects up to 64 frames.
#[derive(Clone, Debug, Default)]
pub struct PackBuilder {
    body: Vec<u8>,
    frames: Vec<Range<u32>>,
}

impl PackBuilder {
    /// An empty pack.
    pub fn new() -> Self {
        Self::default()
    }

    /// Compresses `raw` (a chunk or a node) into a frame of its own; returns its slot in [`Pack::frames`].
    ///
    /// # Errors
    /// If the pack is full, `raw` is empty or longer than a node may be, or zstd fails. The pack is unchanged.
    pub fn push(&mut self, raw: &[u8]) -> Result<usize, FormatError> {
        if self.is_full() {
            return Err(malformed("pack", "it already has 64 frames"));
        }
        if raw.is_empty() {
            return Err(malformed("pack", "an empty chunk is never stored"));
        }
        within(
            "length of a chunk or node",
            raw.len() as u64,
            NODE_LEN_MAX_BYTES as u64,
        )?;
        let frame = compress(raw)?;
        within(
            "length of a frame",
            frame.len() as u64,
            u64::from(FRAME_LEN_MAX_BYTES),
        )?;
        // Both fit: a body has at most PACK_LEN_MAX_BYTES.
        let start = self.body.len() as u32;
        self.body.extend_from_slice(&frame);
        self.frames.push(start..self.body.len() as u32);
        Ok(self.frames.len() - 1)
    }

    /// Whether nothing was pushed; such a pack is not worth storing.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether the next push would fail.
    pub fn is_full(&self) -> bool {
        self.frames.len() >= PACK_FRAMES_MAX
    }

    /// Names the pack.
    pub fn finish(self) -> Pack {
        let id = PackId::of(&self.body);
        let frames = self
            .frames
            .iter()
            .map(|r| FrameRef {
                pack: id,
                offset: r.start,
                len: r.end - r.start,
            })
            .collect();
        Pack {
            id,
            body: self.body,
            frames,
        }
    }
}

/// Checks a whole pack against its name and finds its frames by walking them: a pack needs no index of its own.
///
/// # Errors
/// If the body does not have the id, is too long, or is not 1 to 64 whole zstd frames.
pub fn pack_frames(id: PackId, body: &[u8]) -> Result<Vec<FrameRef>, FormatError> {
    within(
        "length of a pack",
        body.len() as u64,
        PACK_LEN_MAX_BYTES as u64,
    )?;
    if PackId::of(body) != id {
        return Err(FormatError::WrongPack { id });
    }
    let mut frames = Vec::new();
    let mut offset = 0usize;
    while offset < body.len() {
        let len = frame_len(&body[offset..])?;
        within(
            "length of a frame",
            len as u64,
            u64::from(FRAME_LEN_MAX_BYTES),
        )?;
        within(
            "number of frames in a pack",
            frames.len() as u64 + 1,
            PACK_FRAMES_MAX as u64,
        )?;
        frames.push(FrameRef {
            pack: id,
            offset: offset as u32,
            len: len as u32,
        });
        offset += len;
    }
    if frames.is_empty() {
        return Err(malformed("pack", "it is empty"));
    }
    Ok(frames)
}

/// Decompresses one frame of at most `raw_len_max` raw bytes ([`crate::CHUNK_LEN_BYTES`] for a chunk, [`crate::limits::NODE_LEN_MAX_BYTES`] for a node).
/// The result still has to be checked against its id.
///
/// # Errors
/// If it is not exactly one zstd frame, is damaged, or holds more.
pub fn decode_frame(frame: &[u8], raw_len_max: usize) -> Result<Vec<u8>, FormatError> {
    if frame_len(frame)? != frame.len() {
        return Err(malformed("frame", "something follows it"));
    }
    // One output buffer of the caller's bound; zstd never allocates what the frame merely claims.
    let mut raw = Vec::with_capacity(raw_len_max);
    zstd_safe::decompress(&mut raw, frame).map_err(|code| FormatError::Zstd {
        what: "frame",
        why: zstd_safe::get_error_name(code),
    })?;
    Ok(raw)
}

/// One zstd frame of `raw`, with its raw length in the frame's header.
pub(crate) fn compress(raw: &[u8]) -> Result<Vec<u8>, FormatError> {
    let mut frame = Vec::with_capacity(zstd_safe::compress_bound(raw.len()));
    zstd_safe::compress(&mut frame, raw, ZSTD_LEVEL).map_err(|code| FormatError::Zstd {
        what: "frame to be written",
        why: zstd_safe::get_error_name(code),
    })?;
    frame.shrink_to_fit();
    Ok(frame)
}

/// Length of the zstd frame at the start of `bytes`.
fn frame_len(bytes: &[u8]) -> Result<usize, FormatError> {
    // zstd also steps over skippable frames, which this format never has.
    if !bytes.starts_with(&zstd_safe::MAGICNUMBER.to_le_bytes()) {
        return Err(malformed("frame", "it does not start as a zstd frame does"));
    }
    zstd_safe::find_frame_compressed_size(bytes).map_err(|code| FormatError::Zstd {
        what: "frame",
        why: zstd_safe::get_error_name(code),
    })
}
