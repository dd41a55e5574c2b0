//! `programs/interpose.c` for the modules of this binary: compiled once, put into a program's environment, and its log read back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use verneuil_integration::session::Program;
use verneuil_integration::setup::{HOST, Kind, Setup};
use verneuil_integration::syscalls::{self, Trace};
use verneuil_integration::{paths, process, watchdog};

/// The program behind `Program::Rusqlite`.
pub const WRITER: &str = "verneuil-test-sqlite";
/// The command line tool.
pub const CTL: &str = "verneuilctl";

/// What a full disk, a broken one, a quota, a changed permission and a leak of descriptors look like.
pub const ERRORS: [Errno; 5] = [
    Errno::ENOSPC,
    Errno::EIO,
    Errno::EDQUOT,
    Errno::EACCES,
    Errno::EMFILE,
];

/// What happens at the call that is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the calls are counted.
    Count,
    /// The process is killed before the call.
    Kill,
    /// A read or a write does half of its work.
    Short,
    /// The call fails.
    Fail(Errno),
    /// This call and all later ones fail.
    FailFromNow(Errno),
}

/// The `at`-th call of a program on some files, from 1; 0 is none, and only counts.
#[derive(Clone, Debug)]
pub struct Fault {
    pub program: &'static str,
    /// Prefixes of the paths that count.
    pub files: Vec<PathBuf>,
    /// Only what comes between the marks `arm` and `disarm` counts.
    pub is_marked: bool,
    pub at: usize,
    pub action: Action,
    /// Gets a line per call.
    pub log: PathBuf,
}

/// One call that was counted.
#[derive(Clone, Debug)]
pub struct Call {
    pub name: String,
    pub path: String,
}

impl Call {
    /// Its name and what kind of file it is about: the part of the path below `folder`, with all that is random in it removed.
    pub fn operation(&self, folder: &Path) -> String {
        let below = self
            .path
            .strip_prefix(&*folder.to_string_lossy())
            .unwrap_or(&self.path);
        // Names are what random numbers and hashes are joined to by '-'; generations are numbers.
        let mut plain: Vec<&str> = Vec::new();
        for part in below.split('/') {
            plain.push(part.split('-').next().unwrap_or(part));
        }
        format!("{} {}", self.name, plain.join("/"))
    }
}

impl Fault {
    /// The environment of a program that it happens to.
    pub fn env(&self) -> Result<Vec<(String, String)>> {
        let files: Vec<_> = self
            .files
            .iter()
            .map(|path| path.to_string_lossy())
            .collect();
        let (what, lasts) = match self.action {
            Action::Count | Action::Kill => ("kill".to_owned(), false),
            Action::Short => ("short".to_owned(), false),
            Action::Fail(errno) => ((errno as i32).to_string(), false),
            Action::FailFromNow(errno) => ((errno as i32).to_string(), true),
        };
        let mut env = vec![
            ("LD_PRELOAD", library()?.to_string_lossy().into_owned()),
            ("VERNEUIL_FAULT_PROGRAM", self.program.to_owned()),
            ("VERNEUIL_FAULT_PATHS", files.join(":")),
            ("VERNEUIL_FAULT_AT", self.at.to_string()),
            ("VERNEUIL_FAULT_DO", what),
            (
                "VERNEUIL_FAULT_LOG",
                self.log.to_string_lossy().into_owned(),
            ),
        ];
        if lasts {
            env.push(("VERNEUIL_FAULT_LASTS", "1".to_owned()));
        }
        if self.is_marked {
            env.push(("VERNEUIL_FAULT_MARKED", "1".to_owned()));
        }
        Ok(env
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    /// Whether the program came to the call that is meant.
    pub fn has_happened(&self) -> Result<bool> {
        let mark = format!("{} ", self.at);
        let text = std::fs::read_to_string(&self.log)?;
        Ok(text.lines().any(|line| line.starts_with(&mark)))
    }

    /// The calls that were counted, in order; the one that it happened to is among them.
    pub fn calls(&self) -> Result<Vec<Call>> {
        let text = std::fs::read_to_string(&self.log)
            .context("the interposer was not loaded: it leaves a log")?;
        let mut calls = Vec::new();
        for line in text.lines() {
            let mut parts = line.splitn(3, ' ');
            let number: usize = parts.next().unwrap_or_default().parse()?;
            let name = parts.next().context("a line has a name")?.to_owned();
            let path = parts.next().context("a line has a path")?.to_owned();
            calls.push((number, Call { name, path }));
        }
        // Threads may write their lines in another order than they were counted in.
        calls.sort_by_key(|(number, _)| *number);
        Ok(calls.into_iter().map(|(_, call)| call).collect())
    }
}

/// The shared object, compiled by the first who asks.
fn library() -> Result<&'static Path> {
    static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| compile().map_err(|error| format!("{error:#}")));
    library
        .as_deref()
        .map_err(|error| anyhow::anyhow!("{error}"))
}

fn compile() -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (aside, library) = (
        folder.join(format!("interpose-{}.so", std::process::id())),
        folder.join("interpose.so"),
    );
    let mut command = Command::new(paths::system_program("gcc", "gcc")?);
    command
        .args([
            "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o",
        ])
        .arg(&aside)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/programs/interpose.c"));
    process::run(&mut command, process::COMMAND_LIMIT)?
        .ok()
        .context("compiling programs/interpose.c")?;
    // Another run of this binary may be loading it.
    std::fs::rename(&aside, &library)?;
    Ok(library)
}

/// Points among `calls` that together have each distinct operation fail with each error, by turns once and from then on.
pub fn sample(calls: &[Call], folder: &Path) -> Vec<(usize, Action)> {
    let mut occurrences = BTreeMap::<String, Vec<usize>>::new();
    for (at, call) in (1..).zip(calls) {
        occurrences
            .entry(call.operation(folder))
            .or_default()
            .push(at);
    }
    let mut points = Vec::new();
    for (operation, at) in occurrences.values().enumerate() {
        for (k, errno) in ERRORS.into_iter().enumerate() {
            // Another occurrence for each error, where there are as many.
            let action = if (operation + k) % 2 == 0 {
                Action::Fail(errno)
            } else {
                Action::FailFromNow(errno)
            };
            points.push((at[k * at.len() / ERRORS.len()], action));
        }
    }
    points
}

/// Every call with every error, once and lasting, and every read and write cut short.
pub fn all(calls: &[Call]) -> Vec<(usize, Action)> {
    let mut points = Vec::new();
    for at in 1..=calls.len() {
        for errno in ERRORS {
            points.extend([(at, Action::Fail(errno)), (at, Action::FailFromNow(errno))]);
        }
    }
    points
}

/// Every read and write.
pub fn shortened(calls: &[Call]) -> Vec<(usize, Action)> {
    let is_short = |call: &Call| ["read", "write", "pread64", "pwrite64"].contains(&&*call.name);
    (1..)
        .zip(calls)
        .filter(|(_, call)| is_short(call))
        .map(|(at, _)| (at, Action::Short))
        .collect()
}

/// Each record that is not written, while all that comes after it is.
pub fn unlogged(calls: &[Call]) -> Vec<(usize, Action)> {
    let is_record = |call: &Call| call.name == "pwrite64" && call.path.contains("/log-");
    (1..)
        .zip(calls)
        .filter(|(_, call)| is_record(call))
        .map(|(at, _)| (at, Action::Fail(Errno::ENOSPC)))
        .collect()
}

/// Whether all faults are asked for and not a sample.
pub fn wants_all() -> Result<bool> {
    match std::env::var("VERNEUIL_FAULTS").as_deref() {
        Ok("all") => Ok(true),
        Ok(other) => {
            ensure!(
                other.is_empty(),
                "VERNEUIL_FAULTS={other}: only \"all\" is known"
            );
            Ok(false)
        }
        Err(_) => Ok(false),
    }
}

/// Threads that the end of their process may cut off between their handler's line and its return; the trace then misses both calls.
const CUT_OFF_MAX: usize = 2;

/// The calls that a program makes on these files, as strace sees them; each that the interposer sees is there twice, once trapped and once
/// made by its handler.
fn is_complete(
    program: &Path,
    arguments: &[&str],
    env: Vec<(String, String)>,
    fault: &Fault,
) -> Result<usize> {
    let mut env = env;
    env.extend(fault.env()?);
    // The interposer must not be loaded into strace's own wrapper.
    let trace = Trace::record(program, arguments, &env, process::COMMAND_LIMIT)?;
    let mut counts = BTreeMap::<String, (usize, usize)>::new();
    let is_meant = |call: &syscalls::Call| {
        let is_own = call.arguments.starts_with("\"/proc/self/")
            || call.arguments.contains(&*fault.log.to_string_lossy());
        // Their bytes are no names.
        let names = if call.is_read() || call.name.contains("write") {
            call.arguments.split(',').next().unwrap_or_default()
        } else {
            &call.arguments
        };
        let mut files = fault.files.iter();
        !is_own && files.any(|file| names.contains(&*file.to_string_lossy()))
    };
    // Calls of each thread whose handler has not returned yet. The end of the process may cut a thread off between the trap and the
    // handler's line: what is left here at the end is in the trace, but need not be in the log.
    let mut pending = BTreeMap::<u32, Vec<&str>>::new();
    for call in trace.calls() {
        if call.name == "rt_sigreturn" {
            for name in pending.remove(&call.thread).unwrap_or_default() {
                counts.entry(name.to_owned()).or_default().0 += 1;
            }
        // Closing and unmapping can't fail, and a death there is a death at the next call.
        } else if is_meant(call) && !["close", "munmap", "execve"].contains(&&*call.name) {
            pending.entry(call.thread).or_default().push(&call.name);
        }
    }
    let calls = fault.calls()?;
    for call in &calls {
        counts.entry(call.name.clone()).or_default().1 += 2;
    }
    for (name, (traced, counted)) in &counts {
        ensure!(
            traced <= counted && counted - traced <= 2 * CUT_OFF_MAX,
            "{name}: strace saw {traced}, the interposer {counted} (twice its own)"
        );
    }
    Ok(calls.len())
}

#[test]
fn the_interposer_misses_no_call_that_strace_sees() -> Result<()> {
    let _limit = watchdog::limit("interposer", 100);
    let setup = Setup::new(Kind::Directory)?;
    let mut first = setup.writer(Program::Rusqlite)?;
    first.run(&[
        "CREATE TABLE small(id INTEGER PRIMARY KEY, value)",
        "INSERT INTO small VALUES(1,1)",
    ])?;
    first.close()?;
    let (database, spool) = (setup.database(), setup.spool());
    let uri = setup.uri(&database);
    let (extension, out) = (paths::extension()?, setup.path("out/restored.db"));
    std::fs::create_dir(setup.path("out"))?;
    let text = |path: &Path| path.to_string_lossy().into_owned();
    let (database, spool, extension, out) =
        (text(&database), text(&spool), text(&extension), text(&out));
    let fault = |program, log: &str| Fault {
        program,
        files: ["source/", "spool", "store", "out/"]
            .map(|name| setup.path(name))
            .to_vec(),
        is_marked: false,
        at: 0,
        action: Action::Count,
        log: setup.path(log),
    };
    let mut seen = Vec::new();
    let writes = ["commit-and-mark", &uri, &extension, "6"];
    let writer = fault(WRITER, "writer");
    seen.push(is_complete(
        &paths::bundled_sqlite()?,
        &writes,
        setup.env(),
        &writer,
    )?);
    let restore = ["restore", "-s", &database, "--hostname", HOST, "-o", &out];
    let ctl: [&[&str]; 3] = [
        &["flush", &spool],
        &["sync", "--optimize", &database],
        &restore,
    ];
    for (k, arguments) in ctl.iter().enumerate() {
        let fault = fault(CTL, &format!("ctl-{k}"));
        seen.push(is_complete(
            &paths::verneuilctl()?,
            arguments,
            setup.env(),
            &fault,
        )?);
    }
    eprintln!("calls of a writer, flush, sync and restore: {seen:?}");
    ensure!(seen.iter().all(|count| *count > 10), "{seen:?}");
    Ok(())
}
