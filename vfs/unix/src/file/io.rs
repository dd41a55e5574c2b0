//! Reading, writing, growing, cutting and syncing an open file; called through `mod`, and by `control` for size hints.

use super::{Companion, Descriptor, UnixFile};
use crate::durable::sync_directory_of;
use crate::forked::{is_forked, refusal, writes_itself};
use nix::errno::Errno;
use nix::fcntl::posix_fallocate;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use verneuil_abi::{Code, LockLevel, Result};
use verneuil_dbfile::fork::generation;

impl UnixFile {
    /// The length that `File::truncate` really sets for `len`: with a chunk size, a multiple of it.
    #[must_use]
    pub fn rounded_len(&self, len: u64) -> u64 {
        match self.chunk_size_bytes {
            0 => len,
            chunk => len.checked_next_multiple_of(chunk).unwrap_or(len),
        }
    }

    /// The length to which `FileControl::SizeHint` would grow the file now; none if it leaves the file alone.
    ///
    /// # Errors
    /// `IOERR_FSTAT`.
    pub fn len_after_hint(&mut self, hint: i64) -> Result<Option<u64>> {
        if self.chunk_size_bytes == 0 {
            return Ok(None);
        }
        let len = self.stat_len()?;
        let hinted = self.rounded_len(u64::try_from(hint).unwrap_or(0));
        Ok((hinted > len).then_some(hinted))
    }

    pub(super) fn stat_len(&mut self) -> Result<u64> {
        match self.file().metadata() {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) => Err(self.failed(Code::IOERR_FSTAT, "fstat", &error)),
        }
    }

    pub(super) fn grow(&mut self, hint: i64) -> Result<()> {
        let Some(hinted) = self.len_after_hint(hint)? else {
            return Ok(());
        };
        let len = self.stat_len()?;
        loop {
            // Blocks and not just a length: a full disk shows here, and not in the middle of a commit.
            let grown =
                posix_fallocate(self.file(), len.cast_signed(), (hinted - len).cast_signed());
            return match grown {
                Err(Errno::EINTR) => continue,
                Ok(()) => {
                    self.map.written_to(hinted);
                    Ok(())
                }
                // The file system can't; SQLite grows the file by writing.
                Err(Errno::EINVAL | Errno::EOPNOTSUPP) => Ok(()),
                Err(errno) => Err(self.failed(Code::IOERR_WRITE, "fallocate", &errno.into())),
            };
        }
    }

    pub(super) fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            match self
                .file()
                .read_at(&mut buffer[done..], offset + done as u64)
            {
                Ok(0) => {
                    self.last_errno = 0;
                    buffer[done..].fill(0);
                    return Err(Code::IOERR_SHORT_READ);
                }
                Ok(len) => done += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    // These come from a damaged disk or file system; SQLite reports them as a corrupt database.
                    let code = match error.raw_os_error().map(Errno::from_raw) {
                        Some(Errno::ERANGE | Errno::EIO | Errno::ENXIO) => Code::IOERR_CORRUPTFS,
                        _ => Code::IOERR_READ,
                    };
                    return Err(self.failed(code, "read", &error));
                }
            }
        }
        Ok(())
    }

    pub(super) fn write_at(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        self.refuse_inherited_transaction(Code::IOERR_WRITE, "write")?;
        let mut done = 0;
        while done < bytes.len() {
            match self.file().write_at(&bytes[done..], offset + done as u64) {
                Ok(0) => return Err(Code::FULL),
                Ok(len) => done += len,
                Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EINTR) => {}
                    Some(Errno::ENOSPC | Errno::EDQUOT) => {
                        // A full disk is told by the code alone, as in `unix`.
                        self.last_errno = 0;
                        return Err(Code::FULL);
                    }
                    _ => return Err(self.failed(Code::IOERR_WRITE, "write", &error)),
                },
            }
        }
        self.map.written_to(offset + bytes.len() as u64);
        Ok(())
    }

    pub(super) fn set_len(&mut self, len: u64) -> Result<()> {
        self.refuse_inherited_transaction(Code::IOERR_TRUNCATE, "ftruncate")?;
        let len = self.rounded_len(len);
        loop {
            return match self.file().set_len(len) {
                Ok(()) => {
                    self.map.truncated_to(len);
                    Ok(())
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => Err(self.failed(Code::IOERR_TRUNCATE, "ftruncate", &error)),
            };
        }
    }

    pub(super) fn sync_data(&mut self) -> Result<()> {
        if let Err(error) = self.file().sync_data() {
            return Err(self.failed(Code::IOERR_FSYNC, "fdatasync", &error));
        }
        if self.parts.sync_directory {
            // Once, and best effort, as in `unix`: not every file system can.
            self.parts.sync_directory = false;
            if let Some(path) = self.path() {
                let _ = sync_directory_of(path);
            }
        }
        Ok(())
    }

    /// A transaction that was open at a fork is the parent's: a child that would finish it, or roll it back, would write under locks
    /// that it does not have.
    fn refuse_inherited_transaction(&mut self, code: Code, operation: &str) -> Result<()> {
        if !is_forked() {
            return Ok(());
        }
        let refused = match (&*self.parts.descriptor, &self.parts.companion) {
            (Descriptor::Database(pooled), _) => {
                pooled.is_inherited() && self.lock_level() > LockLevel::None
            }
            (Descriptor::Other(_), Some((_, database))) if writes_itself(database) => false,
            // Who appends holds slot 0 or EXCLUSIVE; nobody does without locks.
            (Descriptor::Other(_), Some((Companion::Log, _))) => true,
            // No journal stays open between two transactions in normal locking mode.
            (Descriptor::Other(_), Some((Companion::Journal, _))) => {
                self.generation != generation()
            }
            (Descriptor::Other(_), None) => false,
        };
        if refused {
            return Err(self.failed(code, operation, &refusal()));
        }
        Ok(())
    }
}
