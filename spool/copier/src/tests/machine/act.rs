//! Does one of the `steps` to the machine of `run`.

use std::time::Duration;

use super::super::trial;
use super::run::{Connection, Machine};
use super::steps::{CONNECTIONS, FOREIGN, Loss, Move, PROCESS_OF, ROWS, Step};

impl Machine {
    pub(super) fn step(&mut self, step: &Step) -> Result<(), String> {
        let targets = self.setup.targets;
        match *step {
            Step::Put {
                who,
                first,
                count,
                len,
            } => self.put(who, first, count, len)?,
            Step::Bulk { who, times } => {
                for _ in 0..times {
                    self.put(who, 0, ROWS, 5_000)?;
                    self.check()?;
                }
            }
            Step::Begin { who } => drop(self.tell(who, "exec BEGIN")?),
            Step::Read { who } => {
                self.tell(who, "exec BEGIN; SELECT count(*) FROM sqlite_schema")?;
            }
            Step::Spill { who } => {
                self.tell(who, "exec PRAGMA cache_size=3; BEGIN IMMEDIATE")?;
                if self.connections[who].is_in_transaction {
                    self.put(who, 100, 60, 3_000)?;
                    if self.model.is_journal_live() {
                        self.count("spills");
                    }
                }
            }
            Step::Commit { who } => drop(self.tell(who, "exec COMMIT")?),
            Step::Rollback { who } => drop(self.tell(who, "exec ROLLBACK")?),
            Step::Shrink { who, vacuum } => {
                let how = if vacuum {
                    "VACUUM"
                } else {
                    "PRAGMA incremental_vacuum"
                };
                self.tell(who, &format!("exec DELETE FROM t WHERE id%8; {how}"))?;
            }
            Step::Journal { who, mode } => {
                self.tell(who, &format!("exec PRAGMA journal_mode={mode}"))?;
            }
            Step::Exclusive { who, on } => {
                let mode = if on { "EXCLUSIVE" } else { "NORMAL" };
                // It is left with the next read.
                let read = "SELECT count(*) FROM sqlite_schema";
                let told = self.tell(who, &format!("exec PRAGMA locking_mode={mode}; {read}"))?;
                self.connections[who].is_exclusive |= on;
                if !on && told.is_some() && !self.connections[who].is_in_transaction {
                    self.connections[who].is_exclusive = false;
                }
            }
            Step::Close { who } => self.close(who)?,
            Step::Kill { process } => {
                if self.model.is_journal_live() && self.processes[process].is_some() {
                    self.count("kills beside a live journal");
                }
                self.kill(process);
            }
            Step::Die {
                process,
                calls,
                unlocks,
            } => {
                let who = PROCESS_OF.iter().position(|of| *of == process).unwrap_or(0);
                if who != FOREIGN && self.processes[process].is_some() {
                    self.ask(who, &format!("die {who} {calls} {unlocks}"))?;
                }
            }
            Step::Copy { target, points } => drop(self.copy(target % targets, points)?),
            Step::KillCopier => self.carrier.kill(),
            Step::Flush => self.flush_all()?,
            Step::Away { target } => trial::take_away(&self.model.targets[target % targets].name),
            Step::Spoil { target, n, spoil } => {
                trial::spoil(&self.model.targets[target % targets].name, n, spoil);
            }
            Step::Mend { target } => trial::mend(&self.model.targets[target % targets].name),
            Step::Lose { target, loss } => self.lose(target % targets, loss),
            Step::Reboot { wiped } => {
                self.reboot();
                self.model.forget_published();
                if wiped {
                    drop(std::fs::remove_dir_all(self.dir.path().join("spool")));
                }
            }
            Step::LoseFolder => {
                self.model.forget_published();
                if let Some(folder) = self.spool().contents().ok().and_then(|it| it.boot) {
                    drop(std::fs::remove_dir_all(folder));
                }
            }
            Step::Move(how) => self.move_file(how)?,
        }
        self.check()
    }

    pub(super) fn put(
        &mut self,
        who: usize,
        first: u16,
        count: u16,
        len: u16,
    ) -> Result<(), String> {
        self.number += 1;
        let command = format!("put {first} {count} {len} {}", self.number);
        if self.tell(who, &command)?.is_some() && who == FOREIGN {
            self.count("foreign writes");
        }
        Ok(())
    }

    pub(super) fn close(&mut self, who: usize) -> Result<(), String> {
        if self.connections[who].is_open {
            self.ask(who, &format!("close {who}"))?;
            self.connections[who] = Connection::default();
        }
        Ok(())
    }

    fn lose(&mut self, target: usize, loss: Loss) {
        let target = &mut self.model.targets[target];
        let was_there = target.manifest_path().exists();
        if loss != Loss::Packs {
            drop(std::fs::remove_file(target.manifest_path()));
            target.is_lost |= was_there;
        }
        if loss != Loss::Manifest {
            drop(std::fs::remove_dir_all(target.root.join("packs")));
        }
        target.is_torn |= loss == Loss::Packs && was_there;
    }

    /// Nobody with a right mind moves a database away under an open transaction: its journal would be the next file's.
    fn move_file(&mut self, how: Move) -> Result<(), String> {
        let (path, spare) = (self.path().to_owned(), self.dir.path().join("spare.db"));
        if self.is_held() || self.model.is_journal_live() || self.model.is_missing {
            return Ok(());
        }
        match how {
            Move::Unlink => drop(std::fs::remove_file(&path)),
            Move::Away => drop(std::fs::rename(&path, &spare)),
            Move::Replace if spare.exists() => drop(std::fs::rename(&spare, &path)),
            Move::CopyOver if spare.exists() => {
                // By their own counters SQLite's caches could not tell one history from the other.
                for who in 0..CONNECTIONS {
                    self.close(who)?;
                }
                // The file's clock has ticked since.
                std::thread::sleep(Duration::from_millis(12));
                drop(std::fs::copy(&spare, &path));
                self.count("moves");
                return Ok(());
            }
            Move::Replace | Move::CopyOver => {
                drop(std::fs::copy(&path, &spare));
                return Ok(());
            }
        }
        self.count("moves");
        for connection in self.connections.iter_mut().filter(|it| it.is_open) {
            connection.is_stale = true;
        }
        Ok(())
    }
}
