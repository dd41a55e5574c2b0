//! One connection of a front: each request is counted and passed on, or goes wrong as the rule says.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

use super::books::Version;
use super::fault::Fault;
use super::operation::{Operation, split_target};
use super::wire::Message;
use super::{Request, Shared, State, wake};

/// Pause between two bytes of a trickle.
const TRICKLE_PAUSE: Duration = Duration::from_secs(1);

/// Serves one connection until either side ends it.
pub(super) fn connection(
    client: TcpStream,
    number: usize,
    (own, server): (SocketAddr, SocketAddr),
    shared: &Shared,
) -> Result<()> {
    // Small answers must not wait for more of them, or every request takes 40 ms.
    client.set_nodelay(true)?;
    let mut connection = Connection {
        from_client: BufReader::new(client.try_clone()?),
        client,
        number,
        own,
        server,
        upstream: None,
        shared,
    };
    while connection.request()? {}
    Ok(())
}

struct Connection<'a> {
    from_client: BufReader<TcpStream>,
    client: TcpStream,
    number: usize,
    own: SocketAddr,
    server: SocketAddr,
    upstream: Option<BufReader<TcpStream>>,
    shared: &'a Shared,
}

impl Connection<'_> {
    /// One request; whether another may follow.
    fn request(&mut self) -> Result<bool> {
        let Some(mut request) = Message::read_head(&mut self.from_client)? else {
            return Ok(false);
        };
        ensure!(
            request.field("transfer-encoding").is_none(),
            "{}",
            request.first_line
        );
        let operation = Operation::of(&request);
        let fault = self.count(&request, operation);
        if request.field("expect").is_some() {
            self.client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let body_len = request.content_length()?.unwrap_or(0);
        if fault == Some(Fault::Trickle) && body_len > 0 {
            return self.trickle_in();
        }
        request.body = vec![0; body_len];
        self.from_client.read_exact(&mut request.body)?;
        match fault {
            None => {
                let answer = self.pass_on(&request, operation)?;
                answer.write(&mut self.client)?;
                Ok(true)
            }
            Some(fault) => self.go_wrong(fault, &request, operation),
        }
    }

    fn count(&self, request: &Message, operation: Operation) -> Option<Fault> {
        let mut state = self.shared.state();
        let rule = state.rule.as_mut();
        let fault = rule.and_then(|rule| rule.befalls(operation).then_some(rule.fault));
        state.requests.push(Request {
            at: Instant::now(),
            line: request.first_line.clone(),
            operation,
            is_struck: fault.is_some(),
        });
        fault
    }

    fn go_wrong(&mut self, fault: Fault, request: &Message, operation: Operation) -> Result<bool> {
        match fault {
            Fault::Refused => {
                {
                    let mut state = self.shared.state();
                    state.is_refusing = true;
                    state.hang_up();
                }
                wake(self.own);
                // Whoever asks next must not find the port open.
                self.shared
                    .wait(super::LISTEN_LIMIT, |state| !state.is_listening);
                Ok(false)
            }
            Fault::Reset => {
                // Closed with time 0 to linger, a connection is reset.
                let now = nix::libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                setsockopt(&self.client, sockopt::Linger, &now)?;
                self.shared.state().open.remove(&self.number);
                Ok(false)
            }
            Fault::Hang => {
                self.until_it_ends();
                Ok(false)
            }
            Fault::Stall => {
                let head = "HTTP/1.1 200 OK\r\nETag: \"1\"\r\nContent-Length: 1000\r\n\r\n";
                write!(self.client, "{head}the beginning")?;
                self.until_it_ends();
                Ok(false)
            }
            Fault::Answer(status, code) => {
                error_answer(status, code).write(&mut self.client)?;
                Ok(true)
            }
            Fault::Trickle => {
                let answer = self.pass_on(request, operation)?;
                self.trickle_out(&answer)
            }
            Fault::LostAnswer => {
                self.pass_on(request, operation)?;
                Ok(false)
            }
            Fault::WrongBytes | Fault::Truncated | Fault::Shortened => {
                let mut answer = self.pass_on(request, operation)?;
                let len = answer.body.len();
                if len == 0 || !(200..300).contains(&answer.status()) {
                    answer.write(&mut self.client)?;
                    return Ok(true);
                }
                if fault == Fault::WrongBytes {
                    for at in [0, len / 3, len / 2, len - 1] {
                        answer.body[at] ^= 0x55;
                    }
                } else {
                    answer.body.truncate(len / 2);
                }
                if fault == Fault::Shortened {
                    answer.announce(len / 2);
                }
                answer.write(&mut self.client)?;
                Ok(fault != Fault::Truncated)
            }
        }
    }

    /// Asks the server, and enters what it has accepted.
    fn pass_on(&mut self, request: &Message, operation: Operation) -> Result<Message> {
        let is_manifest = matches!(
            operation,
            Operation::PutFirstManifest | Operation::PutNextManifest
        );
        let missing = if is_manifest {
            self.shared.state().books.missing_of(&request.body)
        } else {
            Vec::new()
        };
        let upstream = match &mut self.upstream {
            Some(upstream) => upstream,
            None => {
                let stream = TcpStream::connect(self.server)?;
                stream.set_nodelay(true)?;
                self.upstream.insert(BufReader::new(stream))
            }
        };
        request.write(upstream.get_mut())?;
        let mut words = request.first_line.split(' ');
        let method = words.next().unwrap_or_default();
        let answer = loop {
            let answer = Message::read_answer(upstream, method)?;
            // "Go on": we have sent it all.
            if answer.status() != 100 {
                break answer;
            }
        };
        if (200..300).contains(&answer.status()) && (is_manifest || operation == Operation::PutPack)
        {
            let (path, _) = split_target(words.next().context("a request has a target")?);
            let mut state = self.shared.state();
            if is_manifest {
                state.books.enter_version(Version {
                    path: path.to_owned(),
                    body: request.body.clone(),
                    missing,
                });
            } else {
                state.books.enter(path, &request.body);
            }
        }
        Ok(answer)
    }

    /// Waits until the client gives up or the front is mended, which breaks the connection.
    fn until_it_ends(&mut self) {
        while self
            .from_client
            .fill_buf()
            .is_ok_and(|bytes| !bytes.is_empty())
        {
            let len = self.from_client.buffer().len();
            self.from_client.consume(len);
        }
    }

    fn trickle_in(&mut self) -> Result<bool> {
        let mut byte = [0];
        while self.from_client.read(&mut byte)? == 1 {
            self.pause()?;
        }
        Ok(false)
    }

    fn trickle_out(&mut self, answer: &Message) -> Result<bool> {
        self.client.write_all(&answer.head)?;
        for byte in &answer.body {
            self.client.write_all(&[*byte])?;
            self.pause()?;
        }
        Ok(true)
    }

    /// Until the next byte; fails when the front has been mended.
    fn pause(&self) -> Result<()> {
        let is_over = |state: &State| {
            state.is_ended || state.rule.is_none_or(|rule| rule.fault != Fault::Trickle)
        };
        ensure!(
            !self.shared.wait(TRICKLE_PAUSE, is_over),
            "the rest was not waited for"
        );
        Ok(())
    }
}

/// An error as S3 words it.
fn error_answer(status: u16, code: &str) -> Message {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>the front says so</Message></Error>"
    );
    let wait = if status == 503 {
        "Retry-After: 1\r\n"
    } else {
        ""
    };
    let first_line = format!("HTTP/1.1 {status} {code}");
    let head = format!(
        "{first_line}\r\nContent-Type: application/xml\r\n{wait}Content-Length: {}\r\n\r\n",
        body.len()
    );
    Message {
        head: head.into_bytes(),
        first_line,
        body: body.into_bytes(),
    }
}
