//! Standard output (text, JSON, bytes) and the progress bar, for `commands`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::Path;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use verneuil_store::printable;

use crate::failure::Failure;

/// Prints one line.
pub fn line(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(Failure::stdout)
}

/// Prints a value as JSON, on lines of its own.
pub fn json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Failure::Failed(format!("cannot make JSON of the result: {error}")))?;
    line(&json_for_terminals(&text))
}

/// The same JSON, with every control character that it may hold as it is (DEL and C1) escaped: a terminal may act on them.
pub fn json_for_terminals(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\n' {
            plain.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            plain.push(character);
        }
    }
    plain
}

/// A path as a string of JSON: the path itself, for programs. Bytes that are no UTF-8 can't be said in JSON; the key tells such paths apart.
pub fn json_path(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// Says on stderr what went wrong with one of several things: one line of plain text, whatever names it holds and whatever a store has said.
pub fn report(text: &str) {
    let line = printable(text.replace(['\n', '\r'], " ").as_bytes());
    // Nobody is left to be told if stderr is gone.
    let _ = io::stderr().write_all(format!("verneuilctl: {line}\n").as_bytes());
}

/// Prints bytes that are not text, unless they would end up on a screen.
pub fn bytes(bytes: &[u8]) -> Result<(), Failure> {
    refuse_terminal()?;
    stream(|out| out(bytes))
}

/// Binary data garbles a terminal.
pub fn refuse_terminal() -> Result<(), Failure> {
    if io::stdout().is_terminal() {
        return Err(Failure::Usage(
            "the result is binary, and standard output is a terminal; give -o OUT, or redirect it"
                .to_owned(),
        ));
    }
    Ok(())
}

/// Takes output piece by piece.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Failure>;

/// Prints what `make` gives, as it comes.
pub fn stream(make: impl FnOnce(Sink<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut stdout = BufWriter::new(io::stdout().lock());
    make(&mut |bytes| stdout.write_all(bytes).map_err(Failure::stdout))?;
    stdout.flush().map_err(Failure::stdout)
}

/// Writes what `make` gives to a file, whole or not at all: a temp file beside it, then a rename.
pub fn file(
    path: &Path,
    make: impl FnOnce(Sink<'_>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let failed = |error: io::Error| {
        Failure::Failed(format!(
            "cannot write {}: {error}; check the path and its permissions",
            path.display()
        ))
    };
    // A device or a pipe can't be renamed over.
    if std::fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        let mut out = File::options().write(true).open(path).map_err(failed)?;
        return make(&mut |bytes| out.write_all(bytes).map_err(failed));
    }
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut temp = BufWriter::new(
        tempfile::Builder::new()
            .prefix(".verneuilctl-")
            .tempfile_in(directory)
            .map_err(failed)?,
    );
    make(&mut |bytes| temp.write_all(bytes).map_err(failed))?;
    let temp = temp
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    temp.as_file().sync_all().map_err(failed)?;
    temp.persist(path).map_err(|error| failed(error.error))?;
    Ok(())
}

/// A bar on stderr, if that is a terminal.
pub fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::new(0);
    if !io::stderr().is_terminal() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    let template = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}
