//! Each request of readers meets a fault: whoever reads gets the right bytes or an error that names the cause, never wrong bytes, and
//! recovers without being started again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use verneuil_integration::front::{Fault, Front, Operation, Rule};
use verneuil_integration::mount::Mount;
use verneuil_integration::process::{self, COMMAND_LIMIT, until};
use verneuil_integration::seaweed::Seaweed;
use verneuil_integration::session::{Program, Session};
use verneuil_integration::setup::HOST;
use verneuil_integration::state::{STATE_SQL, same_bytes, whole};

use crate::site::Site;
use crate::table::{Arrangement, READS};
use crate::words::names_the_cause;

const REFRESH: Duration = Duration::from_millis(200);
/// How soon a mount shows what is new after a fault: it waits a second between two looks that fail.
const RECOVERY_LIMIT: Duration = Duration::from_secs(45);
/// Requests of one kind that the commands of a step send, attempts included.
const COMMANDS_REQUESTS_MAX: usize = 24;
/// The same per second of a mount that somebody reads from.
const MOUNT_REQUESTS_PER_SECOND_MAX: usize = 8;
/// Attempts that a step's own look through a mount may take.
const LOOKS: usize = 2;

pub fn run(server: &Seaweed, number: usize, fault: Fault, arrangement: Arrangement) -> Result<()> {
    let mut site = Site::new(server, number, fault, arrangement)?;
    let mut source = site.application()?;
    site.commit(&mut source, true)?;
    // Readers come to the stores another way than the source.
    let fronts = (0..arrangement.targets())
        .map(|_| Front::start(server.address()))
        .collect::<Result<Vec<Front>>>()?;
    for operation in READS {
        let reader = Reader {
            config: site.config_behind(&fronts),
            fronts: &fronts,
            operation,
            fault,
        };
        reader
            .meets(&mut site, &mut source)
            .with_context(|| format!("{operation:?}"))?;
    }
    source.close().map(drop)
}

struct Reader<'a> {
    config: Value,
    fronts: &'a [Front],
    operation: Operation,
    fault: Fault,
}

impl Reader<'_> {
    fn meets(&self, site: &mut Site, source: &mut Session) -> Result<()> {
        let point = site.setup.path(&format!("mnt-{:?}", self.operation));
        let refresh = [
            "--refresh-interval".to_owned(),
            format!("{}ms", REFRESH.as_millis()),
        ];
        flush(source)?;
        let mount = Mount::start(&point, &refresh, &site.setup.env_with(&self.config))?;
        let before = site.committed();
        // Two kinds of requests are those of a file that was not opened yet.
        let is_warm = !matches!(
            self.operation,
            Operation::GetManifest | Operation::GetManifestHead
        );
        if is_warm {
            until("the mount shows all", RECOVERY_LIMIT, || {
                is_shown(site, &mount, before)
            })?;
        }
        let database = site.setup.database();
        std::fs::copy(&database, site.out("before.db"))?;
        let faulty = &self.fronts[0];
        let (begun, requests_before) = (Instant::now(), faulty.requests().len());
        faulty.play(Rule::on(self.operation, self.fault));
        site.commit(source, true)?;
        flush(source)?;
        self.mounted(site, &mount, before)
            .context("through the mount")?;
        self.copied(site, &mount).context("a copy")?;
        self.restored(site).context("restore")?;
        self.listed(site).context("ls")?;
        let struck = || {
            let requests = faulty.requests();
            let sent = requests[requests_before..].iter();
            sent.filter(|request| request.is_struck).count()
        };
        // The mount looks at the store when it gets to it.
        until("such a request is sent", RECOVERY_LIMIT, || {
            ensure!(struck() > 0, "no such request was sent");
            self.mounted(site, &mount, before)
        })?;
        let struck = struck();
        let bound = COMMANDS_REQUESTS_MAX
            + MOUNT_REQUESTS_PER_SECOND_MAX * (begun.elapsed().as_secs() as usize + 1);
        ensure!(
            struck <= bound,
            "{struck} attempts in {:?}",
            begun.elapsed()
        );
        faulty.mend()?;
        let newest = site.committed();
        until("the mount shows all again", RECOVERY_LIMIT, || {
            is_shown(site, &mount, newest)
        })
        .with_context(|| format!("the mount's log: {}", mount.log()))?;
        self.restore(site)?;
        same_bytes(&site.setup.database(), &site.out("read.db"))?;
        let listed = self.list(site)?;
        is_listed(site, &listed)?;
        mount.terminate()
    }

    /// Whether the second store must make up for the first. The packs of a manifest are those of its own store: each target of a source puts
    /// chunks together as it gets to them.
    fn must_succeed(&self) -> bool {
        self.fronts.len() > 1 && self.operation != Operation::GetPackRange
    }

    fn explains(&self, said: &str) -> Result<()> {
        let endpoint = self.fronts[0].address().to_string();
        names_the_cause(said, self.operation, self.fault, &endpoint)
    }

    fn mounted(&self, site: &Site, mount: &Mount, before: u64) -> Result<()> {
        for _ in 0..LOOKS {
            match look(site, mount) {
                Ok(state) => ensure!(
                    (before..=site.committed()).contains(&state),
                    "it shows transaction {state}, which is not between {before} and {}",
                    site.committed()
                ),
                Err(error) => {
                    let said = format!("{error:#}");
                    let is_wrong = ["not a database", "mixture", "damaged", "malformed"];
                    ensure!(
                        !is_wrong.iter().any(|word| said.contains(word)),
                        "it shows damage: {said}"
                    );
                    ensure!(!self.must_succeed(), "the other store has it: {said}");
                    // The reader only learns of an I/O error; the mount says why.
                    if !matches!(self.fault, Fault::Answer(404, _)) {
                        self.explains(&mount.log())
                            .with_context(|| format!("the log of a mount that gave {said}"))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A copy of the mounted file is one of the two states, byte for byte, or there is none.
    fn copied(&self, site: &Site, mount: &Mount) -> Result<()> {
        let (from, to) = (mount.replica(&site.setup.database()), site.out("copy.db"));
        let finished = process::run(process::tied("cp").arg(from).arg(&to), COMMAND_LIMIT)?;
        if finished.status.success() {
            return same_bytes(&site.setup.database(), &to)
                .or_else(|_| same_bytes(&site.out("before.db"), &to));
        }
        ensure!(!self.must_succeed(), "the other store has it: {finished:?}");
        Ok(())
    }

    fn restore(&self, site: &Site) -> Result<()> {
        site.restore_with(&self.config, &site.out("read.db"))
    }

    fn restored(&self, site: &Site) -> Result<()> {
        let out = site.out("read.db");
        // Of an earlier step.
        drop(std::fs::remove_file(&out));
        match self.restore(site) {
            Ok(()) => same_bytes(&site.setup.database(), &out),
            Err(error) => {
                let said = error.to_string();
                ensure!(!self.must_succeed(), "the other store has it: {said}");
                ensure!(!out.exists(), "it left something: {said}");
                let is_missing = self.fault == Fault::Answer(404, "NoSuchKey");
                if is_missing && self.operation == Operation::GetManifest {
                    ensure!(said.contains("is not in the store"), "{said}");
                    return Ok(());
                }
                self.explains(&said)
            }
        }
    }

    fn list(&self, site: &Site) -> Result<String> {
        let finished = site.setup.ctl_with(&self.config, &["ls", "--json", HOST])?;
        if !finished.status.success() {
            bail!("{} {}", finished.text().trim(), finished.stderr.trim());
        }
        Ok(finished.text())
    }

    fn listed(&self, site: &Site) -> Result<()> {
        match self.list(site) {
            Ok(listed) => is_listed(site, &listed),
            Err(error) => {
                let said = error.to_string();
                ensure!(!self.must_succeed(), "the other store has it: {said}");
                if self.fault == Fault::Answer(404, "NoSuchKey")
                    && self.operation == Operation::GetManifestHead
                {
                    ensure!(said.contains("it has just been removed"), "{said}");
                    return Ok(());
                }
                self.explains(&said)
            }
        }
    }
}

fn flush(source: &mut Session) -> Result<()> {
    ensure!(source.row("PRAGMA verneuil_flush_replication_data")? == "1");
    Ok(())
}

/// The transaction that a new reader sees through the mount.
fn look(site: &Site, mount: &Mount) -> Result<u64> {
    let row = site.setup.reader(Program::Python, mount)?.row(STATE_SQL)?;
    whole(&row)
}

fn is_shown(site: &Site, mount: &Mount, transaction: u64) -> Result<()> {
    let state = look(site, mount)?;
    ensure!(state == transaction, "transaction {state} of {transaction}");
    Ok(())
}

/// Whether a listing is the one database, as it is now.
fn is_listed(site: &Site, listed: &str) -> Result<()> {
    let listed: Value = serde_json::from_str(listed).context(listed.to_owned())?;
    let len = std::fs::metadata(site.setup.database())?.len();
    let path = site.setup.database();
    ensure!(
        listed.as_array().map(Vec::len) == Some(1)
            && listed[0]["path"].as_str() == path.to_str()
            && listed[0]["length_bytes"].as_u64() == Some(len),
        "{listed} is not {} with {len} bytes",
        path.display()
    );
    Ok(())
}
