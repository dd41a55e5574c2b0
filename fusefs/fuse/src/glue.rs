//! FUSE requests in, calls of the core out, and the answers back; `mount` hands it to fuser.
//!
//! The mount is `MS_RDONLY`, so the kernel itself answers everything that writes with `EROFS`.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyLock, ReplyOpen, ReplyStatfs, Request,
};
use nix::errno::Errno as CoreErrno;
use verneuil_fs_core::fs::{Attr, FileSystem, Lookup};
use verneuil_fs_core::options::LONG_TTL;
use verneuil_fs_core::source::{EntryKind, Source};
use verneuil_fs_core::{LockKind, LockRequest};

/// Readahead requests that the kernel may have under way: its default of 12 is not enough for a store far away.
const BACKGROUND_REQUESTS_MAX: u16 = 64;

/// The largest request, in bytes: the kernel's own limit.
const REQUEST_LEN_MAX_BYTES: u32 = 1 << 20;

/// Longest name and block size that `statfs` reports.
const NAME_MAX_BYTES: u32 = 255;
const BLOCK_LEN_BYTES: u32 = 4_096;

/// The core as fuser wants it.
pub struct Glue<S: Source> {
    pub fs: FileSystem<S>,
}

impl<S: Source> Filesystem for Glue<S> {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Locks reach the daemon; pages stay until they are dropped explicitly. Nothing works without these two.
        for (flag, since) in [
            (InitFlags::FUSE_POSIX_LOCKS, "2.6.30"),
            (InitFlags::FUSE_EXPLICIT_INVAL_DATA, "5.2"),
        ] {
            config.add_capabilities(flag).map_err(|_| {
                io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("the kernel is too old: Linux {since} or later"),
                )
            })?;
        }
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        // Each of these can only be refused by offering the nearest value, which is in force then.
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        let _ = config.set_max_write(REQUEST_LEN_MAX_BYTES);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let answer = move |result| match result {
            Ok(Lookup::Found { attr, attr_ttl }) => {
                reply.entry_with_ttls(&attr_ttl, &LONG_TTL, &file_attr(&attr), Generation(0));
            }
            // Inode 0: the kernel remembers that there is none.
            Ok(Lookup::Absent { ttl }) => reply.entry(&ttl, &absent(), Generation(0)),
            Err(error) => reply.error(errno(error)),
        };
        self.fs.lookup(parent.0, name.as_bytes(), Box::new(answer));
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.fs.forget(ino.0, count);
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let answer = move |result| match result {
            Ok((attr, ttl)) => reply.attr(&ttl, &file_attr(&attr)),
            Err(error) => reply.error(errno(error)),
        };
        self.fs.getattr(ino.0, Box::new(answer));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if flags.0 & libc::O_ACCMODE != libc::O_RDONLY {
            return reply.error(Errno::EROFS);
        }
        // sqlite opens with O_NOFOLLOW and locks what it reads; see `live/handles.rs` of the core.
        let private = flags.0 & libc::O_NOFOLLOW == 0;
        let how = if private {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::FOPEN_KEEP_CACHE
        };
        let answer = move |result| match result {
            Ok(handle) => reply.opened(FileHandle(handle), how),
            Err(error) => reply.error(errno(error)),
        };
        self.fs
            .open(ino.0, request.pid(), private, Box::new(answer));
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = move |result: Result<Vec<u8>, CoreErrno>| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        };
        // The kernel names an owner when it reads for a process, and none when it fills the page cache: for `sendfile`, `splice`
        // and private memory maps it does that whatever `open` has answered.
        let is_direct = owner.is_some();
        self.fs.read(
            ino.0,
            handle.0,
            offset,
            size as usize,
            is_direct,
            Box::new(answer),
        );
    }

    fn flush(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: FileHandle,
        owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        answer_empty(reply, self.fs.flush(ino.0, owner.0));
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        answer_empty(reply, self.fs.release(ino.0, handle.0));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let answer = move |result| match result {
            Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(errno(error)),
        };
        self.fs.open_dir(ino.0, Box::new(answer));
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.fs.read_dir(ino.0, handle.0, offset) {
            Ok(entries) => {
                for entry in entries {
                    let name = OsStr::from_bytes(&entry.name);
                    if reply.add(
                        INodeNo(entry.ino),
                        entry.next_offset,
                        file_type(entry.kind),
                        name,
                    ) {
                        break;
                    }
                }
                reply.ok();
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.release_dir(handle.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // A store has no size; `df` shows 0 and leaves the mount out by default.
        reply.statfs(
            0,
            0,
            0,
            0,
            0,
            BLOCK_LEN_BYTES,
            NAME_MAX_BYTES,
            BLOCK_LEN_BYTES,
        );
    }

    fn getlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let Some(kind) = lock_kind(kind) else {
            return reply.error(Errno::EINVAL);
        };
        let request = LockRequest {
            owner: owner.0,
            pid,
            start,
            end,
            kind,
        };
        match self.fs.get_lock(ino.0, handle.0, &request) {
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Ok(Some(held)) => reply.locked(held.start, held.end, libc::F_RDLCK, held.pid),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn setlk(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        _sleep: bool,
        reply: ReplyEmpty,
    ) {
        let Some(kind) = lock_kind(kind) else {
            return reply.error(Errno::EINVAL);
        };
        let request = LockRequest {
            owner: owner.0,
            pid,
            start,
            end,
            kind,
        };
        self.fs.set_lock(
            ino.0,
            handle.0,
            request,
            Box::new(move |result| answer_empty(reply, result)),
        );
    }
}

fn answer_empty(reply: ReplyEmpty, result: Result<(), CoreErrno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

fn errno(error: CoreErrno) -> Errno {
    Errno::from_i32(error as i32)
}

fn lock_kind(kind: i32) -> Option<LockKind> {
    match kind {
        libc::F_RDLCK => Some(LockKind::Read),
        libc::F_WRLCK => Some(LockKind::Write),
        libc::F_UNLCK => Some(LockKind::Unlock),
        _ => None,
    }
}

fn file_type(kind: EntryKind) -> FileType {
    match kind {
        EntryKind::Directory => FileType::Directory,
        EntryKind::Database => FileType::RegularFile,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    let since_1970 = Duration::from_nanos(attr.mtime_ns.unsigned_abs());
    let time = match attr.mtime_ns >= 0 {
        true => SystemTime::UNIX_EPOCH.checked_add(since_1970),
        false => SystemTime::UNIX_EPOCH.checked_sub(since_1970),
    };
    let time = time.unwrap_or(SystemTime::UNIX_EPOCH);
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        blocks: attr.size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: if attr.kind == EntryKind::Directory {
            2
        } else {
            1
        },
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_LEN_BYTES,
        flags: 0,
    }
}

fn absent() -> FileAttr {
    let kind = EntryKind::Database;
    file_attr(&Attr {
        ino: 0,
        kind,
        size: 0,
        mtime_ns: 0,
        perm: 0,
        uid: 0,
        gid: 0,
    })
}
