//! Stores that go away and come back: a directory that stops being one, and a server behind a line that can be cut.
//! `setup.rs` puts the line in front of every S3 server.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};

/// A directory store that is unusable while this lives: a file stands in its place, which stops root too.
#[derive(Debug)]
pub struct DirectoryAway {
    root: PathBuf,
    kept: PathBuf,
}

impl DirectoryAway {
    /// Takes the directory away.
    ///
    /// # Errors
    /// When it can't be renamed; it is still there then.
    pub fn take(root: &Path) -> Result<Self> {
        let kept = root.with_extension("away");
        std::fs::rename(root, &kept).with_context(|| format!("taking {} away", root.display()))?;
        let away = Self {
            root: root.to_owned(),
            kept,
        };
        std::fs::write(root, "the store is away\n")?;
        Ok(away)
    }
}

impl Drop for DirectoryAway {
    fn drop(&mut self) {
        // Whoever put something else there in the meantime is found out by the test's own checks.
        let _ = std::fs::remove_file(&self.root);
        let _ = std::fs::rename(&self.kept, &self.root);
    }
}

#[derive(Debug, Default)]
struct Line {
    cut: AtomicBool,
    hung: AtomicBool,
    ended: AtomicBool,
    open: Mutex<Vec<TcpStream>>,
}

impl Line {
    fn hang_up(&self) {
        if let Ok(mut open) = self.open.lock() {
            for stream in open.drain(..) {
                // It may be closed already.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

/// How often a line that hangs looks whether it still does.
const HANG_POLL: Duration = Duration::from_millis(10);

/// A TCP line to a server that can be cut (connections break, new ones are closed at once) or hang.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    line: Arc<Line>,
}

impl Proxy {
    /// Opens a port of its own on 127.0.0.1 that leads to `server`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
        let address = listener.local_addr()?;
        let line = Arc::new(Line::default());
        let shared = Arc::clone(&line);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                if shared.ended.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(client) = client {
                    connect(&shared, client, server);
                }
            }
        });
        Ok(Self { address, line })
    }

    /// Where clients connect to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Cuts the line.
    pub fn cut(&self) {
        self.line.cut.store(true, Ordering::SeqCst);
        self.line.hang_up();
    }

    /// Stops all answers: connections stay open, and new ones are accepted, but nothing comes through.
    pub fn hang(&self) {
        self.line.hung.store(true, Ordering::SeqCst);
    }

    /// Mends it, whatever happened to it.
    pub fn mend(&self) {
        self.line.hung.store(false, Ordering::SeqCst);
        self.line.cut.store(false, Ordering::SeqCst);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.line.ended.store(true, Ordering::SeqCst);
        self.cut();
        // Wakes the listener, which then sees that it has ended.
        let _ = TcpStream::connect(self.address);
    }
}

fn connect(line: &Arc<Line>, client: TcpStream, server: SocketAddr) {
    if line.cut.load(Ordering::SeqCst) {
        return;
    }
    let Ok(server) = TcpStream::connect(server) else {
        return;
    };
    // Small answers must not wait for more of them, or every request takes 40 ms.
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else {
        return;
    };
    if let (Ok(mut open), Ok(client), Ok(server)) =
        (line.open.lock(), client.try_clone(), server.try_clone())
    {
        open.extend([client, server]);
    }
    if line.cut.load(Ordering::SeqCst) {
        line.hang_up();
    }
    let (up, down) = (Arc::clone(line), Arc::clone(line));
    std::thread::spawn(move || pump(&up, from_client, server));
    std::thread::spawn(move || pump(&down, from_server, client));
}

fn pump(line: &Line, mut from: TcpStream, mut to: TcpStream) {
    let mut buffer = vec![0; 65_536];
    while let Ok(n) = from.read(&mut buffer) {
        while line.hung.load(Ordering::SeqCst) && !line.ended.load(Ordering::SeqCst) {
            std::thread::sleep(HANG_POLL);
        }
        if n == 0 || to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
