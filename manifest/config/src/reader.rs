//! Reads typed values out of a JSON-with-comments syntax tree, for `keys`; knows the position of
//! every key and value, and that no key may go unread.
//!
//! A tree with byte ranges, not serde: serde reports where *parsing* stood when a value was found
//! bad and names the field's type rather than its key, and unknown keys, repeated keys and bad
//! values are exactly what a user needs to be pointed at.
