//! The thin layer between the kernel's FUSE requests and the file system of replicas.
