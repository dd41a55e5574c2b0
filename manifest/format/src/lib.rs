//! Snapshots as data: chunk ids, packs, manifests and keys, with no I/O at all.
