//! What a store says, made fit for logs and terminals; used here and by whoever prints names that come from a store.

use std::fmt::Write as _;

/// A name or message that may hold any bytes, as text without control characters (it must not draw on a terminal).
pub fn printable(name: &[u8]) -> String {
    let mut out = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() {
                out.extend(c.escape_default());
            } else {
                out.push(c);
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(out, "\\x{byte:02x}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_never_draw_on_a_terminal() {
        assert_eq!(printable(b"/srv/a b.db"), "/srv/a b.db");
        assert_eq!(printable("/é/\u{1b}[2J\n".as_bytes()), "/é/\\u{1b}[2J\\n");
        assert_eq!(printable(b"a\xffb"), "a\\xffb");
    }
}
