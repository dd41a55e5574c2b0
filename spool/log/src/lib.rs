//! The local half of replication: control page and change log, written by commits and drained by a copier.
