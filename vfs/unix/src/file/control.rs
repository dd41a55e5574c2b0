//! The file controls that `unix` answers; called through `mod`. What is not known is `NOTFOUND`: SQLite takes that for "no".

use super::{Descriptor, UnixFile};
use nix::libc;
use std::ffi::c_int;
use std::fs::File as StdFile;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use verneuil_abi::{Code, FileControl, LockLevel, Result};

impl UnixFile {
    pub(super) fn control(&mut self, control: FileControl<'_>) -> Result<()> {
        match control {
            FileControl::LockState(out) => *out = self.lock_level().raw(),
            FileControl::LastErrno(out) => *out = self.last_errno,
            FileControl::ChunkSize(bytes) => {
                self.chunk_size_bytes = u64::try_from(bytes).unwrap_or(0)
            }
            FileControl::SizeHint(hint) => self.grow(hint)?,
            FileControl::PersistWal(value) => switch(&mut self.persist_wal, value),
            FileControl::PowersafeOverwrite(value) => {
                switch(&mut self.parts.powersafe_overwrite, value)
            }
            FileControl::MmapSize(value) => *value = self.map.set_limit(*value),
            FileControl::VfsName(mut slot) => slot.set(self.parts.vfs_name)?,
            FileControl::TempFilename(mut slot) => {
                slot.set(&self.parts.temporary.fresh_path()?.to_string_lossy())?;
            }
            FileControl::HasMoved(out) => *out = c_int::from(self.has_moved()),
            FileControl::ExternalReader(out) => *out = c_int::from(self.has_other_readers()?),
            FileControl::NullIo => self.cut_off()?,
            _ => return Err(Code::NOTFOUND),
        }
        Ok(())
    }

    /// Unlike `unix`, which looks at other processes only, this counts the other connections of this process, too: the
    /// kernel doesn't say whose an OFD lock is.
    fn has_other_readers(&mut self) -> Result<bool> {
        let Some(shm) = &self.shm else {
            return Ok(false);
        };
        match shm.has_other_readers() {
            Ok(answer) => Ok(answer),
            Err(failure) => Err(self.shm_failed(failure)),
        }
    }

    /// Lets go of the file: every further read, write and lock fails.
    fn cut_off(&mut self) -> Result<()> {
        // O_PATH: a descriptor that can do nothing.
        let nothing = StdFile::options()
            .read(true)
            .custom_flags(libc::O_PATH)
            .open("/dev/null");
        let nothing = match nothing {
            Ok(nothing) => nothing,
            Err(error) => return Err(self.failed(Code::IOERR, "open /dev/null for", &error)),
        };
        self.lower_lock(LockLevel::None)?;
        self.parts.descriptor = Arc::new(Descriptor::Other(nothing));
        Ok(())
    }
}

/// Negative asks, 0 and 1 set; the answer goes in.
fn switch(state: &mut bool, value: &mut c_int) {
    match *value {
        ..0 => *value = c_int::from(*state),
        0 => *state = false,
        1.. => *state = true,
    }
}
