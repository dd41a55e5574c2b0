//! What an attacker can reach, one test per sentence of the promise, with the real programs: the spool, the files beside a database,
//! names and manifests of a hostile store, credentials. `verneuil_integration` is the harness.

mod credentials;
mod journals;
mod links;
mod manifests;
mod names;
mod server;
mod spool;
mod support;
