//! The process that loads the extension keeps what is its own (signals, standard streams, umask, locale, descriptors, exit code), whatever
//! language and SQLite it has, and whether it forks, starts programs or ends while data is on its way. One module per promise; `host` starts the
//! processes, `probe` looks at them, `libraries` builds what they are made of.

mod forking;
mod hole;
mod host;
mod leaving;
mod libraries;
mod life;
mod memory;
mod prefork;
mod probe;
mod refused;
mod several;
mod streams;
