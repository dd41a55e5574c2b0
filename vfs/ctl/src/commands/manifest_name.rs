//! `verneuilctl manifest-name`: the key of a database's manifest. Asks no store.

use serde::Serialize;

use crate::cli::{Common, ManifestName};
use crate::failure::Failure;
use crate::output;
use crate::session::{self, Database};

#[derive(Serialize)]
struct Name<'a> {
    host: &'a str,
    path: String,
    key: &'a str,
}

pub fn run(common: &Common, args: &ManifestName) -> Result<(), Failure> {
    let config = session::config(common)?;
    let database = Database::find(&config, &args.host, &args.path)?;
    if !common.json {
        return output::line(&database.key);
    }
    output::json(&Name {
        host: &database.host,
        path: output::json_path(&database.path),
        key: &database.key,
    })
}
