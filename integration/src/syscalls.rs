//! System calls of one program, counted per thread from a trace of `strace`; the cost test compares such counts.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::paths;
use crate::process;

/// Marks are attempts to open this folder's files, which does not exist: visible in a trace, without effect.
const MARK_DIR: &str = "/verneuil-test-mark";

/// One finished system call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Thread that made it.
    pub thread: u32,
    /// Its name, such as `pread64`.
    pub name: String,
    /// Its arguments as strace prints them, descriptors with their paths.
    pub arguments: String,
    /// What it returned; an error is negative.
    pub returned: i64,
}

impl Call {
    /// Whether its first argument is a descriptor of this file.
    #[must_use]
    pub fn on_file(&self, file: &Path) -> bool {
        let name = format!("<{}>", file.display());
        self.arguments
            .split(',')
            .next()
            .is_some_and(|first| first.ends_with(&name))
    }

    /// Whether it forces data to the disk.
    #[must_use]
    pub fn is_sync(&self) -> bool {
        matches!(
            self.name.as_str(),
            "fsync" | "fdatasync" | "sync_file_range" | "syncfs" | "sync" | "msync"
        )
    }

    /// Whether it reads from a descriptor.
    #[must_use]
    pub fn is_read(&self) -> bool {
        matches!(
            self.name.as_str(),
            "read" | "pread64" | "readv" | "preadv" | "preadv2"
        )
    }
}

/// Leaves a mark in the trace of the calling thread.
pub fn mark(name: &str) {
    // Fails always, and is meant to.
    let _ = std::fs::File::open(format!("{MARK_DIR}/{name}"));
}

/// All calls of a traced program, in the order in which they ended.
#[derive(Debug)]
pub struct Trace {
    calls: Vec<Call>,
}

impl Trace {
    /// Runs a program under strace.
    ///
    /// # Errors
    /// When strace is missing or may not trace here, or the program fails or takes longer than `limit`.
    pub fn record(
        program: &Path,
        arguments: &[&str],
        env: &[(String, String)],
        limit: Duration,
    ) -> Result<Self> {
        let strace = paths::system_program("strace", "strace")?;
        let log = tempfile::NamedTempFile::new()?;
        let mut command: Command = process::tied(strace);
        command
            .args(["-f", "-qq", "-y", "-s", "80", "-o"])
            .arg(log.path())
            .arg("--")
            .arg(program)
            .args(arguments);
        command.envs(env.iter().map(|(name, value)| (name, value)));
        process::run(&mut command, limit)?.ok().context(
            "under strace (if it may not trace here: a container needs --cap-add SYS_PTRACE)",
        )?;
        Ok(Self {
            calls: parse(&std::fs::read_to_string(log.path())?),
        })
    }

    /// All calls of all threads.
    #[must_use]
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The calls between two marks on the thread that left them, the marks excluded.
    ///
    /// # Errors
    /// When a mark is missing.
    pub fn between(&self, begin: &str, end: &str) -> Result<Vec<&Call>> {
        let (from, thread) = self.find(begin)?;
        let (to, other) = self.find(end)?;
        ensure!(
            thread == other && from < to,
            "the marks {begin} and {end} are not in order on one thread"
        );
        Ok(self.calls[from + 1..to]
            .iter()
            .filter(|call| call.thread == thread)
            .collect())
    }

    /// The calls of all threads between two marks.
    ///
    /// # Errors
    /// When a mark is missing.
    pub fn of_all_threads(&self, begin: &str, end: &str) -> Result<&[Call]> {
        let (from, _) = self.find(begin)?;
        let (to, _) = self.find(end)?;
        Ok(&self.calls[from + 1..to])
    }

    fn find(&self, mark: &str) -> Result<(usize, u32)> {
        let text = format!("\"{MARK_DIR}/{mark}\"");
        let at = self
            .calls
            .iter()
            .position(|call| call.name == "openat" && call.arguments.contains(&text));
        let at = at.with_context(|| format!("no mark {mark} in the trace"))?;
        Ok((at, self.calls[at].thread))
    }
}

/// How often each call occurs, for the message of a failed comparison.
#[must_use]
pub fn summary(calls: &[&Call]) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for call in calls {
        match counts.iter_mut().find(|(name, _)| *name == call.name) {
            Some((_, count)) => *count += 1,
            None => counts.push((&call.name, 1)),
        }
    }
    counts
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect::<Vec<_>>()
        .join(", ")
}

fn parse(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<u32, String> = HashMap::new();
    for line in text.lines() {
        let Some((thread, rest)) = line.trim_start().split_once(' ') else {
            continue;
        };
        let Ok(thread) = thread.parse::<u32>() else {
            continue;
        };
        let rest = rest.trim_start();
        if rest.starts_with("---") || rest.starts_with("+++") {
            continue;
        }
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            unfinished.insert(thread, begun.to_owned());
        } else if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(begun) = unfinished.remove(&thread) else {
                continue;
            };
            let tail = resumed.split_once("resumed>").map_or("", |(_, tail)| tail);
            calls.extend(call(thread, &format!("{begun}{tail}")));
        } else {
            calls.extend(call(thread, rest));
        }
    }
    calls
}

fn call(thread: u32, text: &str) -> Option<Call> {
    let (name, rest) = text.split_once('(')?;
    let (arguments, returned) = rest.rsplit_once(" = ")?;
    let arguments = arguments.trim_end().trim_end_matches(')').to_owned();
    let returned = returned
        .split([' ', '<'])
        .next()
        .unwrap_or("")
        .parse()
        .unwrap_or(-1);
    Some(Call {
        thread,
        name: name.to_owned(),
        arguments,
        returned,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_with_interleaved_threads_gives_whole_calls() {
        let text = "7 openat(AT_FDCWD</>, \"/verneuil-test-mark/a\", O_RDONLY) = -1 ENOENT (No such file)\n\
            7 pread64(5</tmp/x.db>,  <unfinished ...>\n\
            8 futex(0x1, FUTEX_WAKE, 1) = 0\n\
            7 <... pread64 resumed>\"\"..., 4096, 0) = 4096\n\
            8 +++ exited with 0 +++\n\
            7 fdatasync(5</tmp/x.db>)   = 0\n\
            7 openat(AT_FDCWD</>, \"/verneuil-test-mark/b\", O_RDONLY) = -1 ENOENT (No such file)\n";
        let trace = Trace { calls: parse(text) };
        let calls = trace.between("a", "b").unwrap();
        assert_eq!(summary(&calls), "pread64 1, fdatasync 1");
        assert!(
            calls[0].on_file(Path::new("/tmp/x.db")) && calls[0].is_read() && calls[1].is_sync()
        );
        assert_eq!(calls[0].returned, 4096);
        assert_eq!(trace.of_all_threads("a", "b").unwrap().len(), 3);
    }
}
