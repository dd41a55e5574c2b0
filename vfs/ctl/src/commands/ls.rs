//! `verneuilctl ls`: hosts, or the databases below a host or directory.

use std::os::unix::ffi::OsStrExt;

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::Serialize;
use verneuil_format::{Head, manifest_key};
use verneuil_replica::{Client, DirEntry, EntryKind, ReplicaError};

use crate::cli::{Common, Ls};
use crate::failure::Failure;
use crate::output::{self, printable};
use crate::{session, time};

/// Requests for heads of manifests, and for directories, under way at the same time.
const REQUESTS_MAX: usize = 16;

#[derive(Serialize)]
struct Host {
    host: String,
}

#[derive(Serialize)]
struct Database {
    host: String,
    path: String,
    key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    length_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit_time_ns: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

pub fn run(common: &Common, args: &Ls) -> Result<(), Failure> {
    let config = session::config(common)?;
    let runtime = session::runtime()?;
    let Some(name) = &args.name else {
        let hosts = runtime
            .block_on(async { Ok::<_, Failure>(session::client(&config).await?.hosts().await?) })?;
        if common.json {
            return output::json(
                &hosts
                    .into_iter()
                    .map(|host| Host { host })
                    .collect::<Vec<_>>(),
            );
        }
        return hosts
            .iter()
            .try_for_each(|host| output::line(&printable(host.as_bytes())));
    };
    let (host, path) = split(name.as_bytes())?;
    let databases = runtime.block_on(async {
        let client = session::client(&config).await?;
        let mut paths = below(&client, &host, &path).await?;
        paths.sort_unstable();
        let described: Vec<Database> = stream::iter(paths)
            .map(|path| describe(&client, &host, path))
            .buffered(REQUESTS_MAX)
            .collect()
            .await;
        Ok::<_, Failure>(described)
    })?;
    if databases.is_empty() {
        return Err(Failure::Failed(format!(
            "the store has no database below {}; see the hosts with: verneuilctl ls",
            printable(name.as_bytes())
        )));
    }
    if common.json {
        output::json(&databases)?;
    } else {
        databases
            .iter()
            .try_for_each(|database| output::line(&database.line()))?;
    }
    match databases
        .iter()
        .filter(|database| database.error.is_some())
        .count()
    {
        0 => Ok(()),
        n => Err(Failure::Failed(format!(
            "{n} of {} databases could not be looked up",
            databases.len()
        ))),
    }
}

impl Database {
    fn line(&self) -> String {
        let (length, commit) = match (&self.error, self.length_bytes, self.commit_time_ns) {
            (None, Some(length), Some(commit)) => (length.to_string(), time::utc(commit)),
            _ => ("?".to_owned(), "?".to_owned()),
        };
        let error = self
            .error
            .as_ref()
            .map(|error| format!("  ({error})"))
            .unwrap_or_default();
        format!(
            "{length:>14}  {commit:20}  {}{}{error}",
            self.host, self.path
        )
    }
}

/// `HOST` or `HOST/PATH` (any number of slashes between the two).
fn split(name: &[u8]) -> Result<(String, Vec<u8>), Failure> {
    let end = name.iter().position(|&b| b == b'/').unwrap_or(name.len());
    let host = std::str::from_utf8(&name[..end]).unwrap_or_default();
    if host.is_empty() {
        return Err(Failure::Usage(format!(
            "{:?} does not start with the name of a host; give HOST or HOST/PATH",
            String::from_utf8_lossy(name)
        )));
    }
    let names = name[end..]
        .split(|&b| b == b'/')
        .filter(|name| !name.is_empty());
    let path = names.fold(Vec::new(), |mut path, name| {
        path.push(b'/');
        path.extend_from_slice(name);
        path
    });
    Ok((host.to_owned(), path))
}

/// Paths of the database `path` and of all below the directory `path` (empty for the root).
async fn below(client: &Client, host: &str, path: &[u8]) -> Result<Vec<Vec<u8>>, Failure> {
    let mut found = Vec::new();
    if !path.is_empty() && client.stat(&manifest_key(host, path)).await?.is_some() {
        found.push(path.to_owned());
    }
    let mut directories = vec![path.to_owned()];
    while !directories.is_empty() {
        let listed: Vec<(Vec<u8>, Vec<DirEntry>)> = stream::iter(directories)
            .map(|directory| async move {
                let entries = client.list(host, &directory).await?;
                Ok::<_, ReplicaError>((directory, entries))
            })
            .buffer_unordered(REQUESTS_MAX)
            .try_collect()
            .await?;
        directories = Vec::new();
        for (directory, entries) in listed {
            for entry in entries {
                let path = [&directory[..], b"/", &entry.name[..]].concat();
                match entry.kind {
                    EntryKind::Database => found.push(path),
                    EntryKind::Directory => directories.push(path),
                }
            }
        }
    }
    Ok(found)
}

async fn describe(client: &Client, host: &str, path: Vec<u8>) -> Database {
    let key = manifest_key(host, &path);
    let (head, error): (Option<Head>, Option<String>) = match client.stat(&key).await {
        Ok(Some(head)) => (Some(head), None),
        Ok(None) => (None, Some("it has just been removed".to_owned())),
        Err(error) => (None, Some(printable(error.to_string().as_bytes()))),
    };
    Database {
        host: printable(host.as_bytes()),
        path: printable(&path),
        key,
        length_bytes: head.map(|head| head.file_len),
        generation: head.map(|head| head.generation.0),
        commit_time_ns: head.map(|head| head.commit_time_ns),
        error,
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn host_and_path_are_told_apart() {
        let split = |name: &str| split(name.as_bytes()).expect("has a host");
        assert_eq!(split("web1"), ("web1".to_owned(), b"".to_vec()));
        assert_eq!(split("web1/"), ("web1".to_owned(), b"".to_vec()));
        assert_eq!(
            split("web1//srv/app.db"),
            ("web1".to_owned(), b"/srv/app.db".to_vec())
        );
        assert!(super::split(b"/srv/app.db").is_err());
    }
}
