//! The protocol.
mod catchup;
mod checker;
mod configurations;
mod copier;
mod foreign;
mod guards;
mod misfortunes;
mod publish;
mod state;
mod steps;
mod writer;

fn main() {
    explore::main();
}
mod explore;
