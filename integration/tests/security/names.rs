//! Keys of a hostile store: nothing that they say leads out of the cache or the mount, and nothing that is printed moves a terminal's cursor.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use verneuil_integration::mount::{self, Mount};
use verneuil_integration::process::{self, COMMAND_LIMIT};
use verneuil_integration::setup::{HOST, Kind, Setup};
use verneuil_integration::watchdog;

use crate::support::{Canary, DATABASE, database_key, is_plain, manifest_of, put, tree, utf8};

/// Paths whose manifests say just what their keys say.
const PATHS: [&[u8]; 12] = [
    b"/..",
    b"/../../canary",
    b"/srv/../../../canary",
    b"/./x",
    b"//double//slash",
    b"relative",
    b"../canary",
    b"/nul\0/x",
    b"/new\nline",
    b"/\x1b[2J\x1b]0;title\x07",
    b"/\x9b31m\xff",
    b"/",
];

/// Hosts, likewise.
const HOSTS: [&str; 5] = ["..", ".", "a/b", "\u{1b}[31mhost\n", ""];

/// Keys that no encoder makes.
fn keys() -> Vec<String> {
    let long = "x".repeat(250);
    let mut keys: Vec<String> = [
        "..@",
        "%2E%2E@",
        "%2e%2e@",
        "..%2F..%2Fcanary@",
        "a%2Fb@",
        "%00@",
        "%0Anew@",
        "raw\nline@",
        "raw\u{1b}[2Jescape@",
        "%@",
        "%4@",
        "@",
        "@@",
        "a@b@",
        "%empty@",
        "%relative/..@",
        "%name-00@",
        "...@",
    ]
    .iter()
    .map(|name| format!("manifests/{HOST}/{name}"))
    .collect();
    for host in [
        "%2E%2E",
        "..",
        "a%2Fb",
        "%00",
        "%empty",
        "%1B%5B2J",
        "raw\u{1b}[2J",
    ] {
        keys.push(format!("manifests/{host}/x@"));
    }
    keys.push(format!("manifests/{HOST}/{long}@"));
    keys.push(format!("manifests/{HOST}/%name-{}@", "0".repeat(64)));
    keys.push(format!("manifests/{HOST}/%path-{}@", "f".repeat(64)));
    // A name of 300 bytes: a directory store can't hold its key as one name, so its segments are many.
    keys.push(format!(
        "manifests/{HOST}/{}/y@",
        [long.as_str(); 3].join("/")
    ));
    keys
}

/// A store with all of it, and one honest database.
fn hostile() -> Result<Setup> {
    let setup = Setup::new(Kind::Directory)?;
    put(
        &setup,
        &database_key(),
        &manifest_of(HOST, DATABASE.as_bytes())?,
    )?;
    let long = [b"/".to_vec(), vec![b'l'; 300]].concat();
    for path in PATHS.into_iter().chain([&long[..]]) {
        put(
            &setup,
            &verneuil_format::manifest_key(HOST, path),
            &manifest_of(HOST, path)?,
        )?;
    }
    for host in HOSTS {
        put(
            &setup,
            &verneuil_format::manifest_key(host, b"/x"),
            &manifest_of(host, b"/x")?,
        )?;
    }
    for key in keys() {
        // Some are no names of a file at all, and the file system makes others of them (`..` is a folder): what is left is enough.
        let outside = key.contains("/../") || key.contains("/..@");
        let claims = manifest_of("..", b"/../../canary\x1b[2J\n")?;
        if !outside {
            put(&setup, &key, &claims).or_else(|error| {
                match error.downcast_ref::<std::io::Error>() {
                    Some(error) if error.raw_os_error().is_some() => Ok(()),
                    _ => Err(error),
                }
            })?;
        }
    }
    Ok(setup)
}

/// Every entry that a mount shows, with its path, as the kernel gives it to a program of its own.
fn shown(mount: &Mount) -> Result<Vec<Vec<u8>>> {
    let mut command = process::tied("find");
    command.arg(mount.point()).arg("-print0");
    let found = process::run(&mut command, COMMAND_LIMIT)?;
    Ok(found
        .stdout
        .split(|byte| *byte == 0)
        .filter(|path| !path.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

#[test]
fn keys_of_a_hostile_store_stay_inside_cache_and_mount_and_are_printed_plainly() -> Result<()> {
    let _limit = watchdog::limit("names", 100);
    let setup = hostile()?;
    let (cache, mounted) = (setup.path("cache"), setup.path("mnt"));
    std::fs::create_dir(&mounted)?;
    let before = tree(&setup.path(""))?;
    // After our own look at everything.
    let canary = Canary::new(&setup.path(""))?;

    // The list of hosts, of each host's databases, of what is below a folder; as text and as JSON.
    let hosts = setup.ctl(&["ls"])?.ok()?;
    is_plain(&hosts)?;
    ensure!(
        hosts.text().lines().any(|line| line == HOST),
        "{}",
        hosts.text()
    );
    for name in hosts.text().lines().chain(["..", "a/b", "."]) {
        for options in [&["ls"][..], &["--json", "ls"], &["-l", "trace", "ls"]] {
            let listed = setup.ctl(&[options, &[name]].concat())?;
            is_plain(&listed).with_context(|| format!("ls {name}"))?;
        }
    }
    let listed = setup.ctl(&["ls", HOST])?.text();
    ensure!(listed.contains(DATABASE), "{listed}");
    ensure!(
        !listed.contains("canary"),
        "a key that leads out is listed: {listed}"
    );

    // A manifest that is somebody else's, under the key of a database that has none.
    put(
        &setup,
        &verneuil_format::manifest_key(HOST, b"/ok.db"),
        &manifest_of("\u{1b}[31m", b"/\x1b]0;x\x07\n")?,
    )?;
    let out = setup.path("out.db");
    for arguments in [
        &[
            "restore",
            "-s",
            "/ok.db",
            "--hostname",
            HOST,
            "-o",
            utf8(&out)?,
        ][..],
        &["manifest", "/ok.db", "--hostname", HOST, "--decode"],
        &["ls", &format!("{HOST}/ok.db")],
    ] {
        let refused = setup.ctl(arguments)?;
        is_plain(&refused)?;
        if arguments[0] != "ls" {
            ensure!(refused.expect_failure()?.contains("copied or forged"));
        }
    }
    ensure!(!out.exists(), "a forged manifest was restored");

    // The mount, with a cache.
    let env = setup.env();
    let arguments = [
        "--cache-dir".to_owned(),
        utf8(&cache)?.to_owned(),
        "--refresh-interval".to_owned(),
        "50ms".to_owned(),
    ];
    let mount = Mount::start(&mounted, &arguments, &env)?;
    let paths = shown(&mount)?;
    ensure!(
        paths.iter().any(|path| path.ends_with(DATABASE.as_bytes())),
        "the honest database is not shown"
    );
    for path in &paths {
        let path = Path::new(std::ffi::OsStr::from_bytes(path));
        let inside = path
            .strip_prefix(&mounted)
            .context("a path beside the mount")?;
        ensure!(
            inside
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_))),
            "{} leads elsewhere",
            path.display()
        );
        ensure!(!inside.ends_with("canary"), "{} is shown", path.display());
        // Reading it gives its own content or an error, and comes back.
        if path.file_name().is_some() {
            process::run(
                process::tied("head").args(["-c", "100"]).arg(path),
                COMMAND_LIMIT,
            )?;
        }
    }
    for name in ["..", "../canary", "%2E%2E", "a%2Fb", "a/b", "\u{1b}[2J"] {
        let looked = mount::list(&mounted.join(HOST).join("nothing").join(name))?;
        ensure!(
            !looked.text().contains("canary"),
            "{name} leads to {}",
            looked.text()
        );
    }
    let log = mount.log();
    ensure!(
        log.lines()
            .all(|line| line.starts_with("20") && !line.contains(char::is_control)),
        "the log has lines that are none: {log}"
    );
    drop(mount);

    // Nothing has come to be anywhere, but hashes in the cache, and the manifest of this test.
    canary.is_untouched()?;
    for (path, mode) in tree(&setup.path(""))? {
        if before.get(&path) == Some(&mode)
            || path == canary.file
            || path.starts_with(&canary.folder)
            || path == cache
            || path
                == setup
                    .path("store")
                    .join(verneuil_format::manifest_key(HOST, b"/ok.db"))
        {
            continue;
        }
        let inside = path
            .strip_prefix(&cache)
            .with_context(|| format!("{} has appeared", path.display()))?;
        ensure!(
            inside.components().all(|part| part
                .as_os_str()
                .as_bytes()
                .iter()
                .all(u8::is_ascii_hexdigit)),
            "{} in the cache",
            path.display()
        );
    }
    Ok(())
}
