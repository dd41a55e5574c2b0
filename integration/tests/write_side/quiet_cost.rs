//! A large database that has not changed costs next to nothing when its process, or its machine, starts again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use verneuil_integration::boot::Boot;
use verneuil_integration::front::Front;
use verneuil_integration::process;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{Kind, Setup, Target};
use verneuil_integration::{paths, watchdog};

use crate::support::restore_with;

const DATABASE_MIB: u64 = 1_024;

/// Requests of one start.
const REQUESTS_MAX: usize = 20;

/// Longer than every period of the copier's own looks.
const IDLE: Duration = Duration::from_secs(7);

/// Fills the database without the extension: each 64 KiB differ, and all of it compresses well, so that the first upload is short.
const FILL: &str = "
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute('PRAGMA synchronous=OFF')
connection.execute('PRAGMA page_size=32768')
connection.execute('CREATE TABLE t(x BLOB)')
pad = os.urandom(1000)
connection.execute('BEGIN')
for i in range(int(sys.argv[2])):
    connection.execute('INSERT INTO t VALUES(?)', (b''.join(b'%024d' % (i * 1024 + k) + pad for k in range(1024)),))
connection.execute('COMMIT')
";

fn flushed(mut session: Session) -> Result<()> {
    ensure!(session.row("SELECT count(*) FROM t")? == DATABASE_MIB.to_string());
    ensure!(session.row("PRAGMA verneuil_flush_replication_data")? == "1");
    session.close().map(drop)
}

#[test]
fn restart_and_reboot_with_an_unchanged_gigabyte_cost_twenty_requests_and_upload_nothing()
-> Result<()> {
    let _limit = watchdog::limit("quiet_cost", 300);
    let setup = Setup::new(Kind::S3)?;
    let Target::S3 { server, .. } = setup.target() else {
        anyhow::bail!("an S3 store was asked for")
    };
    let front = Front::start(server.address())?;
    let mut config: Value = setup.config();
    config["replication_targets"][0]["s3"]["endpoint"] = json!(front.endpoint());
    // The server of a test is not S3: four megabytes may take it a while on a busy machine.
    config["replication_targets"][0]["s3"]["request_timeout_ms"] = json!(30_000);
    let env = setup.env_with(&config);
    let uri = setup.uri(&setup.database());
    let opening = Opening {
        uri: &uri,
        load: true,
        env: &env,
    };

    let mut fill = process::tied(paths::python()?);
    fill.args(["-c", FILL])
        .arg(setup.database())
        .arg(DATABASE_MIB.to_string());
    process::run(&mut fill, Duration::from_secs(120))?.ok()?;
    ensure!(std::fs::metadata(setup.database())?.len() >= DATABASE_MIB << 20);
    flushed(Session::open(Program::Python, &opening)?).context("the first upload")?;
    eprintln!("the first upload took {} requests", front.requests().len());

    let cost = |what: &str, before: usize| -> Result<()> {
        let requests = front.requests().split_off(before);
        let lines: Vec<&str> = requests.iter().map(|request| &*request.line).collect();
        eprintln!("{what}: {} requests", lines.len());
        ensure!(
            lines
                .iter()
                .all(|line| line.starts_with("GET ") || line.starts_with("HEAD ")),
            "{what} uploads something: {lines:#?}"
        );
        ensure!(
            lines.len() <= REQUESTS_MAX,
            "{what} took {} requests: {lines:#?}",
            lines.len()
        );
        Ok(())
    };
    let before = front.requests().len();
    flushed(Session::open(Program::Shell, &opening)?)?;
    cost("a restart", before)?;

    let before = front.requests().len();
    let mut idle = Session::open(Program::Rusqlite, &opening)?;
    ensure!(idle.row("SELECT count(*) FROM t")? == DATABASE_MIB.to_string());
    std::thread::sleep(IDLE);
    cost("a restart without a flush", before)?;
    let before = front.requests().len();
    std::thread::sleep(IDLE);
    ensure!(
        front.requests().len() == before,
        "an idle database costs requests: {:#?}",
        front.requests().split_off(before)
    );
    idle.kill();
    let before = front.requests().len();
    flushed(Session::open(Program::Python, &opening)?)?;
    cost("a restart after a kill", before)?;

    for number in 1..3 {
        let boot = Boot::new(&setup.path(""), number)?;
        let before = front.requests().len();
        flushed(Session::open_after_reboot(Program::Shell, &opening, &boot)?)?;
        cost("a reboot", before)?;
    }
    let out = setup.path("restored.db");
    restore_with(&setup, &config, &setup.database(), &out)?;
    verneuil_integration::state::same_bytes(&setup.database(), &out)
}
