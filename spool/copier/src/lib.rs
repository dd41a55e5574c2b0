//! Drains spools into stores: catch-up, replay, upload, publish.
