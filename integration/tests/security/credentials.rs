//! Credentials are in the environment or in the files of the AWS tools; they are never in a log (not even at `trace`), a status, an error,
//! the spool or the store, whatever goes wrong.

use std::fs;
use std::net::TcpListener;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use verneuil_integration::mount::Mount;
use verneuil_integration::process::{self, COMMAND_LIMIT, Finished};
use verneuil_integration::seaweed::{SECRET_KEY, credentials};
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::setup::{HOST, Kind, Setup};
use verneuil_integration::{paths, watchdog};

use crate::support::{tree, utf8};

/// Recognisable wherever they turn up.
const SECRET: &str = "Zq7SecretCanaryKeyInTheEnvironment";
const TOKEN: &str = "Zq7SessionCanaryTokenInTheEnvironment";
const PROFILE_SECRET: &str = "Zq7ProfileCanarySecretInTheFile";
const PROFILE_TOKEN: &str = "Zq7ProfileCanaryTokenInTheFile";
const PASTED: &str = "Zq7PastedCanaryIntoTheConfiguration";
const ALL: [&str; 6] = [
    SECRET,
    TOKEN,
    PROFILE_SECRET,
    PROFILE_TOKEN,
    PASTED,
    SECRET_KEY,
];

fn tells_nothing(what: &str, text: &str) -> Result<()> {
    for secret in ALL {
        // A part of it would do, too.
        let part = &secret[..12];
        if let Some(line) = text.lines().find(|line| line.contains(part)) {
            anyhow::bail!("{what} tells {secret}: {line}");
        }
    }
    Ok(())
}

fn neither_does(what: &str, finished: &Finished) -> Result<()> {
    tells_nothing(what, &finished.text())?;
    tells_nothing(what, &finished.stderr)
}

/// Looks through every file below a folder.
fn none_in(folder: &Path) -> Result<usize> {
    let mut looked = 0;
    for path in tree(folder)?.into_keys().filter(|path| path.is_file()) {
        let bytes = fs::read(&path)?;
        tells_nothing(
            &path.display().to_string(),
            &String::from_utf8_lossy(&bytes),
        )?;
        looked += 1;
    }
    Ok(looked)
}

/// An environment with credentials that no store knows.
fn unknown(setup: &Setup, config: &Value, from_profile: bool) -> Result<Vec<(String, String)>> {
    let mut env = credentials("AKIAZQ7UNKNOWN", SECRET);
    if from_profile {
        let file = setup.path("credentials");
        fs::write(
            &file,
            format!(
                "[default]\naws_access_key_id = AKIAZQ7PROFILE\naws_secret_access_key = {PROFILE_SECRET}\naws_session_token = {PROFILE_TOKEN}\n"
            ),
        )?;
        env.retain(|(name, _)| {
            !name.contains("ACCESS_KEY") && name != "AWS_SHARED_CREDENTIALS_FILE"
        });
        env.push((
            "AWS_SHARED_CREDENTIALS_FILE".to_owned(),
            utf8(&file)?.to_owned(),
        ));
    } else {
        env.push(("AWS_SESSION_TOKEN".to_owned(), TOKEN.to_owned()));
    }
    env.push(("VERNEUIL_CONFIG".to_owned(), config.to_string()));
    env.push(("RUST_LOG".to_owned(), "trace".to_owned()));
    Ok(env)
}

/// Everything that can be asked of a store, by every program.
fn every_program(setup: &Setup, what: &str, env: &[(String, String)]) -> Result<()> {
    let (spool, database, out) = (setup.spool(), setup.database(), setup.path("out.db"));
    // The application, and its pragmas; a flush that fails ends it, so it comes last.
    let uri = setup.uri(&database);
    let mut session = Session::open(
        Program::Python,
        &Opening {
            uri: &uri,
            load: true,
            env,
        },
    )?;
    session.run(&["CREATE TABLE IF NOT EXISTS t(x)", "INSERT INTO t VALUES(1)"])?;
    let status = session.row("PRAGMA verneuil_status")?;
    tells_nothing(what, &status)?;
    let flushed = format!(
        "{:?}",
        session.row("PRAGMA verneuil_flush_replication_data")
    );
    tells_nothing(what, &flushed)?;
    let said = session.complaints();
    tells_nothing(what, &said)?;
    ensure!(
        said.contains("verneuil: "),
        "{what}: nothing was logged: {said}"
    );
    drop(session);

    let (spool, database, out) = (utf8(&spool)?, utf8(&database)?, utf8(&out)?);
    let mut logged = 0;
    for arguments in [
        &["ls"][..],
        &["ls", HOST],
        &["flush", spool],
        &["status", spool],
        &["--json", "status", spool],
        &["sync", database],
        &["restore", "-s", database, "--hostname", HOST, "-o", out],
        &["manifest", database, "--hostname", HOST, "--decode"],
    ] {
        let mut command = process::tied(paths::verneuilctl()?);
        command
            .args(["-l", "trace"])
            .args(arguments)
            .envs(env.iter().cloned());
        let finished = process::run(&mut command, COMMAND_LIMIT)?;
        neither_does(&format!("{what}: {arguments:?}"), &finished)?;
        logged += finished.stderr.len();
    }
    ensure!(logged > 10_000, "{what}: a trace of {logged} bytes is none");
    ensure!(
        none_in(&setup.spool())? >= 4,
        "{what}: there is no spool to look through"
    );
    Ok(())
}

#[test]
fn credentials_are_never_in_logs_status_errors_or_files() -> Result<()> {
    let _limit = watchdog::limit("credentials", 200);
    let setup = Setup::new(Kind::S3)?;
    let good = {
        let mut env = setup.env();
        env.push(("RUST_LOG".to_owned(), "trace".to_owned()));
        env
    };
    every_program(&setup, "all is well", &good)?;
    let config = setup.config();
    every_program(&setup, "refused", &unknown(&setup, &config, false)?)?;
    every_program(
        &setup,
        "refused, from a profile",
        &unknown(&setup, &config, true)?,
    )?;
    // Nobody listens there.
    let nowhere = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut away = config.clone();
    away["replication_targets"][0]["s3"]["endpoint"] = json!(format!("http://{nowhere}"));
    away["replication_targets"][0]["s3"]["max_attempts"] = json!(1);
    every_program(&setup, "away", &unknown(&setup, &away, false)?)?;

    // The mount, at work and refused.
    for env in [good, unknown(&setup, &config, false)?] {
        match Mount::start(&setup.path("mnt"), &[], &env) {
            Ok(mount) => {
                let mut find = process::tied("find");
                find.arg(mount.point());
                neither_does("the mount", &process::run(&mut find, COMMAND_LIMIT)?)?;
                let log = mount.log();
                ensure!(log.len() > 1_000, "a trace of {} bytes is none", log.len());
                tells_nothing("the mount", &log)?;
            }
            Err(error) => tells_nothing("the mount", &format!("{error:?}"))?,
        }
    }
    Ok(())
}

#[test]
fn a_secret_that_was_pasted_into_the_configuration_is_not_repeated() -> Result<()> {
    let _limit = watchdog::limit("pasted", 60);
    let setup = Setup::new(Kind::Directory)?;
    let s3 = |line: &str| {
        format!(
            "{{\"replication_spooling_dir\": \"{}\",\n\"replication_targets\": [{{\"s3\": {{\"region\": \"us-east-1\",\n{line},\n\
             \"chunk_bucket\": \"ccc\", \"manifest_bucket\": \"mmm\"}}}}]}}",
            setup.spool().display()
        )
    };
    for line in [
        format!("\"secret_access_key\": \"{PASTED}\""),
        format!("\"aws_secret_access_key\": \"{PASTED}\", \"aws_secret_access_key\": \"{PASTED}\""),
        format!("\"endpoint\": \"https://user:{PASTED}@store.example\""),
        format!("\"endpoint\": \"https://{PASTED}@store.example\""),
        format!("\"endpoint\": \"https://store.example/?token={PASTED}\""),
        // The syntax is bad right behind it.
        format!("\"profile\": \"{PASTED}\" \"x\""),
        format!("\"secret\": {PASTED}"),
        format!("\"session_token\": [\"{PASTED}\"]"),
    ] {
        let text = s3(&line);
        let file = setup.path("config.json");
        fs::write(&file, &text)?;
        for config in [text.clone(), format!("@{}", file.display())] {
            let env = [
                ("VERNEUIL_CONFIG".to_owned(), config.clone()),
                ("RUST_LOG".to_owned(), "trace".to_owned()),
            ];
            let mut command = process::tied(paths::verneuilctl()?);
            command.args(["-l", "trace", "ls"]).envs(env.clone());
            let refused = process::run(&mut command, COMMAND_LIMIT)?;
            neither_does(&line, &refused)?;
            let said = refused.expect_failure().with_context(|| line.clone())?;
            ensure!(said.contains(":3:"), "the line is not named: {said}");
            let opening = Opening {
                uri: "file::memory:",
                load: true,
                env: &env,
            };
            match Session::open(Program::Python, &opening) {
                Ok(_) => anyhow::bail!("{line} was taken"),
                Err(error) => tells_nothing(&line, &format!("{error:?}"))?,
            }
        }
    }
    Ok(())
}
