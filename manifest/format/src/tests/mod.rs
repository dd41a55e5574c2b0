//! Property tests of the whole crate; `world` is a store in memory and a model of a database file for them.

mod decoders;
mod files;
mod keys;
mod large;
mod lists;
mod patches;
mod updates;
mod world;
