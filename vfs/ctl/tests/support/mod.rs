//! Runs `verneuilctl` and looks at how it ended; for the tests beside this folder.

use std::process::{Command, Output, Stdio};

pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_verneuilctl"));
    command
        .args(args)
        .env_remove("VERNEUIL_CONFIG")
        .env_remove("RUST_LOG")
        .env("COLUMNS", "100")
        .stdin(Stdio::null());
    command
}

pub fn run(command: &mut Command) -> Output {
    command.output().expect("verneuilctl starts")
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

/// A failure with this status and one or two plain lines; returns them.
#[track_caller]
pub fn failure(output: &Output, status: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).expect("text");
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    assert!(
        !stderr.contains('\u{1b}') && !stderr.contains("panicked"),
        "{stderr}"
    );
    if status == 1 {
        assert!(
            stderr.starts_with("verneuilctl: ") && stderr.lines().count() <= 2,
            "{stderr}"
        );
    }
    stderr
}

#[track_caller]
pub fn success(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && stderr.is_empty(),
        "{:?}: {stderr}",
        output.status
    );
    stdout(output)
}
