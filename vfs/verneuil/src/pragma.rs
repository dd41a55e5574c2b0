//! The PRAGMA statements of the `verneuil` VFS; called by `file`. SQLite runs them while it prepares the
//! statement, and passes on what is not known here.

use crate::connection::Connection;
use crate::file::Unreplicated;
use verneuil_abi::{Code, Pragma, Result};

/// Answers a pragma of ours.
///
/// # Errors
/// `NOTFOUND` for pragmas of others; `ERROR`, with the reason as the statement's message.
pub(crate) fn answer(
    pragma: Pragma<'_>,
    connection: std::result::Result<&Connection, &Unreplicated>,
) -> Result<()> {
    if !pragma.is("verneuil_flush_replication_data") {
        return Err(Code::NOTFOUND);
    }
    let argument = pragma
        .argument()
        .map(|argument| argument.to_string_lossy().into_owned());
    match flush(argument.as_deref(), connection) {
        Ok(()) => pragma.answer("1"),
        Err(reason) => Err(pragma.fail(&reason)),
    }
}

/// `PRAGMA verneuil_flush_replication_data`, with the argument that it had.
fn flush(
    argument: Option<&str>,
    connection: std::result::Result<&Connection, &Unreplicated>,
) -> std::result::Result<(), String> {
    if let Some(argument) = argument {
        match argument.to_ascii_lowercase().as_str() {
            "now" | "force" | "2" => {}
            "0" | "1" | "false" | "true" | "off" | "on" | "no" | "yes" => {
                return Err(format!(
                    "verneuil_flush_replication_data={argument}: flushing when the connection is closed is not \
                     supported yet; leave the argument out to flush now"
                ));
            }
            _ => {
                return Err(format!(
                    "verneuil_flush_replication_data={argument}: unknown argument; leave it out to flush now"
                ));
            }
        }
    }
    let connection =
        connection.map_err(|reason| format!("nothing to flush: not replicated: {reason}"))?;
    if connection.is_writing() {
        // What is committed so far can't be read from under the transaction, and would never be flushed.
        return Err("flush: a transaction of this connection is writing; end it first".to_owned());
    }
    connection.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreplicated_connection_says_why_it_has_nothing_to_flush() {
        for argument in [None, Some("now"), Some("FORCE"), Some("2")] {
            let error = flush(argument, Err(&Unreplicated::ByParameter("nolock"))).unwrap_err();
            assert!(error.contains("nolock=1"), "{error}");
        }
    }

    #[test]
    fn arguments_that_mean_something_else_are_refused_by_name() {
        assert!(
            flush(Some("on"), Err(&Unreplicated::ReadOnly))
                .unwrap_err()
                .contains("not supported yet")
        );
        assert!(
            flush(Some("later"), Err(&Unreplicated::ReadOnly))
                .unwrap_err()
                .contains("unknown argument")
        );
    }
}
