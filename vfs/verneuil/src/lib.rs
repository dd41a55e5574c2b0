//! The verneuil VFS: the linux VFS plus tracking of what each transaction wrote.
