//! The control page of the model checker, in place of `map`: atomics on the heap. It is there once, for whoever maps it.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::SpoolError;
use crate::layout::{Header, SEGMENT_CHUNKS, Segment};

/// Segments that there may be.
const SEGMENTS: u32 = 2;

pub(crate) struct Map {
    file: File,
    path: PathBuf,
    header: Box<Header>,
    segments: Vec<Segment>,
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl Map {
    pub fn new(file: File, path: &Path) -> Result<Self, SpoolError> {
        Ok(Self {
            file,
            path: path.to_owned(),
            header: Box::default(),
            segments: (0..SEGMENTS).map(|_| Segment::default()).collect(),
        })
    }

    pub fn allocate(_: &File, _: &Path, _: u32) -> Result<(), SpoolError> {
        Ok(())
    }

    pub fn file(&self) -> &File {
        &self.file
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn is_whole(&self) -> bool {
        true
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn segment(&self, index: u32) -> Result<&Segment, SpoolError> {
        self.segments
            .get(index as usize)
            .ok_or_else(|| SpoolError::TooLarge {
                chunks: u64::from(index) * u64::from(SEGMENT_CHUNKS),
                chunks_max: u64::from(SEGMENTS * SEGMENT_CHUNKS),
            })
    }
}
