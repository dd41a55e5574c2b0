//! Shared memory of several connections in one process: growth, large pages, initialisation, slots.

#![allow(clippy::unwrap_used)]

use super::*;

const REGION_LEN: usize = 32_768;

fn attached(dir: &Path, page_len: usize) -> SharedMemory {
    let path = dir.join("x.db");
    let database = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .unwrap();
    let mut shm = SharedMemory::open(&database, &path, false, page_len).unwrap();
    shm.lock_switch().unwrap();
    shm
}

fn address(shm: &mut SharedMemory, region: usize, extend: bool) -> Option<*mut u8> {
    let found = shm.region(region, REGION_LEN, extend).unwrap();
    found.memory.map(verneuil_abi::Mapped::as_ptr)
}

#[test]
fn kernels_with_pages_larger_than_a_region_map_several_regions_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut small = attached(dir.path(), 4096);
    let mut large = attached(dir.path(), 4 * REGION_LEN);
    let shm_path = path_of_shared_memory(&dir.path().join("x.db"));
    assert_eq!(address(&mut large, 0, false), None);
    assert!(address(&mut large, 1, true).is_some());
    assert_eq!(
        fs::metadata(&shm_path).unwrap().len(),
        4 * REGION_LEN as u64,
        "grown for the whole map"
    );
    assert!(address(&mut large, 5, true).is_some());
    for region in 0..8 {
        let (a, b) = (
            address(&mut small, region, false).unwrap(),
            address(&mut large, region, false).unwrap(),
        );
        // SAFETY: regions of 32 KiB that stay mapped while both are attached.
        unsafe {
            a.write(region as u8 + 1);
            b.add(REGION_LEN - 1).write(region as u8 + 101);
            assert_eq!(
                (b.read(), a.add(REGION_LEN - 1).read()),
                (region as u8 + 1, region as u8 + 101)
            );
        }
    }
    let bytes = fs::read(&shm_path).unwrap();
    assert_eq!(bytes.len(), 8 * REGION_LEN);
    for region in 0..8 {
        assert_eq!(bytes[region * REGION_LEN], region as u8 + 1);
    }
    assert_eq!(address(&mut small, 8, false), None);
}

#[test]
fn only_the_first_who_attaches_cuts_the_file_and_only_alone() {
    let dir = tempfile::tempdir().unwrap();
    let shm_path = path_of_shared_memory(&dir.path().join("x.db"));
    fs::write(&shm_path, [7; 50_000]).unwrap();
    let mut first = attached(dir.path(), 4096);
    assert_eq!(fs::read(&shm_path).unwrap(), [7; 3]);
    assert!(!first.is_shared());
    address(&mut first, 0, true).unwrap();
    let second = attached(dir.path(), 4096);
    assert!(first.is_shared() && second.is_shared());
    assert_eq!(fs::metadata(&shm_path).unwrap().len(), REGION_LEN as u64);
    drop(first);
    let third = attached(dir.path(), 4096);
    assert_eq!(fs::metadata(&shm_path).unwrap().len(), REGION_LEN as u64);
    drop((second, third));
    let _fourth = attached(dir.path(), 4096);
    assert_eq!(fs::metadata(&shm_path).unwrap().len(), 3);
}

#[test]
fn slots_are_shared_excluded_and_released_like_the_kernels_locks() {
    let dir = tempfile::tempdir().unwrap();
    let (mut a, mut b) = (attached(dir.path(), 4096), attached(dir.path(), 4096));
    let slots = |first, count| ShmSlots::new(first, count).unwrap();
    let busy = |result: Result<()>| result.is_err_and(|failure| failure.code == Code::BUSY);
    a.lock(slots(3, 1), ShmLock::Share).unwrap();
    a.lock(slots(3, 1), ShmLock::Share).unwrap();
    b.lock(slots(3, 1), ShmLock::Share).unwrap();
    assert!(b.has_other_readers().unwrap());
    a.lock(slots(3, 1), ShmLock::Unshare).unwrap();
    assert!(!b.has_other_readers().unwrap());
    assert!(
        busy(a.lock(slots(1, 7), ShmLock::Exclude)),
        "b shares slot 3"
    );
    assert!(!a.holds_slots(), "all or nothing");
    b.lock(slots(3, 1), ShmLock::Unshare).unwrap();
    a.lock(slots(1, 7), ShmLock::Exclude).unwrap();
    assert!(busy(b.lock(slots(7, 1), ShmLock::Share)));
    b.lock(slots(0, 1), ShmLock::Exclude).unwrap();
    assert!(b.holds_write_slot() && !a.holds_write_slot());
    a.lock(slots(1, 7), ShmLock::Unexclude).unwrap();
    b.lock(slots(7, 1), ShmLock::Share).unwrap();
    drop(b);
    a.lock(slots(0, 8), ShmLock::Exclude).unwrap();
}
