//! Shared memory and memory maps of an open file, through `shm` and `mmap`; called through `mod`.

use super::UnixFile;
use crate::shm::{SharedMemory, ShmFailure};
use nix::unistd::{SysconfVar, sysconf};
use verneuil_abi::{Code, Mapped, Result, ShmLock, ShmRegion, ShmSlots};

/// If the kernel doesn't say how large its pages are.
const USUAL_PAGE_LEN_BYTES: usize = 4096;

impl UnixFile {
    pub(super) fn map_shm(
        &mut self,
        region: usize,
        region_len: usize,
        extend: bool,
    ) -> Result<ShmRegion> {
        if self.shm.is_none() {
            self.attach_shm()?;
        } else {
            self.take_over_after_fork_between_transactions()?;
        }
        let Some(shm) = &mut self.shm else {
            return Err(Code::IOERR_SHMMAP);
        };
        match shm.region(region, region_len, extend) {
            Ok(region) => Ok(region),
            Err(failure) => Err(self.shm_failed(failure)),
        }
    }

    /// Regions may be mapped in the midst of a transaction, which needs no lock.
    fn take_over_after_fork_between_transactions(&mut self) -> Result<()> {
        match &self.shm {
            Some(shm) if shm.is_inherited() && !shm.holds_slots() => self.take_over_after_fork(),
            _ => Ok(()),
        }
    }

    /// Opens the shared memory. After `READONLY_CANTINIT` it stays attached; after any other failure it isn't.
    fn attach_shm(&mut self) -> Result<()> {
        let Some(path) = self.path() else {
            return Err(Code::IOERR_SHMMAP);
        };
        let page_len = match sysconf(SysconfVar::PAGE_SIZE) {
            Ok(Some(len)) => usize::try_from(len).unwrap_or(USUAL_PAGE_LEN_BYTES),
            _ => USUAL_PAGE_LEN_BYTES,
        };
        let opened = SharedMemory::open(self.file(), path, self.parts.read_only_shm, page_len);
        let mut shm = match opened {
            Ok(shm) => shm,
            Err(failure) => return Err(self.shm_failed(failure)),
        };
        match shm.lock_switch() {
            Ok(()) => {
                self.shm = Some(shm);
                Ok(())
            }
            Err(failure) => {
                if failure.code == Code::READONLY_CANTINIT {
                    self.shm = Some(shm);
                }
                Err(self.shm_failed(failure))
            }
        }
    }

    pub(super) fn lock_shm(&mut self, slots: ShmSlots, how: ShmLock) -> Result<()> {
        if matches!(how, ShmLock::Share | ShmLock::Exclude) && self.shm.is_some() {
            self.take_over_after_fork()?;
        }
        let Some(shm) = &mut self.shm else {
            return Err(Code::IOERR_SHMLOCK);
        };
        let result = shm.lock(slots, how);
        if slots.contains(ShmSlots::WRITE) {
            self.note_writing();
        }
        result.map_err(|failure| self.shm_failed(failure))
    }

    pub(super) fn unmap_shm(&mut self, delete: bool) {
        let Some(shm) = self.shm.take() else { return };
        if delete {
            shm.unlink();
        }
        drop(shm);
        self.note_writing();
    }

    /// Logs what is worth it.
    pub(super) fn shm_failed(&mut self, failure: ShmFailure) -> Code {
        if let Some(error) = failure.error {
            // The path is that of the database; the operation says that its shared memory failed.
            let operation = format!("shared memory (-shm): {} of", failure.operation);
            return self.failed(failure.code, &operation, &error);
        }
        failure.code
    }

    pub(super) fn fetch_page(&mut self, offset: u64, len: usize) -> Result<Option<Mapped>> {
        match self.map.fetch(&self.parts.descriptor, offset, len) {
            Ok(page) => Ok(page),
            Err(error) => {
                // Not an error for SQLite, which reads the page instead.
                self.failed(Code::WARNING, "mmap", &error);
                Ok(None)
            }
        }
    }
}
