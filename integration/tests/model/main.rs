//! The protocol.
mod checker;
mod configurations;
mod copier;
mod foreign;
mod guards;
mod hash;
mod image;
mod misfortunes;
mod state;
mod steps;
mod tidy;
mod writer;

fn main() {
    explore::main();
}
mod explore;
