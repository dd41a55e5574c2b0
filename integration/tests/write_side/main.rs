//! What can happen to a database on its source host, shown from outside: every version that a store ever held is one committed
//! state, and the last one is the source. One test binary, one module per promise; `verneuil_integration` is the harness.

mod attach;
mod damage;
mod exclusive;
mod external_copier;
mod forks;
mod kills;
mod many;
mod quiet_cost;
mod reboot;
mod self_check;
mod several_processes;
mod status;
mod store_away;
mod support;
mod targets;
