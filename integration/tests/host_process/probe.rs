//! What a library must not change in the process that loads it, as `/proc` and the host's own answer to `state` tell it; and what it adds:
//! threads and descriptors.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::host::Host;

/// Fields of `/proc/PID/status` of the main thread.
const STATUS_FIELDS: [&str; 9] = [
    "Umask",
    "Uid",
    "Gid",
    "SigIgn",
    "SigCgt",
    "SigBlk",
    "NoNewPrivs",
    "Seccomp",
    "Cpus_allowed",
];

/// All signals that can be blocked: not KILL (9) and STOP (19), nor the two of the C library (32, 33).
const ALL_SIGNALS: u64 = !(1 << 8 | 1 << 18 | 1 << 31 | 1 << 32);

/// The state of a host that is its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe(BTreeMap<String, String>);

impl Probe {
    /// Looks at a host that waits for its next command.
    pub fn take(host: &mut Host) -> Result<Self> {
        let mut found = BTreeMap::new();
        found.insert("state".to_owned(), host.ask("state")?);
        let proc = PathBuf::from(format!("/proc/{}", host.pid()));
        let status = fs::read_to_string(proc.join("status"))?;
        for field in STATUS_FIELDS {
            let mut value = status_field(&status, field)?;
            if field.starts_with("Sig") {
                // The C library catches the two of its own as soon as there is a second thread.
                value = format!("{:x}", u64::from_str_radix(&value, 16)? & ALL_SIGNALS);
            }
            found.insert(field.to_owned(), value);
        }
        found.insert(
            "limits".to_owned(),
            fs::read_to_string(proc.join("limits"))?,
        );
        found.insert(
            "cwd".to_owned(),
            fs::read_link(proc.join("cwd"))?.display().to_string(),
        );
        found.insert("name".to_owned(), fs::read_to_string(proc.join("comm"))?);
        found.insert(
            "adjustment".to_owned(),
            fs::read_to_string(proc.join("oom_score_adj"))?,
        );
        for fd in 0..=2 {
            let text = match fs::read_link(proc.join(format!("fd/{fd}"))) {
                Ok(file) => format!("{} {}", file.display(), fd_flags(&proc, fd)?),
                Err(_) => "closed".to_owned(),
            };
            found.insert(format!("descriptor {fd}"), text);
        }
        let children = fs::read_to_string(proc.join(format!("task/{}/children", host.pid())))?;
        found.insert("children".to_owned(), children);
        Ok(Self(found))
    }

    /// Fails unless nothing has changed since.
    pub fn is_still(&self, host: &mut Host, when: &str) -> Result<()> {
        let now = Self::take(host)?;
        for (name, then) in &self.0 {
            let now = &now.0[name];
            ensure!(then == now, "{when}: {name} was {then:?}, and is {now:?}");
        }
        Ok(())
    }
}

fn status_field(status: &str, field: &str) -> Result<String> {
    status
        .lines()
        .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))
        .map(|value| value.trim().to_owned())
        .with_context(|| format!("no {field} in the status of a process"))
}

fn fd_flags(proc: &Path, fd: u32) -> Result<u32> {
    let info = fs::read_to_string(proc.join(format!("fdinfo/{fd}")))?;
    Ok(u32::from_str_radix(&status_field(&info, "flags")?, 8)?)
}

/// Threads of the process beside its first one that are the extension's; fails unless all of them block every signal, so that the
/// host's handlers run on the host's threads.
pub fn threads_that_block_all_signals(host: &Host) -> Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(format!("/proc/{}/task", host.pid()))? {
        // Threads come and go.
        let Ok(status) = fs::read_to_string(entry?.path().join("status")) else {
            continue;
        };
        let name = status_field(&status, "Name")?;
        if !name.starts_with("verneuil") {
            continue;
        }
        count += 1;
        let blocked = u64::from_str_radix(&status_field(&status, "SigBlk")?, 16)?;
        ensure!(
            blocked & ALL_SIGNALS == ALL_SIGNALS,
            "thread {name} blocks the signals {blocked:x} only"
        );
    }
    Ok(count)
}

/// An open descriptor of a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What it leads to.
    pub file: String,
    /// Whether a program that is started gets it.
    is_inherited: bool,
}

/// All descriptors of a host.
pub fn descriptors(host: &Host) -> Result<BTreeMap<u32, Descriptor>> {
    const O_CLOEXEC: u32 = 0o2_000_000;
    let proc = PathBuf::from(format!("/proc/{}", host.pid()));
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(proc.join("fd"))? {
        let entry = entry?;
        let name = entry.file_name();
        let fd: u32 = name.to_str().context("not a number")?.parse()?;
        // The copier opens and closes while this looks.
        let (Ok(file), Ok(flags)) = (fs::read_link(entry.path()), fd_flags(&proc, fd)) else {
            continue;
        };
        let file = file.display().to_string();
        let is_inherited = flags & O_CLOEXEC == 0;
        found.insert(fd, Descriptor { file, is_inherited });
    }
    Ok(found)
}

/// Fails if a program that is started would get a descriptor that the host did not have `before`.
pub fn inherits_nothing_new(host: &Host, before: &BTreeMap<u32, Descriptor>) -> Result<()> {
    for (fd, descriptor) in descriptors(host)? {
        ensure!(
            !descriptor.is_inherited || before.get(&fd) == Some(&descriptor),
            "a program that is started inherits descriptor {fd}, {}",
            descriptor.file
        );
    }
    Ok(())
}
