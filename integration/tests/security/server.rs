//! An S3 server that lies: in listings, objects, errors and heads. `ls`, `restore`, `manifest` and the mount answer with an error that names
//! object and cause, soon, in bounded memory, and leave nothing behind; nobody else hears of the credentials, and no terminal obeys.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use verneuil_integration::front::{Asked, Hostile, Operation};
use verneuil_integration::mount::Mount;
use verneuil_integration::process::{self, COMMAND_LIMIT, Finished};
use verneuil_integration::publish::Publisher;
use verneuil_integration::seaweed::credentials;
use verneuil_integration::setup::{HOST, Kind, Pace, Setup};
use verneuil_integration::watchdog;

use crate::support::{
    Canary, DATABASE, RESTORED_MAX_BYTES, database_key, is_plain, limited_ctl, memory_is_bounded,
    tree, utf8,
};

/// Recognisable wherever it turns up.
const ACCESS_KEY: &str = "AKIAZQ7CANARY";
/// How long a program may listen to a lie: two attempts, on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// Which requests are answered with a lie; the others get the truth.
#[derive(Clone, Copy, PartialEq)]
enum On {
    /// A listing of databases.
    List,
    /// A manifest, or its head.
    Manifest,
    /// A part of a pack.
    Pack,
}

/// A lie.
struct Case {
    /// Also the store's prefix, by which the server knows which lie is asked for.
    name: &'static str,
    on: On,
    answer: fn(&Asked, &mut TcpStream) -> Result<()>,
    /// What an error has to say of it; none if it does no harm.
    said: Option<&'static str>,
}

const CASES: [Case; 15] = [
    Case {
        name: "names",
        on: On::List,
        answer: |asked, to| {
            let long = "x".repeat(5_000);
            let names = [
                "..@",
                "%2E%2E@",
                "%2e%2e@",
                "../../canary@",
                "/canary@",
                "%2Fcanary@",
                "%00@",
                "&#0;@",
                "new\nline@",
                "&#27;[2J&#27;]0;title&#7;@",
                "%1B[2J@",
                "%@",
                "@",
                "@@",
                &long,
            ];
            let prefix = asked.parameter("prefix");
            let mut keys: Vec<_> = names.iter().map(|name| format!("{prefix}{name}")).collect();
            // Not what was asked for.
            keys.push("names/canary@".to_owned());
            keys.push("/canary@".to_owned());
            keys.push(format!("names/{}", database_key()));
            let folders =
                ["../", "%2E%2E/", "&#27;[2J/", "//"].map(|name| format!("{prefix}{name}"));
            list(to, &keys, &folders, None)
        },
        said: None,
    },
    Case {
        name: "folders",
        on: On::List,
        answer: |asked, to| {
            let prefix = asked.parameter("prefix");
            let keys = [format!("folders/{}", database_key())];
            list(to, &keys, &[format!("{prefix}d/")], None)
        },
        said: None,
    },
    Case {
        name: "endless_pages",
        on: On::List,
        answer: |asked, to| {
            let page: usize = asked.parameter("continuation-token").parse().unwrap_or(0);
            let begin = format!("{}{page}-{}", asked.parameter("prefix"), "x".repeat(800));
            let keys: Vec<_> = (0..1_000).map(|key| format!("{begin}{key}@")).collect();
            list(to, &keys, &[], Some(&(page + 1).to_string()))
        },
        said: Some("lists more below"),
    },
    Case {
        name: "same_page",
        on: On::List,
        answer: |asked, to| {
            list(
                to,
                &[format!("{}a@", asked.parameter("prefix"))],
                &[],
                Some("again"),
            )
        },
        said: Some("comes the same one again"),
    },
    Case {
        name: "million",
        on: On::List,
        answer: |asked, to| {
            let prefix = asked.parameter("prefix");
            let entry = format!("<Contents><Key>{prefix}x@</Key></Contents>");
            endless(to, "200 OK", "", "<ListBucketResult>", 1)?;
            let some = entry.repeat(1_000);
            for _ in 0..1_000 {
                to.write_all(some.as_bytes())?;
            }
            Ok(())
        },
        said: Some("more text than any answer has"),
    },
    Case {
        name: "tiny_entries",
        on: On::List,
        answer: |_, to| {
            let entries = "<Contents/>".repeat(180_000);
            let text = ["<ListBucketResult>", &entries, "</ListBucketResult>"].concat();
            whole(to, "200 OK", "", &text)
        },
        said: Some("more entries than one may have"),
    },
    Case {
        name: "entities",
        on: On::List,
        answer: |_, to| {
            let mut bomb = "<!DOCTYPE b [<!ENTITY e0 \"xxxxxxxxxx\">".to_owned();
            for level in 1..12 {
                let refers = format!("&e{};", level - 1).repeat(10);
                bomb.push_str(&format!("<!ENTITY e{level} \"{refers}\">"));
            }
            bomb.push_str(
                "]><ListBucketResult><Contents><Key>&e11;</Key></Contents></ListBucketResult>",
            );
            whole(to, "200 OK", "", &bomb)
        },
        said: Some("the answer can't be read"),
    },
    Case {
        name: "nested",
        on: On::Manifest,
        answer: |_, to| {
            whole(
                to,
                "403 Forbidden",
                "",
                &["<Error>", &"<a>".repeat(20_000)].concat(),
            )
        },
        said: Some("the store answered 403"),
    },
    Case {
        name: "endless_error",
        on: On::Manifest,
        answer: |_, to| gibibyte(to, "403 Forbidden", "Content-Length: 1073741824\r\n"),
        said: Some("the store answered 403"),
    },
    Case {
        name: "escapes",
        on: On::Manifest,
        answer: |_, to| {
            let code = "&#27;[2JCode\u{9b}31m";
            let error = format!(
                "<Error><Code>{code}</Code><Message>&#10;&#27;]0;title&#7;\u{1b}[2J</Message></Error>"
            );
            let fields = "x-amz-request-id: \u{9b}2J\r\n";
            whole(to, "400 \u{9b}2J", fields, &error)
        },
        said: Some("the store answered 400"),
    },
    Case {
        name: "elsewhere",
        on: On::Manifest,
        answer: |_, _| anyhow::bail!("needs to know where: see `answer`"),
        said: Some("the store answered 307"),
    },
    Case {
        name: "long_fields",
        on: On::Manifest,
        answer: |_, to| {
            whole(
                to,
                "200 OK",
                &format!("ETag: \"{}\"\r\n", "x".repeat(1 << 20)),
                "",
            )
        },
        said: Some("message head is too large"),
    },
    Case {
        name: "huge",
        on: On::Manifest,
        answer: |_, to| {
            gibibyte(
                to,
                "200 OK",
                "ETag: \"1\"\r\nContent-Length: 1000000000000000\r\n",
            )
        },
        said: Some("it is longer than"),
    },
    Case {
        name: "endless",
        on: On::Manifest,
        answer: |_, to| gibibyte(to, "200 OK", "ETag: \"\u{9b}2J\"\r\n"),
        said: Some("it is longer than"),
    },
    Case {
        name: "endless_pack",
        on: On::Pack,
        answer: |_, to| {
            gibibyte(
                to,
                "206 Partial Content",
                "ETag: \"1\"\r\nContent-Range: bytes 0-9/18446744073709551615\r\n",
            )
        },
        said: Some("it is longer than"),
    },
];

/// An answer with a length.
fn whole(to: &mut TcpStream, status: &str, fields: &str, body: &str) -> Result<()> {
    let len = body.len();
    write!(
        to,
        "HTTP/1.1 {status}\r\nConnection: close\r\n{fields}Content-Length: {len}\r\n\r\n{body}"
    )?;
    Ok(())
}

/// An answer whose body is so many of these pieces, or ends with the connection.
fn endless(
    to: &mut TcpStream,
    status: &str,
    fields: &str,
    piece: &str,
    count: usize,
) -> Result<()> {
    write!(to, "HTTP/1.1 {status}\r\nConnection: close\r\n{fields}\r\n")?;
    for _ in 0..count {
        to.write_all(piece.as_bytes())?;
    }
    Ok(())
}

/// An answer whose body has 1 GiB, for whoever does not hang up.
fn gibibyte(to: &mut TcpStream, status: &str, fields: &str) -> Result<()> {
    endless(to, status, fields, &"x".repeat(1 << 16), 1 << 14)
}

/// A page of a listing; the names are XML already.
fn list(to: &mut TcpStream, keys: &[String], folders: &[String], next: Option<&str>) -> Result<()> {
    let mut text = format!(
        "<ListBucketResult><IsTruncated>{}</IsTruncated>",
        next.is_some()
    );
    if let Some(next) = next {
        text.push_str(&format!(
            "<NextContinuationToken>{next}</NextContinuationToken>"
        ));
    }
    for key in keys {
        text.push_str(&format!("<Contents><Key>{key}</Key></Contents>"));
    }
    for folder in folders {
        text.push_str(&format!(
            "<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>"
        ));
    }
    text.push_str("</ListBucketResult>");
    whole(to, "200 OK", "", &text)
}

/// A server with one database, or with lies about it.
fn serve(objects: BTreeMap<String, Vec<u8>>, elsewhere: String) -> Result<Hostile> {
    Hostile::start(move |asked, to| answer(&objects, &elsewhere, asked, to))
}

fn answer(
    objects: &BTreeMap<String, Vec<u8>>,
    elsewhere: &str,
    asked: &Asked,
    to: &mut TcpStream,
) -> Result<()> {
    let prefix = asked.parameter("prefix");
    let name = match asked.operation {
        Operation::List => &prefix,
        _ => asked.path.split_once('/').context("a bucket")?.1,
    };
    let (case, key) = name.split_once('/').context("a case")?;
    let on = match asked.operation {
        // A mount whose root can't be listed would not come up.
        Operation::List => (key != "manifests/").then_some(On::List),
        Operation::GetPackRange => Some(On::Pack),
        _ => Some(On::Manifest),
    };
    let lie = CASES
        .iter()
        .find(|lie| lie.name == case)
        .context("no such case")?;
    if Some(lie.on) == on {
        if lie.name == "elsewhere" {
            let fields = format!("Location: {elsewhere}/{}\r\n", asked.path);
            return whole(to, "307 Temporary Redirect", &fields, "");
        }
        return (lie.answer)(asked, to);
    }
    if asked.operation == Operation::List {
        return honest_list(objects, case, key, to);
    }
    let Some(object) = objects.get(key) else {
        return whole(
            to,
            "404 Not Found",
            "",
            "<Error><Code>NoSuchKey</Code></Error>",
        );
    };
    let range = asked.range(object.len());
    let (status, part, field) = match range {
        Some(part) => {
            let field = format!(
                "Content-Range: bytes {}-{}/{}\r\n",
                part.start,
                part.end - 1,
                object.len()
            );
            ("206 Partial Content", &object[part], field)
        }
        None => ("200 OK", &object[..], String::new()),
    };
    let len = part.len();
    write!(
        to,
        "HTTP/1.1 {status}\r\nConnection: close\r\nETag: \"1\"\r\n{field}Content-Length: {len}\r\n\r\n"
    )?;
    to.write_all(part)?;
    Ok(())
}

fn honest_list(
    objects: &BTreeMap<String, Vec<u8>>,
    case: &str,
    prefix: &str,
    to: &mut TcpStream,
) -> Result<()> {
    let (mut keys, mut folders) = (Vec::new(), Vec::new());
    for key in objects.keys() {
        let Some(rest) = key.strip_prefix(prefix) else {
            continue;
        };
        match rest.split_once('/') {
            Some((folder, _)) => folders.push(format!("{case}/{prefix}{folder}/")),
            None => keys.push(format!("{case}/{key}")),
        }
    }
    folders.dedup();
    list(to, &keys, &folders, None)
}

/// Objects by key, and the bytes of the database that they are.
type Published = (BTreeMap<String, Vec<u8>>, Vec<u8>);

/// What an honest store holds: a database of some chunks.
fn published() -> Result<Published> {
    let setup = Setup::new(Kind::Directory)?;
    let content: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    Publisher::new(&setup, Path::new(DATABASE))?
        .publish(&content, verneuil_format::PatchBudget::ORDINARY)?;
    let root = setup.path("store");
    let mut objects = BTreeMap::new();
    for path in tree(&root)?.into_keys().filter(|path| path.is_file()) {
        objects.insert(
            utf8(path.strip_prefix(&root)?)?.to_owned(),
            std::fs::read(&path)?,
        );
    }
    Ok((objects, content))
}

/// A reader's host, whose store is a lie.
fn reader(server: &Hostile, case: &Case) -> Result<Setup> {
    let target = json!({"s3": {
        "region": "us-east-1",
        "endpoint": server.endpoint(),
        "chunk_bucket": "bucket",
        "manifest_bucket": "bucket",
        "prefix": format!("{}/", case.name),
        "request_timeout_ms": 5_000,
        "max_attempts": 2,
    }});
    Setup::beside(
        vec![target],
        credentials(ACCESS_KEY, "secret"),
        Pace::default(),
    )
}

/// What it says of the lie, if that is what it met.
fn told(case: &Case, finished: &Finished) -> Result<()> {
    is_plain(finished)?;
    let all = format!("{}{}", finished.text(), finished.stderr);
    let (expected, is_clear) = match case.said {
        Some(said) => (1, all.contains(said) && all.contains(case.name)),
        None => (0, true),
    };
    // Not by a signal, nor out of memory.
    ensure!(
        finished.status.code() == Some(expected) && is_clear,
        "{}: {all}",
        finished.status
    );
    Ok(())
}

/// The command line meets the lie.
fn commands_meet(case: &Case, setup: &Setup, content: &[u8]) -> Result<()> {
    let out = setup.path("out.db");
    let restore = [
        "restore",
        "-s",
        DATABASE,
        "--hostname",
        HOST,
        "-o",
        utf8(&out)?,
    ];
    let manifest = ["manifest", DATABASE, "--hostname", HOST, "--decode"];
    let folder = format!("{HOST}/srv");
    let (liars, honest): (&[&[&str]], &[&[&str]]) = match case.on {
        On::List => (&[&["ls", &folder]], &[&["ls"], &restore, &manifest]),
        On::Manifest => (
            &[
                &["ls", HOST],
                &["-l", "trace", "manifest", DATABASE, "--hostname", HOST],
                &restore,
                &manifest,
            ],
            &[&["ls"]],
        ),
        On::Pack => (&[&restore], &[&["ls", HOST]]),
    };
    for arguments in liars {
        let begin = Instant::now();
        let finished = limited_ctl(setup, RESTORED_MAX_BYTES, arguments)?;
        ensure!(
            begin.elapsed() < ANSWER_LIMIT,
            "{arguments:?} took {:?}",
            begin.elapsed()
        );
        told(case, &finished).with_context(|| format!("{arguments:?}"))?;
        ensure!(
            !finished.text().contains("canary"),
            "a key that leads out is listed: {}",
            finished.text()
        );
        ensure!(!out.exists(), "something was restored");
    }
    for arguments in honest {
        let finished = limited_ctl(setup, RESTORED_MAX_BYTES, arguments)?;
        is_plain(&finished)?;
        finished.ok().with_context(|| format!("{arguments:?}"))?;
    }
    if out.exists() {
        ensure!(
            std::fs::read(&out)? == content,
            "another database was restored"
        );
        std::fs::remove_file(&out)?;
    }
    Ok(())
}

/// The mount meets the lie.
fn mount_meets(case: &Case, setup: &Setup) -> Result<()> {
    let arguments = [
        "--cache-dir".to_owned(),
        utf8(&setup.path("cache"))?.to_owned(),
    ];
    let mount = Mount::start(&setup.path("mnt"), &arguments, &setup.env())?;
    let file = mount.replica(Path::new(DATABASE));
    let folder = file.parent().context("a folder")?;
    let begin = Instant::now();
    let mut found = process::tied("find");
    found
        .arg(mount.point().join(HOST))
        .args(["-maxdepth", "4", "-print0"]);
    let found = process::run(&mut found, COMMAND_LIMIT)?.text();
    let strays = found
        .split('\0')
        .find(|path| path.contains("canary") || path.ends_with(".."));
    ensure!(strays.is_none(), "the mount shows {strays:?}");
    process::run(process::tied("ls").arg("-la").arg(folder), COMMAND_LIMIT)?;
    let read = process::run(process::tied("cat").arg(&file), COMMAND_LIMIT)?;
    ensure!(
        begin.elapsed() < 2 * ANSWER_LIMIT,
        "the mount took {:?}",
        begin.elapsed()
    );
    let log = mount.log();
    if let Some(said) = case.said {
        ensure!(!read.status.success(), "a lie was read");
        ensure!(
            log.contains(said),
            "the mount's log does not say {said}: {log}"
        );
    }
    let is_line = |line: &str| line.starts_with("20") && !line.contains(char::is_control);
    ensure!(
        log.lines().all(is_line),
        "the log has lines that are none: {log}"
    );
    ensure!(log.len() < 1 << 20, "a log of {} bytes", log.len());
    memory_is_bounded(&mount)
}

/// Everybody meets the lie, on a host of their own.
fn meet(case: &Case, server: &Hostile, content: &[u8]) -> Result<()> {
    let setup = reader(server, case)?;
    let before = tree(&setup.path(""))?;
    let canary = Canary::new(&setup.path(""))?;
    commands_meet(case, &setup, content)?;
    mount_meets(case, &setup)?;
    canary.is_untouched()?;
    let (cache, mounted) = (setup.path("cache"), setup.path("mnt"));
    for path in tree(&setup.path(""))?.into_keys() {
        let is_expected = before.contains_key(&path)
            || path.starts_with(&cache)
            || path == mounted
            || path == canary.file
            || path.starts_with(&canary.folder);
        ensure!(is_expected, "{} has appeared", path.display());
    }
    Ok(())
}

#[test]
fn a_hostile_server_costs_bounded_memory_and_gives_a_clear_error_and_hears_no_more_than_it_must()
-> Result<()> {
    let _limit = watchdog::limit("server", 200);
    let (objects, content) = published()?;
    let elsewhere = Hostile::start(|_, to| whole(to, "404 Not Found", "", ""))?;
    let server = serve(objects, elsewhere.endpoint())?;
    let mut failures = String::new();
    for case in &CASES {
        let begin = Instant::now();
        if let Err(error) = meet(case, &server, &content) {
            failures.push_str(&format!("{}: {error:#}\n", case.name));
        }
        eprintln!("{}: {:?}", case.name, begin.elapsed());
    }
    ensure!(failures.is_empty(), "{failures}");
    ensure!(
        elsewhere.asked().is_empty(),
        "a redirection was followed: {:?}",
        elsewhere.asked()
    );
    ensure!(
        server
            .asked()
            .iter()
            .any(|asked| asked.head.contains(ACCESS_KEY)),
        "nobody has signed anything"
    );
    Ok(())
}
