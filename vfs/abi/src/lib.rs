//! Every SQLite FFI type and call that Verneuil uses, and safe traits above them.
