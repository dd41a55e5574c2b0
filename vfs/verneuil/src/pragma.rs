//! The PRAGMA statements of the `verneuil` VFS; called by `file`. SQLite runs them while it prepares the
//! statement, and passes on what is not known here.

use crate::seat::Seat;
use crate::why::Unreplicated;
use std::sync::Arc;
use std::time::Duration;
use verneuil_abi::{Code, Pragma, Result};

/// What a pragma is asked about: a connection, or why there is none.
type Asked<'a> = std::result::Result<&'a Arc<Seat>, Unreplicated>;
/// A row, or a message for the user.
type Answer = std::result::Result<String, String>;

/// Answers a pragma of ours.
///
/// # Errors
/// `NOTFOUND` for pragmas of others; `ERROR`, with the reason as the statement's message.
pub(crate) fn answer(pragma: Pragma<'_>, asked: Asked<'_>) -> Result<()> {
    let run: fn(Option<&str>, Asked<'_>) -> Answer = if pragma.is("verneuil_flush_replication_data")
    {
        flush
    } else if pragma.is("verneuil_status") {
        status
    } else if pragma.is("verneuil_wait") {
        wait
    } else {
        return Err(Code::NOTFOUND);
    };
    let argument = pragma
        .argument()
        .map(|argument| argument.to_string_lossy().into_owned());
    let asked = asked.and_then(|seat| seat.why_not().map_or(Ok(seat), Err));
    match run(argument.as_deref(), asked) {
        Ok(row) => pragma.answer(&row),
        Err(reason) => Err(pragma.fail(&reason)),
    }
}

/// `PRAGMA verneuil_flush_replication_data`: now, or with a boolean when the connection is closed.
fn flush(argument: Option<&str>, asked: Asked<'_>) -> Answer {
    let is_later = match argument.map(str::to_ascii_lowercase).as_deref() {
        None | Some("now" | "force" | "2") => None,
        Some("1" | "true" | "on" | "yes") => Some(true),
        Some("0" | "false" | "off" | "no") => Some(false),
        Some(_) => {
            return Err(format!(
                "verneuil_flush_replication_data={}: unknown argument; leave it out to flush now, or give a boolean to \
                 flush, or not, when this connection is closed",
                argument.unwrap_or_default()
            ));
        }
    };
    let seat = asked.map_err(|reason| format!("nothing to flush: not replicated: {reason}"))?;
    if let Some(is_later) = is_later {
        let before = seat
            .tell(|connection| std::mem::replace(&mut connection.flush_on_close, is_later))
            .ok_or_else(bug)?;
        return Ok(u8::from(before).to_string());
    }
    let (database, replication, is_writing) = seat
        .tell(|connection| connection.for_pragma())
        .ok_or_else(bug)?;
    if is_writing {
        // What is committed so far can't be read from under the transaction, and would never be flushed.
        return Err("flush: a transaction of this connection is writing; end it first".to_owned());
    }
    replication.flush(&database)?;
    stored(seat)
}

/// What was asked for is in the store; but is it of this connection's file?
fn stored(seat: &Arc<Seat>) -> Answer {
    seat.tell(|connection| connection.check_place())
        .ok_or_else(bug)?
        .map(|()| "1".to_owned())
}

/// `PRAGMA verneuil_status`: one row of JSON.
fn status(argument: Option<&str>, asked: Asked<'_>) -> Answer {
    if let Some(argument) = argument {
        return Err(format!(
            "verneuil_status={argument}: takes no argument; leave it out"
        ));
    }
    match asked {
        Err(reason) => {
            Ok(serde_json::json!({"replicated": false, "reason": reason.to_string()}).to_string())
        }
        Ok(seat) => {
            let (database, replication, _) = seat
                .tell(|connection| connection.for_pragma())
                .ok_or_else(bug)?;
            let place = seat
                .tell(|connection| connection.check_place())
                .ok_or_else(bug)?;
            Ok(match place {
                Ok(()) => replication.status(&database),
                Err(reason) => misplaced(&replication.status(&database), reason),
            })
        }
    }
}

/// The status of the database, for a connection whose file is another one by now.
fn misplaced(status: &str, reason: String) -> String {
    let mut status: serde_json::Value =
        serde_json::from_str(status).unwrap_or_else(|_| serde_json::json!({}));
    // Whatever else keeps the database from being replicated is the new file's affair.
    if status["replicated"] != false {
        status["replicated"] = false.into();
        status["reason"] = reason.into();
    }
    status.to_string()
}

/// `PRAGMA verneuil_wait=<ms>`: until the copier has carried away what is committed now, at its own pace.
fn wait(argument: Option<&str>, asked: Asked<'_>) -> Answer {
    let limit_ms = argument
        .and_then(|argument| argument.trim().parse::<u64>().ok())
        .ok_or_else(|| {
            format!(
                "verneuil_wait{}: needs a number of milliseconds, as in PRAGMA verneuil_wait=5000",
                argument.map_or_else(String::new, |argument| format!("={argument}"))
            )
        })?;
    let seat = asked.map_err(|reason| format!("nothing to wait for: not replicated: {reason}"))?;
    let (database, replication, is_writing) = seat
        .tell(|connection| connection.for_pragma())
        .ok_or_else(bug)?;
    if is_writing {
        return Err("wait: a transaction of this connection is writing; end it first".to_owned());
    }
    replication.wait(&database, Duration::from_millis(limit_ms))?;
    stored(seat)
}

fn bug() -> String {
    Unreplicated::Bug.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unreplicated_connection_says_why_it_has_nothing_to_flush() {
        for argument in [None, Some("now"), Some("FORCE"), Some("2"), Some("on")] {
            let error = flush(argument, Err(Unreplicated::ByParameter("nolock"))).unwrap_err();
            assert!(error.contains("nolock=1"), "{error}");
        }
        let error = wait(Some("1"), Err(Unreplicated::Excluded)).unwrap_err();
        assert!(error.contains("include and exclude"), "{error}");
    }

    #[test]
    fn arguments_that_mean_nothing_are_refused_by_name() {
        for (error, part) in [
            (flush(Some("later"), Err(Unreplicated::ReadOnly)), "=later"),
            (status(Some("all"), Err(Unreplicated::ReadOnly)), "=all"),
            (wait(None, Err(Unreplicated::ReadOnly)), "milliseconds"),
            (wait(Some("-1"), Err(Unreplicated::ReadOnly)), "=-1"),
            (wait(Some("soon"), Err(Unreplicated::ReadOnly)), "=soon"),
        ] {
            let error = error.unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn every_reason_makes_a_status_that_says_so() {
        for reason in [
            Unreplicated::NotConfigured,
            Unreplicated::NotADatabase,
            Unreplicated::NotARegularFile,
            Unreplicated::ReadOnly,
            Unreplicated::ByParameter("immutable"),
            Unreplicated::Excluded,
            Unreplicated::Bug,
        ] {
            let row = status(None, Err(reason)).unwrap();
            let value: serde_json::Value = serde_json::from_str(&row).unwrap();
            assert_eq!(value["replicated"], false, "{row}");
            assert_eq!(value["reason"], reason.to_string(), "{row}");
        }
    }
}
