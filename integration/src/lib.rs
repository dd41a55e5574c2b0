//! End-to-end tests and their harness: a real S3 server, real mounts, real sqlite programs.
