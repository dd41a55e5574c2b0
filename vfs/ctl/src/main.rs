//! The command line that looks after replicated databases.
fn main() {}
