//! `verneuilctl manifest`: the newest manifest of a database, raw or as JSON (`decode`).

use crate::cli::{Common, Manifest};
use crate::decode;
use crate::failure::Failure;
use crate::output;
use crate::session::{self, Database};

pub fn run(common: &Common, args: &Manifest) -> Result<(), Failure> {
    let out = session::out_file(args.out.as_ref());
    let is_json = args.decode || common.json;
    if out.is_none() && !is_json {
        output::refuse_terminal()?;
    }
    let config = session::config(common)?;
    let database = Database::find(&config, &args.host, &args.path)?;
    let runtime = session::runtime()?;
    let (raw, snapshot) = runtime.block_on(async {
        let client = session::client(&config).await?;
        let raw = client
            .raw_manifest(&database.key)
            .await?
            .ok_or_else(|| database.missing())?;
        let snapshot = client.snapshot_of(&raw, &database.key)?;
        Ok::<_, Failure>((raw, snapshot))
    })?;
    match (out, is_json) {
        (Some(path), true) => {
            output::file(path, |out| runtime.block_on(decode::json(&snapshot, out)))
        }
        (Some(path), false) => output::file(path, |out| out(&raw)),
        (None, true) => output::stream(|out| runtime.block_on(decode::json(&snapshot, out))),
        (None, false) => output::bytes(&raw),
    }
}
