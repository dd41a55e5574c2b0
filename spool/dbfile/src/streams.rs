//! Keeps our files off descriptors 0 to 2, which a host may have closed: whatever is there would be overwritten by its next stray `printf`.
//! Used by `pool`, and by every crate that opens files for longer than a call.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, IntoRawFd};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;

const DEV_NULL: &str = "/dev/null";

/// The same file on a descriptor above 2. Where it was, /dev/null stays, as with SQLite's own VFS.
///
/// # Errors
/// When there is no descriptor left; the file is closed then.
pub fn off_standard_streams(file: File) -> io::Result<File> {
    let low = file.as_raw_fd();
    if low > 2 {
        return Ok(file);
    }
    let null = File::options().read(true).write(true).open(DEV_NULL)?;
    // Duplicates are made at descriptor 3 or above.
    let high = file.try_clone()?;
    match low {
        0 => nix::unistd::dup2_stdin(&null)?,
        1 => nix::unistd::dup2_stdout(&null)?,
        _ => nix::unistd::dup2_stderr(&null)?,
    }
    // The number now belongs to /dev/null, for good.
    let _ = file.into_raw_fd();
    Ok(high)
}

/// Puts /dev/null where a standard stream is closed, for work whose descriptors are made by others (sockets, say). Programs that are started
/// find the stream closed as before.
pub fn occupy_standard_streams() {
    loop {
        // It gets the lowest number that is free.
        let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
        match nix::fcntl::open(DEV_NULL, flags, Mode::empty()) {
            Ok(null) if null.as_raw_fd() <= 2 => drop(null.into_raw_fd()),
            _ => return,
        }
    }
}
