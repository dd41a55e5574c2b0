//! The SQLite libraries that hosts are built with, and the C program `programs/host.c` for each: compiled once into the folder of the
//! products; `host` starts what is built here, `several` loads the libraries side by side.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use verneuil_integration::{paths, process};

/// An SQLite that a C program has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sqlite {
    /// The system's shared library.
    System,
    /// 3.31.1, the oldest one that is supported, as a shared library.
    Oldest,
    /// The one that rusqlite carries, compiled with `SQLITE_THREADSAFE=2`, as a shared library.
    MultiThread,
}

impl Sqlite {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::System, Self::Oldest, Self::MultiThread];

    /// What the command `version` must answer: that a program uses another library than it was built for would go unnoticed otherwise.
    pub fn is_version(self, answer: &str) -> bool {
        match self {
            Self::System => answer.ends_with(" 1"),
            Self::Oldest => answer == "3.31.1 1",
            Self::MultiThread => answer.ends_with(" 2"),
        }
    }
}

/// SQLite takes a compiler some ten seconds, when nobody else is busy.
const COMPILE_LIMIT: Duration = Duration::from_secs(120);

/// Where Cargo keeps the source of the `libsqlite3-sys` of a manifest; fetches it first, if need be.
fn source(manifest: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = process::tied(cargo);
    metadata.args([
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
    ]);
    metadata.arg(format!("{}-unknown-linux-gnu", std::env::consts::ARCH));
    metadata.arg("--manifest-path").arg(manifest);
    let answer = process::run(&mut metadata, COMPILE_LIMIT)?.ok()?;
    let answer: Value = serde_json::from_slice(&answer.stdout)?;
    let packages = answer["packages"].as_array().context("no packages")?;
    let package = packages
        .iter()
        .find(|package| package["name"] == "libsqlite3-sys")
        .with_context(|| format!("{} has no libsqlite3-sys", manifest.display()))?;
    let manifest = package["manifest_path"].as_str().context("no path")?;
    Ok(Path::new(manifest).with_file_name("sqlite3"))
}

fn oldest_source() -> Result<PathBuf> {
    source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sqlite-3.31/Cargo.toml"))
}

fn newest_source() -> Result<PathBuf> {
    source(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml"))
}

fn compile(out: &Path, arguments: &[&str], inputs: &[&Path]) -> Result<()> {
    let part = out.with_extension(format!("part-{}", std::process::id()));
    let mut gcc = process::tied(paths::system_program("gcc", "gcc")?);
    gcc.args(["-O1", "-pthread", "-o"]).arg(&part);
    gcc.args(inputs).args(arguments).args(["-ldl", "-lm"]);
    process::run(&mut gcc, COMPILE_LIMIT)?
        .ok()
        .with_context(|| format!("compiling {}", out.display()))?;
    std::fs::rename(&part, out)?;
    Ok(())
}

fn folder(name: &str) -> Result<PathBuf> {
    let folder = paths::products_dir()?.join("host-process").join(name);
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// One compilation at a time for each library; the file's name says of which source and how, so that it is made once.
fn shared(lock: &'static Mutex<()>, source: &Path, threadsafe: &'static str) -> Result<PathBuf> {
    let _one = lock.lock().unwrap_or_else(PoisonError::into_inner);
    let crate_name = source
        .parent()
        .and_then(Path::file_name)
        .context("the source has no crate")?;
    let name = format!("{}-threadsafe-{threadsafe}", crate_name.display());
    let library = folder(&name)?.join("libsqlite3.so.0");
    if !library.exists() {
        let define = format!("-DSQLITE_THREADSAFE={threadsafe}");
        let how = [&define, "-fPIC", "-shared", "-Wl,-soname,libsqlite3.so.0"];
        compile(&library, &how, &[&source.join("sqlite3.c")])?;
    }
    Ok(library)
}

/// SQLite 3.31.1 as a shared library.
pub fn oldest() -> Result<PathBuf> {
    static LOCK: Mutex<()> = Mutex::new(());
    shared(&LOCK, &oldest_source()?, "1")
}

/// rusqlite's SQLite as a shared library with `SQLITE_THREADSAFE=2`.
pub fn multi_thread() -> Result<PathBuf> {
    static LOCK: Mutex<()> = Mutex::new(());
    shared(&LOCK, &newest_source()?, "2")
}

/// `programs/host.c` with this SQLite: the program, and the folder of its library if the linker would not find it.
pub fn c_host(sqlite: Sqlite) -> Result<(PathBuf, Option<PathBuf>)> {
    let library = match sqlite {
        Sqlite::System => None,
        Sqlite::Oldest => Some(oldest()?),
        Sqlite::MultiThread => Some(multi_thread()?),
    };
    let folder = library.and_then(|library| library.parent().map(Path::to_owned));
    Ok((program()?, folder))
}

/// One program for all: the libraries have one name, and it takes the one that the linker finds first.
fn program() -> Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let build = || {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/host.c");
        let headers = format!("-I{}", oldest_source()?.display());
        let program = folder("programs")?.join("host");
        let how = [headers.as_str(), "-Wall", "-Wextra", "-l:libsqlite3.so.0"];
        compile(&program, &how, &[&source]).context(
            "this needs a compiler and the shared library of SQLite: install the packages gcc, libc6-dev and libsqlite3-0",
        )?;
        Ok(program)
    };
    let built = BUILT.get_or_init(|| build().map_err(|error: anyhow::Error| format!("{error:#}")));
    built.clone().map_err(anyhow::Error::msg)
}
