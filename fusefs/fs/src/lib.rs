//! The read-only file system of replicas, free of FUSE types: inodes, names, locks, the order of an advance.
