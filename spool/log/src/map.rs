//! The only unsafe code of the spool: the control page's shared mapping, seen as the atomics of `layout`, for `control`.
//!
//! Other processes change the same memory at the same time; that is why nothing in it is ever seen as anything but atomics. Nothing is
//! unmapped before the [`Map`] is dropped, so references live as long as it.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use memmap2::{MmapOptions, MmapRaw};
use nix::fcntl::posix_fallocate;

use crate::error::SpoolError;
use crate::layout::{CHUNKS_MAX, Header, SEGMENT_CHUNKS, SEGMENTS_MAX, Segment};

const HEADER_LEN_BYTES: u64 = 4_096;
const SEGMENT_LEN_BYTES: u64 = size_of::<Segment>() as u64;
/// Two levels of 256: the outer one is small enough to have for each of thousands of databases.
const TABLE_LEN: u32 = 256;

const _: () = assert!(
    size_of::<Header>() <= HEADER_LEN_BYTES as usize
        && SEGMENT_LEN_BYTES == 5 * 4_096
        && TABLE_LEN * TABLE_LEN == SEGMENTS_MAX
);

type Inner = Box<[OnceLock<MmapRaw>]>;

/// The mapped control page: header at once, segments when they are first used.
pub(crate) struct Map {
    file: File,
    path: PathBuf,
    header: MmapRaw,
    table: Box<[OnceLock<Inner>]>,
}

impl std::fmt::Debug for Map {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Map")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

fn empty_table<T>() -> Box<[OnceLock<T>]> {
    (0..TABLE_LEN).map(|_| OnceLock::new()).collect()
}

impl Map {
    /// Maps the header of `file`, which `path` names in errors.
    ///
    /// # Errors
    /// When the file is shorter than a header (touching it would raise SIGBUS) or the kernel refuses.
    pub fn new(file: File, path: &Path) -> Result<Self, SpoolError> {
        let len = file.metadata().map_err(SpoolError::io("stat", path))?.len();
        if len < HEADER_LEN_BYTES {
            return Err(SpoolError::unusable(
                path,
                "is too short for a control page",
            ));
        }
        let header =
            map_range(&file, 0, HEADER_LEN_BYTES as usize).map_err(SpoolError::io("map", path))?;
        Ok(Self {
            file,
            path: path.to_owned(),
            header,
            table: empty_table(),
        })
    }

    /// Gives `file` all the disk blocks that `segments` segments need, so that a full disk is an error here and not a SIGBUS later.
    ///
    /// # Errors
    /// When the disk is full, or the file system refuses.
    pub fn allocate(file: &File, path: &Path, segments: u32) -> Result<(), SpoolError> {
        let len = len_with(segments);
        loop {
            match posix_fallocate(file, 0, len as i64) {
                Ok(()) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(SpoolError::io("allocate", path)(errno.into())),
            }
        }
    }

    /// The control page's file: for `fstat` and [`Map::allocate`].
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Name of the control page's file when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the file still has a name, so that others see what we write, and is as long as its header says (one system call).
    pub fn is_whole(&self) -> bool {
        self.file.metadata().is_ok_and(|meta| {
            // The length first: touching a header that is not there raises SIGBUS.
            meta.nlink() > 0
                && meta.len() >= HEADER_LEN_BYTES
                && meta.len() >= len_with(self.header().segments.load(Ordering::Acquire))
        })
    }

    pub fn header(&self) -> &Header {
        // SAFETY: the mapping is HEADER_LEN_BYTES long (checked above), begins at a memory page and lives as long as `self`. `Header` is
        // smaller than that, needs an alignment of 64 and consists of atomics only: every bit pattern is valid, and changes by other
        // processes are changes of atomics. The pointer of a mapping is never null.
        unsafe { &*self.header.as_ptr().cast::<Header>() }
    }

    /// Segment `index`, mapped on first use.
    ///
    /// # Errors
    /// When the file doesn't reach that far, or the kernel refuses to map it.
    pub fn segment(&self, index: u32) -> Result<&Segment, SpoolError> {
        let outer = self
            .table
            .get((index / TABLE_LEN) as usize)
            .ok_or_else(|| too_large(index))?;
        let slot = &outer.get_or_init(empty_table)[(index % TABLE_LEN) as usize];
        let map = match slot.get() {
            Some(map) => map,
            None => {
                let map = self.map_segment(index)?;
                // When two threads map it at once, one of the two mappings is dropped before anybody has seen it.
                slot.get_or_init(|| map)
            }
        };
        // SAFETY: as for the header: SEGMENT_LEN_BYTES long, at an offset that is a multiple of 4 KiB (so aligned for 8-byte atomics even
        // where the kernel's pages are larger and `memmap2` maps from the page below), atomics only, and dropped with `self` only.
        Ok(unsafe { &*map.as_ptr().cast::<Segment>() })
    }

    fn map_segment(&self, index: u32) -> Result<MmapRaw, SpoolError> {
        let offset = HEADER_LEN_BYTES + u64::from(index) * SEGMENT_LEN_BYTES;
        let len = self
            .file
            .metadata()
            .map_err(SpoolError::io("stat", &self.path))?
            .len();
        if len < offset + SEGMENT_LEN_BYTES {
            return Err(SpoolError::unusable(&self.path, "was truncated"));
        }
        map_range(&self.file, offset, SEGMENT_LEN_BYTES as usize)
            .map_err(SpoolError::io("map", &self.path))
    }
}

fn len_with(segments: u32) -> u64 {
    HEADER_LEN_BYTES + u64::from(segments) * SEGMENT_LEN_BYTES
}

fn map_range(file: &File, offset: u64, len: usize) -> std::io::Result<MmapRaw> {
    MmapOptions::new().offset(offset).len(len).map_raw(file)
}

fn too_large(segment: u32) -> SpoolError {
    SpoolError::TooLarge {
        chunks: u64::from(segment) * u64::from(SEGMENT_CHUNKS),
        chunks_max: CHUNKS_MAX,
    }
}
