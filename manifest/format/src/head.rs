//! The fixed head of a manifest: all that a `stat` needs, in one small range GET; `codec` puts the body and the hash behind it.

use crate::error::{FormatError, malformed, within};
use crate::ids::Generation;
use crate::limits::{FILE_LEN_MAX_BYTES, MANIFEST_LEN_MAX_BYTES};

/// Length of the head.
pub const HEAD_LEN_BYTES: usize = 64;

/// Length of the BLAKE3 hash that ends a manifest.
pub(crate) const TAIL_LEN_BYTES: usize = 32;

/// The format version that this software reads and writes.
pub const FORMAT_VERSION: u32 = 1;

/// First byte not ASCII, last byte a newline: a transfer in text mode shows.
const MAGIC: [u8; 8] = *b"\x8eVERNEU\n";

/// Where the head's own checksum starts; it covers what precedes.
const CHECKSUM_AT: usize = 48;

/// What the first bytes of a manifest say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of the manifest.
    pub generation: Generation,
    /// Length of the database file, in bytes.
    pub file_len: u64,
    /// When the snapshot was taken, in nanoseconds since 1970 (source host's clock).
    pub commit_time_ns: i64,
    /// Length of the protobuf body that follows, in bytes.
    pub body_len: u32,
}

impl Head {
    /// Reads a head from the first [`HEAD_LEN_BYTES`] of a manifest; more bytes may follow.
    ///
    /// # Errors
    /// If the bytes are too few, are not a manifest's, are damaged, or name an unknown version or impossible lengths.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(head) = bytes.first_chunk::<HEAD_LEN_BYTES>() else {
            // A foreign object is called that, even when it is short.
            if bytes.is_empty() || !MAGIC.starts_with(&bytes[..bytes.len().min(MAGIC.len())]) {
                return Err(FormatError::NotAManifest);
            }
            let (have, need) = (bytes.len() as u64, HEAD_LEN_BYTES as u64);
            return Err(FormatError::Truncated {
                what: "manifest head",
                have,
                need,
            });
        };
        if !head.starts_with(&MAGIC) {
            return Err(FormatError::NotAManifest);
        }
        // The version comes first: another version may lay out everything behind it in another way.
        let version = u32::from_le_bytes(field(head, 8));
        if version != FORMAT_VERSION {
            return Err(FormatError::UnknownVersion {
                found: version,
                known: FORMAT_VERSION,
            });
        }
        if head[CHECKSUM_AT..] != checksum(&head[..CHECKSUM_AT]) {
            return Err(FormatError::Damaged {
                what: "manifest head",
            });
        }
        if field(head, 44) != [0; 4] {
            return Err(malformed(
                "manifest head",
                "its reserved bytes are not zero",
            ));
        }
        let decoded = Self {
            generation: Generation(u64::from_le_bytes(field(head, 16))),
            file_len: u64::from_le_bytes(field(head, 24)),
            commit_time_ns: i64::from_le_bytes(field(head, 32)),
            body_len: u32::from_le_bytes(field(head, 40)),
        };
        if u32::from_le_bytes(field(head, 12)) as usize != HEAD_LEN_BYTES {
            return Err(malformed(
                "manifest head",
                "it gives another length for itself",
            ));
        }
        within("file length", decoded.file_len, FILE_LEN_MAX_BYTES)?;
        within(
            "manifest length",
            decoded.manifest_len(),
            MANIFEST_LEN_MAX_BYTES as u64,
        )?;
        Ok(decoded)
    }

    /// The bytes of the head.
    pub fn encode(&self) -> [u8; HEAD_LEN_BYTES] {
        let mut head = [0; HEAD_LEN_BYTES];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        head[12..16].copy_from_slice(&(HEAD_LEN_BYTES as u32).to_le_bytes());
        head[16..24].copy_from_slice(&self.generation.0.to_le_bytes());
        head[24..32].copy_from_slice(&self.file_len.to_le_bytes());
        head[32..40].copy_from_slice(&self.commit_time_ns.to_le_bytes());
        head[40..44].copy_from_slice(&self.body_len.to_le_bytes());
        let sum = checksum(&head[..CHECKSUM_AT]);
        head[CHECKSUM_AT..].copy_from_slice(&sum);
        head
    }

    /// Length of the whole manifest: head, body and hash.
    pub fn manifest_len(&self) -> u64 {
        HEAD_LEN_BYTES as u64 + u64::from(self.body_len) + TAIL_LEN_BYTES as u64
    }
}

fn field<const N: usize>(head: &[u8; HEAD_LEN_BYTES], at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&head[at..at + N]);
    bytes
}

/// The first 16 bytes of BLAKE3: a head is read alone, so it has to vouch for itself.
fn checksum(bytes: &[u8]) -> [u8; HEAD_LEN_BYTES - CHECKSUM_AT] {
    let mut sum = [0; HEAD_LEN_BYTES - CHECKSUM_AT];
    sum.copy_from_slice(&blake3::hash(bytes).as_bytes()[..HEAD_LEN_BYTES - CHECKSUM_AT]);
    sum
}
