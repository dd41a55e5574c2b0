//! `VERNEUIL_SELF_CHECK=1` from outside: the environment that switches it on, and the totals that it leaves; for every test whose databases
//! are to be checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// What a run must come to: fewer of a hundred compared chunks prove too little.
const SHARE_MIN_PERCENT: u64 = 90;

/// Where the processes of one run append what they have counted.
#[derive(Clone, Debug)]
pub struct Report(PathBuf);

/// The sum over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals(BTreeMap<String, u64>);

impl Report {
    /// A report at this path, where nothing is yet.
    #[must_use]
    pub fn at(path: PathBuf) -> Self {
        Self(path)
    }

    /// Adds to an environment what switches the check on.
    #[must_use]
    pub fn add_to(&self, mut env: Vec<(String, String)>) -> Vec<(String, String)> {
        env.push(("VERNEUIL_SELF_CHECK".to_owned(), "1".to_owned()));
        let path = self.0.display().to_string();
        env.push(("VERNEUIL_SELF_CHECK_REPORT".to_owned(), path));
        env
    }

    /// What has been counted up to now; processes write when a connection is closed and when they end.
    ///
    /// # Errors
    /// When there is no report, a line of it can't be read, or one tells of a difference.
    pub fn totals(&self) -> Result<Totals> {
        Totals::read(&self.0)
    }
}

impl Totals {
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("no self-check has written to {}", path.display()))?;
        let mut sum = BTreeMap::new();
        for line in text.lines() {
            ensure!(!line.contains(" MISMATCH "), "{line}");
            let counts = line
                .strip_prefix("verneuil-self-check pid=")
                .and_then(|rest| rest.split_once(' '))
                .with_context(|| format!("not a line of totals: {line:?}"))?
                .1;
            for word in counts.split(' ') {
                let (name, count) = word.split_once('=').context("no count")?;
                *sum.entry(name.to_owned()).or_default() += count.parse::<u64>()?;
            }
        }
        Ok(Self(sum))
    }

    /// One of the counts.
    #[must_use]
    pub fn get(&self, name: &str) -> u64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// Fails unless at least so many transactions were compared, and nine in ten chunks through log or manifest.
    ///
    /// # Errors
    /// With the totals.
    pub fn prove_something(&self, transactions_min: u64) -> Result<()> {
        let [log, manifest, file] = ["log", "manifest", "file"].map(|name| self.get(name));
        let all = log + manifest + file;
        ensure!(
            all > 0 && (log + manifest) * 100 >= all * SHARE_MIN_PERCENT,
            "{file} of {all} chunks would have been read from the file: {self:?}"
        );
        ensure!(
            self.get("checked") >= transactions_min,
            "too few transactions were compared: {self:?}"
        );
        Ok(())
    }
}
