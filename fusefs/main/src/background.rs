//! Going to the background without `fork`: the program starts itself again in the foreground, as a session of its own,
//! and returns when that says (through its stdout) that the mount answers. Called by `main` (the one that returns) and
//! by `daemon` (the one that stays).

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, Stdio};

use anyhow::Context;
use nix::sys::stat::{FileStat, SFlag, fstat};

/// Set for the program that stays.
const VARIABLE: &str = "VERNEUIL_FS_BACKGROUND";

const READY: &[u8] = b"ready";

/// Starts the daemon and waits until it is ready or has failed; it prints its errors on our stderr.
///
/// # Errors
/// It could not be started.
pub fn start() -> anyhow::Result<ExitCode> {
    let program =
        std::env::current_exe().context("can't find this program to start it in the background")?;
    let mut child = Command::new(&program)
        .arg("--foreground")
        .args(std::env::args_os().skip(1))
        .env(VARIABLE, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("can't start {} in the background", program.display()))?;
    let mut said = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout
            .read_to_end(&mut said)
            .context("can't hear from the daemon")?;
    }
    if said == READY {
        return Ok(ExitCode::SUCCESS);
    }
    let status = child.wait().context("can't wait for the daemon")?;
    if let Some(signal) = status.signal() {
        anyhow::bail!("the daemon was killed by signal {signal} before the mount was usable");
    }
    Ok(status
        .code()
        .and_then(|code| u8::try_from(code).ok())
        .map_or(ExitCode::FAILURE, ExitCode::from))
}

/// True in the program that stays.
pub fn is_background() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Leaves the terminal and its signals.
///
/// # Errors
/// The kernel refused.
pub fn detach() -> anyhow::Result<()> {
    // EPERM: we lead a process group already, then there is nothing to leave.
    match nix::unistd::setsid() {
        Ok(_) | Err(nix::errno::Errno::EPERM) => {}
        Err(errno) => return Err(errno).context("setsid"),
    }
    Ok(())
}

/// Tells the program that waits, and lets go of what belongs to it: its working directory, its stdout, and its stderr
/// unless that is a file (a pipe or a terminal would be kept open for as long as the mount lives).
///
/// # Errors
/// `/dev/null` can't be opened, or nobody waits.
pub fn ready() -> anyhow::Result<()> {
    std::env::set_current_dir("/").context("can't leave the working directory")?;
    let null = File::options()
        .read(true)
        .write(true)
        .open("/dev/null")
        .context("/dev/null")?;
    let mut stdout = std::io::stdout();
    stdout
        .write_all(READY)
        .and_then(|()| stdout.flush())
        .context("nobody waits for the mount")?;
    let kind = |stat: FileStat| SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    if !fstat(std::io::stderr()).is_ok_and(|stat| kind(stat) == SFlag::S_IFREG) {
        nix::unistd::dup2_stderr(&null).context("stderr")?;
    }
    nix::unistd::dup2_stdout(&null).context("stdout")?;
    Ok(())
}
