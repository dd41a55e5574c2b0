//! Where packs and manifests live: S3 or a directory, behind one type that paces and retries.
