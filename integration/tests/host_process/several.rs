//! Three SQLite libraries in one process, each of which loads the extension: Python's own, 3.31.1, and rusqlite's as a multi-thread build, on
//! one database. (Two copies of one library: `write_side/several_processes`.)

use std::time::Duration;

use anyhow::{Context, Result};
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::{paths, process, watchdog};

use crate::libraries;

#[test]
fn three_libraries_in_one_process_write_fork_and_exit() -> Result<()> {
    let _limit = watchdog::limit("several", 100);
    let setup = Setup::new(Kind::Directory)?;
    let mut python = process::tied(paths::python()?);
    python.args(["-c", include_str!("../../programs/several_libraries.py")]);
    python
        .arg(paths::extension()?)
        .arg(setup.uri(&setup.database()))
        .arg(libraries::oldest()?)
        .arg(libraries::multi_thread()?)
        .envs(setup.env());
    process::run(&mut python, Duration::from_secs(90))?
        .ok()
        .context("programs/several_libraries.py")?;
    setup.flush()?;
    setup.restored_equals_source()
}
