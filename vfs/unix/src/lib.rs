//! The linux VFS: files and locks, compatible lock for lock with SQLite's unix VFS.
