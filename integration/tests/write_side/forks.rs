//! Children of a process that has the extension loaded: whatever they do with what they inherited, locks and data of the parent
//! stay. The programs are Python's, since `fork` is one call there.

use std::time::Duration;

use anyhow::{Context, Result};
use verneuil_integration::process;
use verneuil_integration::setup::{Kind, Setup};
use verneuil_integration::{paths, watchdog};

use crate::support::{arrives, is_equal};

const PROGRAM_LIMIT: Duration = Duration::from_secs(120);

/// Runs one scenario of `programs/forks.py`; afterwards the store holds the database.
fn scenario(name: &str) -> Result<()> {
    let _limit = watchdog::limit("forks", 200);
    let setup = Setup::new(Kind::Directory)?;
    let mut python = process::tied(paths::python()?);
    python.args(["-c", include_str!("../../programs/forks.py"), name]);
    python
        .arg(paths::extension()?)
        .arg(setup.database())
        .arg(setup.spool())
        .envs(setup.env());
    process::run(&mut python, PROGRAM_LIMIT)?
        .ok()
        .with_context(|| format!("programs/forks.py {name}"))?;
    setup.flush()?;
    is_equal(&setup, &setup.database())?;
    arrives(&setup, Duration::from_secs(1)).map(drop)
}

#[test]
fn a_child_that_rolls_an_inherited_transaction_back_takes_nothing_from_its_parent() -> Result<()> {
    scenario("rollback")
}

#[test]
fn a_child_that_commits_an_inherited_transaction_takes_nothing_from_its_parent() -> Result<()> {
    scenario("commit")
}

#[test]
fn a_child_that_closes_an_inherited_connection_takes_nothing_from_its_parent() -> Result<()> {
    scenario("close")
}

#[test]
fn a_child_that_exits_at_once_takes_nothing_from_its_parent() -> Result<()> {
    scenario("exit_abruptly")
}

#[test]
fn a_child_whose_interpreter_exits_takes_nothing_from_its_parent() -> Result<()> {
    scenario("exit")
}

#[test]
fn a_child_that_ends_an_inherited_read_leaves_its_parent_the_shared_lock() -> Result<()> {
    scenario("read")
}

#[test]
fn a_child_that_opens_and_closes_a_connection_of_its_own_leaves_its_parent_the_lock() -> Result<()>
{
    scenario("own_connection")
}

#[test]
fn children_that_write_through_connections_of_their_own_are_replicated() -> Result<()> {
    scenario("workers")
}

#[test]
fn a_program_that_is_started_inherits_no_descriptor() -> Result<()> {
    scenario("descriptors")
}

#[test]
fn a_child_leaves_the_locks_of_stock_connections_of_its_parent() -> Result<()> {
    scenario("stock")
}

#[test]
fn a_copier_that_closes_its_descriptor_leaves_the_locks_of_stock_connections() -> Result<()> {
    scenario("copier")
}
