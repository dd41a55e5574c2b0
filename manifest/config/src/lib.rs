//! The configuration that the extension, verneuilctl and verneuil-fs share.
