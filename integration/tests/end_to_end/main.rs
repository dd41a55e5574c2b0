//! What Verneuil promises, shown from outside: a commit on one side, a row on the mount on the other. One test binary, one
//! module per promise; `verneuil_integration` is the harness.

mod commit_cost;
mod crash;
mod ctl;
mod every_manifest;
mod extension;
mod handmade;
mod mounting;
mod outage;
mod reading;
mod storm;
