//! Content ids, chunk indexes and generations: the newtypes that every other module (and every caller) speaks in.

use std::fmt;

use crate::limits::CHUNK_LEN_BYTES;

macro_rules! content_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 32]);

        impl $name {
            /// The id of `raw`: its BLAKE3-256.
            pub fn of(raw: &[u8]) -> Self {
                Self(*blake3::hash(raw).as_bytes())
            }

            /// Lower-case hex, 64 characters.
            pub fn to_hex(&self) -> String {
                blake3::Hash::from_bytes(self.0).to_hex().to_string()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&blake3::Hash::from_bytes(self.0).to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

content_id! {
    /// BLAKE3-256 of the raw bytes of one chunk (64 KiB; the last chunk of a file may be short).
    ChunkId
}
content_id! {
    /// BLAKE3-256 of the body of one pack, which is also its name in the store.
    PackId
}
content_id! {
    /// BLAKE3-256 of the raw (uncompressed) bytes of one node of the chunk list.
    NodeId
}

impl ChunkId {
    /// The id of `len` zero bytes (at most a chunk).
    pub fn of_zeros(len: u32) -> Self {
        static ZEROS: [u8; CHUNK_LEN_BYTES as usize] = [0; CHUNK_LEN_BYTES as usize];
        static FULL: std::sync::OnceLock<ChunkId> = std::sync::OnceLock::new();
        let zeros = &ZEROS[..(len as usize).min(ZEROS.len())];
        if zeros.len() == ZEROS.len() {
            *FULL.get_or_init(|| Self::of(zeros))
        } else {
            Self::of(zeros)
        }
    }
}

/// Number of a chunk in its file: chunk `i` starts at byte `i * 65,536`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkIndex(pub u32);

impl ChunkIndex {
    /// The chunk that holds the byte at `offset`; saturates beyond the largest file that sqlite can make.
    pub fn containing(offset: u64) -> Self {
        Self(u32::try_from(offset / u64::from(CHUNK_LEN_BYTES)).unwrap_or(u32::MAX))
    }

    /// Offset in the file of the chunk's first byte.
    pub fn start(self) -> u64 {
        u64::from(self.0) * u64::from(CHUNK_LEN_BYTES)
    }
}

/// Number of a manifest of one database; it only grows. 0 is the manifest that was never published.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many chunks a file of `file_len_bytes` has.
pub fn chunk_count(file_len_bytes: u64) -> u64 {
    file_len_bytes.div_ceil(u64::from(CHUNK_LEN_BYTES))
}

/// Length of chunk `index` in a file of `file_len_bytes`: 65,536, less for the last, 0 beyond the end.
pub fn chunk_len(file_len_bytes: u64, index: ChunkIndex) -> u32 {
    let rest = file_len_bytes.saturating_sub(index.start());
    // Bounded by CHUNK_LEN_BYTES, so it fits.
    rest.min(u64::from(CHUNK_LEN_BYTES)) as u32
}
