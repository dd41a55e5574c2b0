//! Transactions that tell on themselves: each writes its own number into several tables and into every row that it touches,
//! and records what a reader must count and sum; `state.rs` checks it, the tests run it through `session.rs`.

/// Which kinds of transactions a workload mixes in.
#[derive(Clone, Copy, Debug)]
pub struct WorkloadOptions {
    /// VACUUM, page sizes, `auto_vacuum` and journal modes change along the way.
    pub reshape: bool,
    /// Bursts of growth and shrinkage, and roll-backs after a spill.
    pub bursts: bool,
}

impl Default for WorkloadOptions {
    fn default() -> Self {
        Self {
            reshape: false,
            bursts: true,
        }
    }
}

/// Pseudo-random numbers from a seed (SplitMix64), so that a failure can be run again.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// A sequence that the seed determines.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % limit
    }
}

/// A sequence of transactions, as lines of SQL.
#[derive(Clone, Debug)]
pub struct Workload {
    random: Random,
    committed: u64,
    options: WorkloadOptions,
}

/// Ids of the checked rows are below this, so that inserts replace, updates hit and deletes leave gaps.
const ROWS: u64 = 200;

/// How many transactions stay in one shape (page size, journal mode …).
const SHAPE_LEN: u64 = 40;

impl Workload {
    /// A workload for a new database.
    #[must_use]
    pub fn new(seed: u64, options: WorkloadOptions) -> Self {
        Self {
            random: Random::new(seed),
            committed: 0,
            options,
        }
    }

    /// A workload that goes on where a database is.
    #[must_use]
    pub fn resume(seed: u64, committed: u64, options: WorkloadOptions) -> Self {
        Self {
            random: Random::new(seed),
            committed,
            options,
        }
    }

    /// Number of the last transaction that [`Workload::step`] gave.
    #[must_use]
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// The statements of the next transaction, with what comes around it: a change of shape, a roll-back.
    pub fn step(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        if self.committed == 0 {
            create(&mut lines);
        } else {
            if self.options.reshape && self.committed.is_multiple_of(SHAPE_LEN) {
                self.reshape(&mut lines);
            }
            if self.options.bursts && self.random.below(25) == 0 {
                self.roll_back_after_spill(&mut lines);
            }
        }
        self.committed += 1;
        self.transaction(&mut lines);
        lines
    }

    fn transaction(&mut self, lines: &mut Vec<String>) {
        let n = self.committed;
        lines.push(
            if self.random.below(2) == 0 {
                "BEGIN"
            } else {
                "BEGIN IMMEDIATE"
            }
            .to_owned(),
        );
        lines.push(format!("UPDATE head SET tx={n}"));
        for _ in 0..=self.random.below(4) {
            let change = self.change(n);
            lines.push(change);
        }
        if self.random.below(8) == 0 {
            lines.push("SAVEPOINT inner".to_owned());
            for _ in 0..3 {
                let change = self.change(n + 1_000_000);
                lines.push(change);
            }
            lines.push("ROLLBACK TO inner".to_owned());
            let change = self.change(n);
            lines.push(change);
            lines.push("RELEASE inner".to_owned());
        }
        if self.options.bursts {
            match self.random.below(40) {
                0 => lines.push(grow(60, 4_000)),
                1 => lines.push("DELETE FROM noise".to_owned()),
                2 => lines.push(format!(
                    "DELETE FROM data WHERE id<{}",
                    self.random.below(ROWS)
                )),
                _ => {}
            }
        }
        lines.push(format!("UPDATE middle SET tx={n}"));
        lines.push(format!(
            "UPDATE tail SET tx={n}, rows=(SELECT count(*) FROM data), total=(SELECT coalesce(sum(id*31+tx*7+length(body)),0) FROM data)"
        ));
        lines.push("COMMIT".to_owned());
    }

    fn change(&mut self, n: u64) -> String {
        let id = self.random.below(ROWS);
        // Mostly small rows; some with overflow pages at every page size but the largest.
        let words = if self.random.below(6) == 0 {
            2_000
        } else {
            1 + self.random.below(120)
        };
        let body = format!("replace(hex(zeroblob({words})),'00',printf('%08x',{n}))");
        match self.random.below(10) {
            0..=4 => format!("INSERT OR REPLACE INTO data(id,tx,body) VALUES({id},{n},{body})"),
            5..=6 => format!(
                "UPDATE data SET tx={n}, body={body} WHERE id BETWEEN {id} AND {}",
                id + 3
            ),
            7 => format!("DELETE FROM data WHERE id BETWEEN {id} AND {}", id + 5),
            8 => format!(
                "INSERT INTO noise(body) VALUES(randomblob({}))",
                1 + self.random.below(6_000)
            ),
            _ => format!("DELETE FROM noise WHERE id%7={}", self.random.below(7)),
        }
    }

    /// Writes more than the cache holds, so that pages reach the file before the roll-back takes them back.
    fn roll_back_after_spill(&mut self, lines: &mut Vec<String>) {
        lines.push("PRAGMA cache_size=4".to_owned());
        lines.push("BEGIN".to_owned());
        lines.push("UPDATE head SET tx=999999999".to_owned());
        lines.push(grow(40, 12_000));
        lines.push("UPDATE tail SET tx=999999999".to_owned());
        lines.push("UPDATE data SET tx=999999999".to_owned());
        lines.push("ROLLBACK".to_owned());
        lines.push("PRAGMA cache_size=-2000".to_owned());
    }

    fn reshape(&mut self, lines: &mut Vec<String>) {
        let journal = ["DELETE", "TRUNCATE", "PERSIST"][self.random.below(3) as usize];
        lines.push(format!("PRAGMA journal_mode={journal}"));
        match (self.committed / SHAPE_LEN) % 5 {
            0 => lines.push("VACUUM".to_owned()),
            1 => lines.extend(["PRAGMA page_size=512".to_owned(), "VACUUM".to_owned()]),
            2 => lines.extend(["PRAGMA auto_vacuum=FULL".to_owned(), "VACUUM".to_owned()]),
            3 => lines.extend(
                [
                    "PRAGMA auto_vacuum=NONE",
                    "PRAGMA page_size=65536",
                    "VACUUM",
                ]
                .map(str::to_owned),
            ),
            _ => lines.extend(
                [
                    "PRAGMA auto_vacuum=INCREMENTAL",
                    "PRAGMA page_size=4096",
                    "VACUUM",
                    "PRAGMA incremental_vacuum(20)",
                ]
                .map(str::to_owned),
            ),
        }
    }
}

/// Tables of transaction 0. Whoever was killed right after they were made left them as they are.
fn create(lines: &mut Vec<String>) {
    lines.push("BEGIN".to_owned());
    for table in [
        "head(tx INTEGER NOT NULL)",
        "data(id INTEGER PRIMARY KEY, tx INTEGER NOT NULL, body TEXT NOT NULL)",
        "middle(tx INTEGER NOT NULL)",
        "noise(id INTEGER PRIMARY KEY, body BLOB NOT NULL)",
        "tail(tx INTEGER NOT NULL, rows INTEGER NOT NULL, total INTEGER NOT NULL)",
    ] {
        lines.push(format!("CREATE TABLE IF NOT EXISTS {table}"));
    }
    lines.push("CREATE INDEX IF NOT EXISTS data_tx ON data(tx)".to_owned());
    for (table, row) in [("head", "0"), ("middle", "0"), ("tail", "0,0,0")] {
        lines.push(format!(
            "INSERT INTO {table} SELECT {row} WHERE NOT EXISTS(SELECT 1 FROM {table})"
        ));
    }
    lines.push("COMMIT".to_owned());
}

fn grow(rows: u32, bytes: u32) -> String {
    format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<{rows}) INSERT INTO noise(body) SELECT randomblob({bytes}) FROM n"
    )
}
