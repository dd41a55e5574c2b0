//! Log lines: one plain line each, on stderr and in `sqlite3_log` of every SQLite library that loaded the extension;
//! installed by `setup`.
//!
//! `RUST_LOG` chooses what is logged; only errors by default. If the host is a Rust program that has a subscriber
//! already, its subscriber gets the events instead.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fmt;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::OnceLock;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;
use verneuil_abi::{Api, Code};

/// More SQLite libraries than a process has; beyond, lines go to stderr only.
const LIBRARIES_MAX: usize = 16;
/// The libraries whose `sqlite3_log` gets a copy of each line, filled from the front. Read without a lock: a forked child logs, too.
static LIBRARIES: [OnceLock<Api>; LIBRARIES_MAX] = [const { OnceLock::new() }; LIBRARIES_MAX];

/// Adds a library, and starts logging with the first one.
pub(crate) fn start(api: Api) {
    for slot in &LIBRARIES {
        match slot.get() {
            Some(known) if known.address() == api.address() => return,
            Some(_) => {}
            None if slot.set(api).is_ok() => break,
            None => {}
        }
    }
    let filter = EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::ERROR.into())
        .try_from_env()
        .unwrap_or_else(|_| EnvFilter::new("error"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .event_format(PlainLine)
        .with_writer(Sinks)
        .finish();
    // Fails when there is one already: the host's, or ours from an earlier library.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

/// `verneuil: error: what happened key=value …`
struct PlainLine;

impl<S, N> FormatEvent<S, N> for PlainLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(
            line,
            "verneuil: {}: ",
            event.metadata().level().as_str().to_ascii_lowercase()
        )?;
        context.format_fields(line.by_ref(), event)?;
        writeln!(line)
    }
}

/// Makes a [`Sink`] for each event.
struct Sinks;

/// Takes one formatted event.
struct Sink {
    code: Code,
}

impl<'a> MakeWriter<'a> for Sinks {
    type Writer = Sink;

    fn make_writer(&'a self) -> Sink {
        Sink { code: Code::NOTICE }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Sink {
        let serious = *metadata.level() <= Level::WARN;
        Sink {
            code: if serious { Code::WARNING } else { Code::NOTICE },
        }
    }
}

impl Write for Sink {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = one_line(&String::from_utf8_lossy(event));
        to_stderr(&line);
        for library in LIBRARIES.iter().map_while(OnceLock::get) {
            library.log(self.code, &line);
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Without line breaks and other control characters, wherever they came from: a path may hold anything.
fn one_line(event: &str) -> String {
    event
        .trim_end()
        .chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// Writes a line if that neither waits nor kills the host: a commit must not hang on a full pipe, and a pipe that nobody
/// reads any more would raise SIGPIPE.
fn to_stderr(line: &str) {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    if !matches!(poll(&mut polled, PollTimeout::ZERO), Ok(1))
        || polled[0].revents() != Some(PollFlags::POLLOUT)
    {
        return;
    }
    // One write, so that lines of several threads or processes don't mix; and no lock, which a forked child may find locked.
    let _ = nix::unistd::write(&stderr, format!("{line}\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_break_in_a_name_does_not_break_the_line() {
        assert_eq!(
            one_line("error: db=/tmp/a\nb\x1b[31m\n"),
            "error: db=/tmp/a\u{fffd}b\u{fffd}[31m"
        );
    }
}
