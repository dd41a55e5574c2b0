//! What can go wrong with a request, and when it does; `serve.rs` does it.

use super::operation::Operation;

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection breaks, and from then on nobody listens, whatever the next request is.
    Refused,
    /// The connection is reset; nothing reaches the server.
    Reset,
    /// A body goes through with one byte per second: that of the request if it has one, else that of the answer.
    Trickle,
    /// There is no answer; nothing reaches the server.
    Hang,
    /// The answer is a body that stops half way, with the connection open; nothing reaches the server.
    Stall,
    /// The answer is this error; nothing reaches the server.
    Answer(u16, &'static str),
    /// Bytes of the answer's body are others.
    WrongBytes,
    /// The connection ends in the middle of the answer's body.
    Truncated,
    /// The answer's body is cut, and says so in its length.
    Shortened,
    /// The server does what it was asked to; the connection ends before its answer.
    LostAnswer,
}

/// Which requests a fault befalls.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub(super) fault: Fault,
    operation: Option<Operation>,
    skip: usize,
    pub(super) left: usize,
}

impl Rule {
    /// All requests, until the front is mended.
    #[must_use]
    pub fn all(fault: Fault) -> Self {
        Self {
            fault,
            operation: None,
            skip: 0,
            left: usize::MAX,
        }
    }

    /// All requests of one kind, until the front is mended.
    #[must_use]
    pub fn on(operation: Operation, fault: Fault) -> Self {
        Self {
            operation: Some(operation),
            ..Self::all(fault)
        }
    }

    /// Only so many of them.
    #[must_use]
    pub fn times(self, count: usize) -> Self {
        Self {
            left: count,
            ..self
        }
    }

    /// Not the first ones.
    #[must_use]
    pub fn after(self, count: usize) -> Self {
        Self {
            skip: count,
            ..self
        }
    }

    /// Whether it befalls this request; counts.
    pub(super) fn befalls(&mut self, operation: Operation) -> bool {
        if self.operation.is_some_and(|only| only != operation) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.left == 0 {
            return false;
        }
        self.left = self
            .left
            .saturating_sub(usize::from(self.left != usize::MAX));
        true
    }
}
