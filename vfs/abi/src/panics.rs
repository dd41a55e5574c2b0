//! The last line before C: [`guard`] turns a panic into a result code and a line in the host's log, for
//! `file_callbacks` and `vfs_callbacks`. An unwind out of `extern "C"` would abort the host.

use crate::{Api, Code};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs a callback's body. After a panic `otherwise` is the result.
pub(crate) fn guard<T>(
    api: Option<Api>,
    callback: &'static str,
    otherwise: T,
    body: impl FnOnce() -> T,
) -> T {
    // Unwind safety: a file or VFS that panicked is used again, as a C one would be; its methods keep no invariant
    // across a call that would be dangerous when broken (they hold no locks while they call out).
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(value) => value,
        Err(panic) => {
            let message = message_of(panic.as_ref());
            // Neither the logger nor the payload's destructor may get a second chance to unwind.
            let _ = catch_unwind(AssertUnwindSafe(|| {
                if let Some(api) = api {
                    api.log(
                        Code::INTERNAL,
                        &format!("verneuil: bug: {callback} panicked: {message}"),
                    );
                }
            }));
            std::mem::forget(panic);
            otherwise
        }
    }
}

fn message_of(panic: &(dyn Any + Send)) -> &str {
    if let Some(text) = panic.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text
    } else {
        "(no message)"
    }
}
