//! An HTTP server in front of the real one, which counts requests and can misbehave; the store's conformance tests and
//! `tests/write_side/quiet_cost.rs` put it between a store and SeaweedFS.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use anyhow::{Result, ensure};

/// What happens to the next requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trick {
    /// They are passed on.
    None,
    /// So many are answered with this status.
    Refuse(u32, u16),
    /// The answer is a body that stops half way, with the connection open.
    Stall,
}

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// When.
    pub at: Instant,
    /// Its first line, such as `GET /bucket/key HTTP/1.1`.
    pub line: String,
}

#[derive(Debug)]
struct State {
    trick: Trick,
    requests: Vec<Request>,
    connections: usize,
}

/// The server; its threads end with the test's process.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Front {
    /// Opens a port of its own on 127.0.0.1 that leads to `server`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = Arc::new(Mutex::new(State {
            trick: Trick::None,
            requests: Vec::new(),
            connections: 0,
        }));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                locked(&state).connections += 1;
                // A connection that breaks is the client's to notice.
                std::thread::spawn(move || drop(serve(client, server, &state)));
            }
        });
        Ok(Self { address, state })
    }

    /// URL of the port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this happens.
    pub fn play(&self, trick: Trick) {
        locked(&self.state).trick = trick;
    }

    /// Each request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        locked(&self.state).requests.clone()
    }

    /// How many connections were opened so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        locked(&self.state).connections
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn serve(client: TcpStream, server: SocketAddr, state: &Mutex<State>) -> Result<()> {
    let mut to_client = client.try_clone()?;
    let mut from_client = BufReader::new(client);
    let mut upstream = TcpStream::connect(server)?;
    // Small answers must not wait for more of them, or every request takes 40 ms.
    to_client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let mut answers = upstream.try_clone()?;
    let mut copy = to_client.try_clone()?;
    std::thread::spawn(move || drop(std::io::copy(&mut answers, &mut copy)));
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if from_client.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        let text = String::from_utf8_lossy(&head).to_ascii_lowercase();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
        let body_len = field("content-length:").map_or(Ok(0), |len| len.trim().parse())?;
        ensure!(field("transfer-encoding:").is_none(), "{text}");
        let line = String::from_utf8_lossy(&head)
            .lines()
            .next()
            .unwrap_or_default()
            .to_owned();
        let trick = {
            let mut state = locked(state);
            state.requests.push(Request {
                at: Instant::now(),
                line,
            });
            let trick = state.trick;
            state.trick = match trick {
                Trick::Refuse(count, status) if count > 1 => Trick::Refuse(count - 1, status),
                Trick::Refuse(..) => Trick::None,
                other => other,
            };
            trick
        };
        if field("expect:").is_some() {
            to_client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = vec![0; body_len];
        from_client.read_exact(&mut body)?;
        match trick {
            Trick::None => {
                upstream.write_all(&head)?;
                upstream.write_all(&body)?;
            }
            Trick::Refuse(_, status) => write!(
                to_client,
                "HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: 64\r\n\r\n\
                 <Error><Code>SlowDown</Code><Message>not so fast</Message></Error>"
            )?,
            Trick::Stall => write!(
                to_client,
                "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 1000\r\n\r\nthe beginning"
            )?,
        }
    }
}
