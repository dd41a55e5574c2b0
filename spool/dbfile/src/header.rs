//! The first bytes of a database file, as far as replication looks at them.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;

/// What the header of a database file says. All zero for a file that is empty or too short to have one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Bytes 24..28: grows with every transaction of rollback-journal mode (not in exclusive locking mode).
    pub change_counter: u32,
    /// Bytes 16..18, in bytes (65,536 is stored as 1).
    pub page_size: u32,
    /// Byte 18: 1 for rollback journals, 2 for WAL.
    pub write_version: u8,
    /// Byte 19: 1 for rollback journals, 2 for WAL.
    pub read_version: u8,
}

impl Header {
    /// As many bytes from the start of the file as [`Header::parse`] looks at.
    pub const LEN_BYTES: usize = 28;

    /// Reads a header from the first bytes of a file.
    pub fn parse(bytes: &[u8; Self::LEN_BYTES]) -> Self {
        let page_size = u32::from(u16::from_be_bytes([bytes[16], bytes[17]]));
        Self {
            change_counter: u32::from_be_bytes([bytes[24], bytes[25], bytes[26], bytes[27]]),
            page_size: if page_size == 1 { 65_536 } else { page_size },
            write_version: bytes[18],
            read_version: bytes[19],
        }
    }

    /// Whether the database is in WAL mode, so that its main file alone is not a committed state.
    pub fn is_wal(&self) -> bool {
        self.write_version == 2 || self.read_version == 2
    }
}

/// Reads the header of an open database file with one `pread`.
///
/// # Errors
/// When the file can't be read. A file without a full header is not an error.
pub fn read_header(file: &File) -> io::Result<Header> {
    let mut bytes = [0u8; Header::LEN_BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(Header::parse(&bytes)),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(Header::default()),
        Err(error) => Err(error),
    }
}
