//! Where the products and the system's programs are; everything else in this crate asks here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// The folder that holds the products: `VERNEUIL_PRODUCTS`, or the one above the folder of the running test
/// (`target/release/deps/end_to_end-…` → `target/release`).
///
/// # Errors
/// When the running program's own path is unknown.
pub fn products_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("VERNEUIL_PRODUCTS") {
        return Ok(PathBuf::from(dir));
    }
    let own = std::env::current_exe().context("the test's own path is unknown")?;
    let dir = own.parent().context("the test has no folder")?;
    let dir = if dir.ends_with("deps") {
        dir.parent().unwrap_or(dir)
    } else {
        dir
    };
    Ok(dir.to_path_buf())
}

fn product(name: &str) -> Result<PathBuf> {
    let path = products_dir()?.join(name);
    ensure!(
        path.exists(),
        "{} is missing: run `cargo build --release` first, and the tests with --release (or set VERNEUIL_PRODUCTS to the folder that holds it)",
        path.display()
    );
    Ok(path)
}

/// The loadable extension, as `.load` wants it (with its suffix; sqlite also finds it without).
///
/// # Errors
/// When it was not built.
pub fn extension() -> Result<PathBuf> {
    product("libverneuil_vfs.so")
}

/// The mount daemon.
///
/// # Errors
/// When it was not built.
pub fn mount_daemon() -> Result<PathBuf> {
    product("verneuil-fs")
}

/// The command line tool.
///
/// # Errors
/// When it was not built.
pub fn verneuilctl() -> Result<PathBuf> {
    product("verneuilctl")
}

/// This crate's own helper: rusqlite's bundled sqlite as a program.
///
/// # Errors
/// When it was not built.
pub fn bundled_sqlite() -> Result<PathBuf> {
    product("verneuil-test-sqlite")
}

fn in_path(name: &str) -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    folders.push(PathBuf::from("/usr/bin"));
    folders
        .into_iter()
        .map(|folder| folder.join(name))
        .filter(|file| file.is_file())
        .collect()
}

/// A program of the system, or a sentence that names the Debian package that has it.
///
/// # Errors
/// When no folder of `PATH` has the program.
pub fn system_program(name: &str, package: &str) -> Result<PathBuf> {
    in_path(name)
        .into_iter()
        .next()
        .with_context(|| format!("the program {name} is missing: install the package {package}"))
}

/// A Python whose `sqlite3` can load extensions (some builds leave that out).
///
/// # Errors
/// When there is none.
pub fn python() -> Result<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        in_path("python3")
            .into_iter()
            .find(|python| loads_extensions(python))
    });
    match found {
        Some(python) => Ok(python.clone()),
        None => bail!(
            "no python3 in PATH or /usr/bin has an sqlite3 module that can load extensions: install the package python3"
        ),
    }
}

fn loads_extensions(python: &Path) -> bool {
    let probe = "import sqlite3; sqlite3.connect(':memory:').enable_load_extension(True)";
    Command::new(python)
        .args(["-c", probe])
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Fails with a sentence where FUSE cannot be tested.
///
/// # Errors
/// When `/dev/fuse` is missing or may not be opened.
pub fn require_fuse() -> Result<()> {
    std::fs::File::options().read(true).write(true).open("/dev/fuse").map(drop).context(
        "this test mounts a file system, and /dev/fuse can't be opened here: load the kernel's fuse module (modprobe fuse) or, in a container, pass --device /dev/fuse --cap-add SYS_ADMIN",
    )
}
