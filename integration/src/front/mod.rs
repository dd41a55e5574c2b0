//! An HTTP server in front of the real one, which counts requests, keeps books of what the server accepts, and can misbehave;
//! the store's conformance tests, `tests/store_faults` and `tests/write_side/quiet_cost.rs` put it between a store and SeaweedFS.
//!
//! - `wire`: requests and answers;
//! - `operation`: what a request is for;
//! - `fault`: what goes wrong, and when;
//! - `serve`: one connection;
//! - `books`: what the server has accepted;
//! - `hostile`: no server at all, but what a test says.

mod books;
mod fault;
mod hostile;
mod operation;
mod serve;
mod wire;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

pub use books::{Books, Version};
pub use fault::{Fault, Rule};
pub use hostile::{Asked, Hostile};
pub use operation::Operation;

/// How long a port that was left may take to be had again.
const LISTEN_LIMIT: Duration = Duration::from_secs(10);

/// A request that arrived.
#[derive(Clone, Debug)]
pub struct Request {
    /// When.
    pub at: Instant,
    /// Its first line, such as `GET /bucket/key HTTP/1.1`.
    pub line: String,
    /// What it is for.
    pub operation: Operation,
    /// Whether something went wrong with it.
    pub is_struck: bool,
}

#[derive(Debug, Default)]
struct State {
    rule: Option<Rule>,
    requests: Vec<Request>,
    connections: usize,
    /// Those that are open now, so that they can be broken.
    open: HashMap<usize, TcpStream>,
    is_refusing: bool,
    is_listening: bool,
    is_ended: bool,
    books: Books,
}

/// What the threads of a front share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until this holds, for at most `limit`; whether it does.
    fn wait(&self, limit: Duration, holds: impl Fn(&State) -> bool) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.state(), limit, |state| !holds(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        holds(&state)
    }
}

impl State {
    fn hang_up(&mut self) {
        for (_, stream) in self.open.drain() {
            // It may be closed already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The server; its threads end when it is dropped.
#[derive(Debug)]
pub struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Front {
    /// Opens a port of its own on 127.0.0.1 that leads to `server`.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(server: SocketAddr) -> Result<Self> {
        let listener = crate::seaweed::free_port()?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::default());
        shared.state().is_listening = true;
        let its = Arc::clone(&shared);
        std::thread::spawn(move || listen(&its, listener, address, server));
        Ok(Self { address, shared })
    }

    /// Address of the port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// URL of the port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on this happens.
    pub fn play(&self, rule: Rule) {
        self.shared.state().rule = Some(rule);
    }

    /// Nothing happens any more. What hangs or trickles ends.
    ///
    /// # Errors
    /// When somebody else has taken the port while nobody listened.
    pub fn mend(&self) -> Result<()> {
        {
            let mut state = self.shared.state();
            if let Some(rule) = state.rule.take()
                && matches!(rule.fault, Fault::Hang | Fault::Trickle | Fault::Stall)
            {
                state.hang_up();
            }
            state.is_refusing = false;
        }
        self.shared.changed.notify_all();
        let is_back = self.shared.wait(LISTEN_LIMIT, |state| state.is_listening);
        ensure!(is_back, "{} can't be listened to again", self.address);
        Ok(())
    }

    /// Each request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.state().requests.clone()
    }

    /// How many connections were opened so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// What the server has accepted so far.
    #[must_use]
    pub fn books(&self) -> Books {
        self.shared.state().books.clone()
    }

    /// How many manifests the server has accepted so far.
    #[must_use]
    pub fn version_count(&self) -> usize {
        self.shared.state().books.versions().len()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        {
            let mut state = self.shared.state();
            state.is_ended = true;
            state.rule = None;
            state.hang_up();
        }
        self.shared.changed.notify_all();
        wake(self.address);
    }
}

/// Makes a listener look at its state.
fn wake(address: SocketAddr) {
    // One that does not listen needs no waking.
    drop(TcpStream::connect(address));
}

/// Takes connections until the front is dropped; gives the port up while it refuses.
fn listen(
    shared: &Arc<Shared>,
    mut listener: TcpListener,
    address: SocketAddr,
    server: SocketAddr,
) {
    loop {
        let client = listener.accept();
        let is_refusing = {
            let state = shared.state();
            if state.is_ended {
                return;
            }
            state.is_refusing
        };
        if is_refusing {
            drop(client);
            drop(listener);
            shared.state().is_listening = false;
            shared.changed.notify_all();
            let Some(again) = listen_again(shared, address) else {
                return;
            };
            listener = again;
            shared.state().is_listening = true;
            shared.changed.notify_all();
            continue;
        }
        let Ok((client, _)) = client else { continue };
        let number = {
            let mut state = shared.state();
            state.connections += 1;
            let number = state.connections;
            if let Ok(copy) = client.try_clone() {
                state.open.insert(number, copy);
            }
            number
        };
        let its = Arc::clone(shared);
        std::thread::spawn(move || {
            // A connection that breaks is the client's to notice.
            drop(serve::connection(client, number, (address, server), &its));
            its.state().open.remove(&number);
        });
    }
}

/// The port, when it is no longer to refuse; `None` when the front has ended, or somebody else has it.
fn listen_again(shared: &Shared, address: SocketAddr) -> Option<TcpListener> {
    let is_over = |state: &State| !state.is_refusing || state.is_ended;
    while !shared.wait(LISTEN_LIMIT, is_over) {}
    let begun = Instant::now();
    while !shared.state().is_ended && begun.elapsed() < LISTEN_LIMIT {
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, address.port())) {
            return Some(listener);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    None
}
