//! The `verneuil` VFS as a process sees it that is about to die: `kill -9` before a given call of SQLite's. Registered by `worker`.

use std::ffi::c_int;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::{Signal, raise};
use verneuil_abi::{
    Access, DeviceCharacteristics, File, FileControl, FullPathname, LockLevel, Mapped, OpenRequest,
    Opened, Result, ShmLock, ShmRegion, ShmSlots, SyncFlags, Vfs,
};
use verneuil_tracking::TrackingVfs;

/// Calls that change something, until death; 0: none is counted.
static CALLS_LEFT: AtomicU32 = AtomicU32::new(0);
/// Unlocks from EXCLUSIVE, until death; 0: none is counted.
static UNLOCKS_LEFT: AtomicU32 = AtomicU32::new(0);

/// Dies before the call number `calls` that changes something (0: never), and before the unlock number `unlocks` that ends EXCLUSIVE.
pub(super) fn die_at(calls: u32, unlocks: u32) {
    CALLS_LEFT.store(calls, Ordering::SeqCst);
    UNLOCKS_LEFT.store(unlocks, Ordering::SeqCst);
}

fn count(left: &AtomicU32) {
    let counted = left.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
        left.checked_sub(1)
    });
    if counted == Ok(1) {
        let _ = raise(Signal::SIGKILL);
    }
}

/// The VFS.
pub(super) struct MortalVfs(pub(super) TrackingVfs);

/// One of its files.
pub(super) struct MortalFile {
    inner: <TrackingVfs as Vfs>::File,
    level: LockLevel,
}

impl Vfs for MortalVfs {
    type File = MortalFile;

    fn open(&self, request: OpenRequest<'_>) -> Result<Opened<MortalFile>> {
        count(&CALLS_LEFT);
        let opened = self.0.open(request)?;
        Ok(Opened {
            flags: opened.flags,
            file: MortalFile {
                inner: opened.file,
                level: LockLevel::None,
            },
        })
    }

    fn delete(&self, path: &Path, sync_directory: bool) -> Result<()> {
        count(&CALLS_LEFT);
        self.0.delete(path, sync_directory)
    }

    fn access(&self, path: &Path, access: Access) -> Result<bool> {
        self.0.access(path, access)
    }

    fn full_pathname(&self, path: &Path) -> Result<FullPathname> {
        self.0.full_pathname(path)
    }
}

impl File for MortalFile {
    fn read(&mut self, buffer: &mut [u8], offset: u64) -> Result<()> {
        self.inner.read(buffer, offset)
    }

    fn write(&mut self, bytes: &[u8], offset: u64) -> Result<()> {
        count(&CALLS_LEFT);
        self.inner.write(bytes, offset)
    }

    fn truncate(&mut self, len: u64) -> Result<()> {
        count(&CALLS_LEFT);
        self.inner.truncate(len)
    }

    fn sync(&mut self, flags: SyncFlags) -> Result<()> {
        self.inner.sync(flags)
    }

    fn size(&mut self) -> Result<u64> {
        self.inner.size()
    }

    fn lock(&mut self, level: LockLevel) -> Result<()> {
        count(&CALLS_LEFT);
        self.inner.lock(level)?;
        self.level = level;
        Ok(())
    }

    fn unlock(&mut self, level: LockLevel) -> Result<()> {
        count(&CALLS_LEFT);
        if self.level == LockLevel::Exclusive {
            count(&UNLOCKS_LEFT);
        }
        self.inner.unlock(level)?;
        self.level = level;
        Ok(())
    }

    fn check_reserved_lock(&mut self) -> Result<bool> {
        self.inner.check_reserved_lock()
    }

    fn file_control(&mut self, control: FileControl<'_>) -> Result<()> {
        count(&CALLS_LEFT);
        self.inner.file_control(control)
    }

    fn sector_size(&mut self) -> c_int {
        self.inner.sector_size()
    }

    fn device_characteristics(&mut self) -> DeviceCharacteristics {
        self.inner.device_characteristics()
    }

    fn offers_wal(&self) -> bool {
        self.inner.offers_wal()
    }

    fn shm_map(&mut self, region: usize, region_len: usize, extend: bool) -> Result<ShmRegion> {
        self.inner.shm_map(region, region_len, extend)
    }

    fn shm_lock(&mut self, slots: ShmSlots, how: ShmLock) -> Result<()> {
        self.inner.shm_lock(slots, how)
    }

    fn shm_barrier(&mut self) {
        self.inner.shm_barrier();
    }

    fn shm_unmap(&mut self, delete: bool) -> Result<()> {
        self.inner.shm_unmap(delete)
    }

    fn fetch(&mut self, offset: u64, len: usize) -> Result<Option<Mapped>> {
        self.inner.fetch(offset, len)
    }

    fn unfetch(&mut self, offset: Option<u64>) -> Result<()> {
        self.inner.unfetch(offset)
    }

    fn close(self) -> Result<()> {
        count(&CALLS_LEFT);
        self.inner.close()
    }
}
