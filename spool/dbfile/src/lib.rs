//! Descriptors of database files, pooled per inode, and what sqlite's locks and journals say about them.
