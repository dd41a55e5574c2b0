//! The extension as a guest of somebody else's process: it refuses what it does not understand, and disturbs nobody.

use anyhow::{Context, Result, ensure};
use serde_json::json;
use verneuil_integration::process::{self, COMMAND_LIMIT};
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{HOST, Kind, Setup};
use verneuil_integration::{paths, watchdog};

#[test]
fn a_bad_configuration_fails_the_load_with_key_and_position() -> Result<()> {
    let _limit = watchdog::limit("bad_configuration", 120);
    let setup = Setup::new(Kind::Directory)?;
    let spool = setup.spool();
    let cases = [
        (
            format!("{{\n  \"replication_spooling_dri\": {spool:?}\n}}"),
            "replication_spooling_dri",
            "2:",
        ),
        (
            format!("{{\"hostname\": {HOST:?},\n\n   \"copier\": {{\"burst\": \"many\"}}}}"),
            "burst",
            "3:",
        ),
        (
            "{\"replication_targets\": [{\"s3\": {\"region\": \"us-east-1\", \"chunk_bucket\": \"chunks\", \"manifest_bucket\": \"manifests\", \"acl\": 1}}]}".to_owned(),
            "acl",
            "1:",
        ),
        ("{\"make_default\": tru}".to_owned(), "JSON", "1:"),
        (
            "@/nonexistent/verneuil.json".to_owned(),
            "/nonexistent/verneuil.json",
            "",
        ),
    ];
    for program in Program::ALL {
        for (config, key, position) in &cases {
            let env = [("VERNEUIL_CONFIG".to_owned(), config.clone())];
            let uri = setup.uri(&setup.database());
            let refused = Session::open(
                program,
                &Opening {
                    uri: &uri,
                    load: true,
                    env: &env,
                },
            );
            let Err(error) = refused else {
                anyhow::bail!("{program:?} loaded with {config}")
            };
            let text = format!("{error:#}");
            ensure!(
                text.contains(key) && text.contains(position),
                "{program:?} with {config}: {text}"
            );
        }
    }
    ensure!(
        !setup.database().exists(),
        "a database was made although the extension did not load"
    );
    Ok(())
}

#[test]
fn without_configuration_it_is_a_plain_vfs() -> Result<()> {
    let _limit = watchdog::limit("without_configuration", 120);
    let setup = Setup::new(Kind::Directory)?;
    for (program, config) in [
        (Program::Shell, None),
        (Program::Python, Some("")),
        (Program::Rusqlite, Some(" ")),
    ] {
        let env: Vec<_> = config
            .iter()
            .map(|text| ("VERNEUIL_CONFIG".to_owned(), (*text).to_owned()))
            .collect();
        for vfs in ["verneuil", "linux"] {
            let database = setup.path(&format!("source/{program:?}-{vfs}.db"));
            let uri = format!("file:{}?vfs={vfs}", database.display());
            let mut session = Session::open(
                program,
                &Opening {
                    uri: &uri,
                    load: true,
                    env: &env,
                },
            )?;
            session.run(&["CREATE TABLE t(x)", "INSERT INTO t VALUES(42)"])?;
            ensure!(session.row("SELECT x FROM t")? == "42");
            ensure!(session.row("PRAGMA integrity_check")? == "ok");
            let complaints = session.close()?;
            ensure!(
                complaints.is_empty(),
                "{program:?} on {vfs} complains: {complaints}"
            );
        }
    }
    Ok(())
}

#[test]
fn it_leaves_no_undefined_sqlite_symbol_and_exports_only_entry_points() -> Result<()> {
    let nm = paths::system_program("nm", "binutils")?;
    let symbols = |which: &str| -> Result<Vec<String>> {
        let mut command = process::tied(&nm);
        command.args(["-D", which]).arg(paths::extension()?);
        let text = process::run(&mut command, COMMAND_LIMIT)?.ok()?.text();
        let names = text
            .lines()
            .filter_map(|line| line.split_whitespace().last());
        Ok(names
            .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .collect())
    };
    let undefined: Vec<String> = symbols("--undefined-only")?
        .into_iter()
        .filter(|name| name.starts_with("sqlite3"))
        .collect();
    ensure!(undefined.is_empty(), "undefined: {undefined:?}");
    let exported = symbols("--defined-only")?;
    ensure!(
        exported
            .iter()
            .any(|name| name == "sqlite3_verneuilvfs_init"),
        "no entry point in {exported:?}"
    );
    let foreign: Vec<&String> = exported
        .iter()
        .filter(|name| !name.contains("verneuil"))
        .collect();
    ensure!(
        foreign.is_empty(),
        "exported although no entry point: {foreign:?}"
    );
    Ok(())
}

#[test]
fn other_connections_of_the_process_keep_their_vfs_and_their_locks() -> Result<()> {
    let _limit = watchdog::limit("other_connections", 120);
    let setup = Setup::new(Kind::Directory)?;
    let mut python = process::tied(paths::python()?);
    python.args(["-c", include_str!("../../programs/neighbours.py")]);
    python
        .arg(paths::extension()?)
        .arg(setup.database())
        .envs(setup.env());
    process::run(&mut python, COMMAND_LIMIT)?
        .ok()
        .context("programs/neighbours.py")?;

    let mut shell = process::tied(paths::system_program("sqlite3", "sqlite3")?);
    shell
        .args(["-batch", "-bail", ":memory:"])
        .arg("-cmd")
        .arg(format!(".load {}", paths::extension()?.display()));
    shell
        .arg("-cmd")
        .arg(format!(".open {}", setup.path("other.db").display()))
        .arg(".vfsname")
        .envs(setup.env());
    let said = process::run(&mut shell, COMMAND_LIMIT)?.ok()?.text();
    ensure!(said.trim() == "unix", "the default VFS became {said:?}");
    Ok(())
}

#[test]
fn make_default_makes_it_the_default() -> Result<()> {
    let _limit = watchdog::limit("make_default", 120);
    let setup = Setup::new(Kind::Directory)?;
    let mut config = setup.config();
    config["make_default"] = json!(true);
    let env = [("VERNEUIL_CONFIG".to_owned(), config.to_string())];
    let uri = format!("file:{}", setup.database().display());
    let mut session = Session::open(
        Program::Shell,
        &Opening {
            uri: &uri,
            load: true,
            env: &env,
        },
    )?;
    session.run(&["CREATE TABLE t(x)", "INSERT INTO t VALUES(1)"])?;
    ensure!(session.row(".vfsname")? == "verneuil");
    ensure!(session.row("PRAGMA verneuil_flush_replication_data")? == "1");
    session.close()?;
    setup.restored_equals_source()
}

#[test]
fn two_databases_of_one_process_have_two_replicas() -> Result<()> {
    let _limit = watchdog::limit("two_databases", 120);
    let setup = Setup::new(Kind::Directory)?;
    let (one, two) = (setup.database(), setup.path("source/odd name é@%.db"));
    let mut session = setup.writer(Program::Python)?;
    // In a URI, `%` must be written as %25.
    let attached = setup.uri(&two).replace("%.db", "%25.db");
    session.run(&[format!("ATTACH '{attached}' AS two")])?;
    session.run(&[
        "CREATE TABLE main.t(x)",
        "CREATE TABLE two.t(x)",
        "BEGIN",
        "INSERT INTO main.t VALUES(1)",
    ])?;
    session.run(&["INSERT INTO two.t VALUES(2)", "COMMIT"])?;
    session.close()?;
    setup.flush()?;
    for database in [one, two] {
        let out = setup.path("out.db");
        setup.restore(&database, &out)?;
        verneuil_integration::state::same_bytes(&database, &out)?;
    }
    Ok(())
}
