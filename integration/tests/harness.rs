//! Does the harness notice what it is there to notice? Without any of the products: sqlite's own VFS, files, a TCP server.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use verneuil_integration::fault::{DirectoryAway, Proxy};
use verneuil_integration::process;
use verneuil_integration::session::{Opening, Program, Session};
use verneuil_integration::state::check_state;
use verneuil_integration::watch::Watch;
use verneuil_integration::workload::{Workload, WorkloadOptions};

/// Runs a workload with sqlite's own VFS and keeps the file after each of `stops`.
fn states(folder: &Path, program: Program, stops: &[u64]) -> Result<Vec<Vec<u8>>> {
    let file = folder.join("plain.db");
    let uri = format!("file:{}", file.display());
    let mut session = Session::open(
        program,
        &Opening {
            uri: &uri,
            load: false,
            env: &[],
        },
    )?;
    session.run(&["PRAGMA synchronous=OFF"])?;
    let mut workload = Workload::new(
        1,
        WorkloadOptions {
            reshape: true,
            bursts: true,
        },
    );
    let mut files = Vec::new();
    for stop in stops {
        while workload.committed() < *stop {
            session.run(&workload.step())?;
        }
        ensure!(check_state(&file)? == *stop);
        files.push(std::fs::read(&file)?);
    }
    session.close()?;
    Ok(files)
}

#[test]
fn every_program_runs_the_workload_and_every_state_is_whole() -> Result<()> {
    for program in Program::ALL {
        let folder = tempfile::tempdir()?;
        states(folder.path(), program, &[1, 39, 40, 41, 120, 300])?;
    }
    Ok(())
}

#[test]
fn a_mixture_of_two_neighbouring_states_is_noticed() -> Result<()> {
    let folder = tempfile::tempdir()?;
    // 4,096-byte pages, between two changes of shape.
    let stops: Vec<u64> = (25..36).collect();
    let files = states(folder.path(), Program::Rusqlite, &stops)?;
    let mixed = folder.path().join("mixed.db");
    let (mut mixtures, mut noticed) = (0, 0);
    for pair in files.windows(2) {
        let (old, new) = (&pair[0], &pair[1]);
        for page in 0..new.len().min(old.len()) / 4_096 {
            let range = page * 4_096..(page + 1) * 4_096;
            if old[range.clone()] != new[range.clone()] {
                let mut bytes = new.clone();
                bytes[range.clone()].copy_from_slice(&old[range]);
                std::fs::write(&mixed, bytes)?;
                mixtures += 1;
                noticed += u32::from(check_state(&mixed).is_err());
            }
        }
    }
    // Free pages, unchecked blobs and a counter that nobody reads here may differ without harm.
    eprintln!("{noticed} of {mixtures} one-page mixtures noticed");
    ensure!(
        mixtures > 30 && noticed * 10 > mixtures * 7,
        "only {noticed} of {mixtures} mixtures are noticed"
    );
    Ok(())
}

#[test]
fn a_program_that_fails_says_why_in_its_own_words() -> Result<()> {
    for program in Program::ALL {
        let mut session = Session::open(
            program,
            &Opening {
                uri: "file::memory:",
                load: false,
                env: &[],
            },
        )?;
        let Err(error) = session.rows(&["SELECT 1", "SELECT * FROM nowhere"]) else {
            anyhow::bail!("{program:?} reported no error")
        };
        ensure!(
            format!("{error:#}").contains("nowhere"),
            "{program:?}: {error:#}"
        );
    }
    Ok(())
}

#[test]
fn a_cut_line_breaks_connections_and_a_mended_one_works() -> Result<()> {
    let server = TcpListener::bind("127.0.0.1:0")?;
    let proxy = Proxy::start(server.local_addr()?)?;
    std::thread::spawn(move || {
        for mut client in server.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut byte = [0];
                while client.read_exact(&mut byte).is_ok() && client.write_all(&byte).is_ok() {}
            });
        }
    });
    let ask = |stream: &mut TcpStream| -> std::io::Result<u8> {
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"x")?;
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        Ok(byte[0])
    };
    let mut before = TcpStream::connect(proxy.address())?;
    ensure!(ask(&mut before)? == b'x');
    proxy.cut();
    ensure!(ask(&mut before).is_err(), "a connection outlived the cut");
    ensure!(
        TcpStream::connect(proxy.address())
            .and_then(|mut stream| ask(&mut stream))
            .is_err()
    );
    proxy.mend();
    ensure!(ask(&mut TcpStream::connect(proxy.address())?)? == b'x');
    Ok(())
}

#[test]
fn a_directory_that_is_away_can_neither_be_read_nor_written_and_comes_back_as_it_was() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let root = folder.path().join("store");
    std::fs::create_dir(&root)?;
    std::fs::write(root.join("object"), "kept")?;
    let away = DirectoryAway::take(&root)?;
    ensure!(
        std::fs::read(root.join("object")).is_err()
            && std::fs::create_dir_all(root.join("new")).is_err()
    );
    drop(away);
    ensure!(std::fs::read(root.join("object"))? == b"kept");
    Ok(())
}

#[test]
fn a_watch_keeps_every_version_that_is_renamed_into_place() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("deep/er/main.db@");
    let watch = Watch::start(&file)?;
    for version in 0..50_u32 {
        let temporary = file.with_extension("temporary");
        std::fs::write(&temporary, version.to_be_bytes())?;
        std::fs::rename(&temporary, &file)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    let versions = watch.finish()?;
    ensure!(
        versions
            == (0..50_u32)
                .map(|version| version.to_be_bytes().to_vec())
                .collect::<Vec<_>>()
    );
    Ok(())
}

#[test]
fn a_child_that_hangs_is_killed_at_its_limit() -> Result<()> {
    let Err(error) = process::run(process::tied("sleep").arg("60"), Duration::from_millis(100))
    else {
        anyhow::bail!("the child was waited for")
    };
    ensure!(format!("{error:#}").contains("killed"), "{error:#}");
    Ok(())
}
