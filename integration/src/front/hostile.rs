//! An S3 server that says what the test likes, for `tests/security`; `wire` reads what it is asked.

use std::io::{BufReader, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};

use super::operation::{Operation, split_target};
use super::wake;
use super::wire::Message;

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// What it is for.
    pub operation: Operation,
    /// Bucket and key, decoded.
    pub path: String,
    /// Its first line and its fields.
    pub head: String,
    query: String,
    range: Option<String>,
}

impl Asked {
    fn new(request: &Message) -> Self {
        let target = request.first_line.split(' ').nth(1).unwrap_or_default();
        let (path, query) = split_target(target);
        Self {
            operation: Operation::of(request),
            path: decode(path.trim_start_matches('/')),
            head: String::from_utf8_lossy(&request.head).into_owned(),
            query: query.to_owned(),
            range: request.field("range"),
        }
    }

    /// A parameter of the query, decoded; none is empty.
    #[must_use]
    pub fn parameter(&self, name: &str) -> String {
        let pairs = self
            .query
            .split('&')
            .filter_map(|pair| pair.split_once('='));
        let mut values = pairs.filter(|(found, _)| *found == name);
        values
            .next()
            .map_or_else(String::new, |(_, value)| decode(value))
    }

    /// The bytes that it asks for, of so many.
    #[must_use]
    pub fn range(&self, len: usize) -> Option<std::ops::Range<usize>> {
        let (first, last) = self
            .range
            .as_ref()?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        (first < len).then(|| first..last.saturating_add(1).min(len))
    }
}

/// Undoes percent-encoding.
fn decode(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let decoded = digits.and_then(|two| u8::from_str_radix(two, 16).ok());
        match decoded.filter(|_| *byte == b'%') {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(*byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What answers: it writes all of the answer, head included.
type Answer = dyn Fn(&Asked, &mut TcpStream) -> Result<()> + Send + Sync;

/// The server; takes no connections any more when it is dropped.
#[derive(Debug)]
pub struct Hostile {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    is_ended: Arc<AtomicBool>,
}

impl Hostile {
    /// Opens a port of its own on 127.0.0.1. A connection ends with its first answer.
    ///
    /// # Errors
    /// When there is no free port.
    pub fn start(
        answer: impl Fn(&Asked, &mut TcpStream) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Self> {
        let listener = crate::seaweed::free_port()?;
        let hostile = Self {
            address: listener.local_addr()?,
            asked: Arc::default(),
            is_ended: Arc::default(),
        };
        let (asked, is_ended) = (Arc::clone(&hostile.asked), Arc::clone(&hostile.is_ended));
        std::thread::spawn(move || listen(&listener, &Arc::new(answer), &asked, &is_ended));
        Ok(hostile)
    }

    /// URL of the port.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Each request so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.clone()
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.is_ended.store(true, Ordering::Release);
        wake(self.address);
    }
}

fn listen(
    listener: &TcpListener,
    answer: &Arc<impl Fn(&Asked, &mut TcpStream) -> Result<()> + Send + Sync + 'static>,
    asked: &Arc<Mutex<Vec<Asked>>>,
    is_ended: &AtomicBool,
) {
    for client in listener.incoming() {
        if is_ended.load(Ordering::Acquire) {
            return;
        }
        let Ok(client) = client else { continue };
        let (answer, asked) = (Arc::clone(answer), Arc::clone(asked));
        // A connection that breaks is the client's to notice.
        std::thread::spawn(move || drop(connection(client, &*answer, &asked)));
    }
}

fn connection(mut client: TcpStream, answer: &Answer, asked: &Mutex<Vec<Asked>>) -> Result<()> {
    client.set_nodelay(true)?;
    let mut from = BufReader::new(client.try_clone()?);
    let Some(request) = Message::read_head(&mut from)? else {
        return Ok(());
    };
    ensure!(
        request.content_length()?.unwrap_or(0) == 0,
        "nothing is written here"
    );
    let question = Asked::new(&request);
    let mut all = asked.lock().unwrap_or_else(PoisonError::into_inner);
    all.push(question.clone());
    drop(all);
    answer(&question, &mut client)?;
    client.shutdown(std::net::Shutdown::Write)?;
    // Closed with something unread, it would be reset, and the end of the answer lost.
    std::io::copy(&mut from.take(1 << 20), &mut std::io::sink())?;
    Ok(())
}
