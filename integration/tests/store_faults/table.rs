//! The table: which request meets which fault, with how many targets; `main` runs its cells.

use std::fmt;

use anyhow::Result;
use verneuil_integration::front::{Fault, Operation};
use verneuil_integration::seaweed::Seaweed;

use crate::{reading, writing};

/// Everything that goes wrong.
pub const FAULTS: [Fault; 13] = [
    Fault::Refused,
    Fault::Reset,
    Fault::Trickle,
    Fault::Hang,
    Fault::Answer(500, "InternalError"),
    Fault::Answer(503, "SlowDown"),
    Fault::Answer(403, "AccessDenied"),
    Fault::Answer(404, "NoSuchKey"),
    Fault::Answer(404, "NoSuchBucket"),
    Fault::WrongBytes,
    Fault::Truncated,
    Fault::Shortened,
    Fault::LostAnswer,
];

/// What the copier sends. (`tests` of `front/operation.rs` tell what else there is: nobody sends HEAD of an object or a bucket, DELETE,
/// or GET of a pack without a range. `Store::head` follows a range beyond the end of an object only, which no object of ours provokes.)
const WRITES: [Operation; 5] = [
    Operation::CreateBucket,
    Operation::PutPack,
    Operation::PutFirstManifest,
    Operation::PutNextManifest,
    Operation::GetManifest,
];

/// What readers send: the mount, `restore`, `ls`.
pub const READS: [Operation; 5] = [
    Operation::GetManifest,
    Operation::GetNewerManifest,
    Operation::GetManifestHead,
    Operation::GetPackRange,
    Operation::List,
];

/// What the faulty store stands beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// It is the only target.
    One,
    /// It is the first of two.
    Two,
    /// It is the only one, its bucket does not exist, and `create_buckets_on_demand` is set.
    Bucketless,
    /// Two, both without their buckets.
    BucketlessTwo,
}

impl Arrangement {
    pub fn is_bucketless(self) -> bool {
        matches!(self, Self::Bucketless | Self::BucketlessTwo)
    }

    pub fn targets(self) -> usize {
        match self {
            Self::One | Self::Bucketless => 1,
            Self::Two | Self::BucketlessTwo => 2,
        }
    }
}

/// One cell.
#[derive(Clone, Copy, Debug)]
pub enum Cell {
    /// A request of the copier's meets a fault.
    Write(usize, Operation, Fault, Arrangement),
    /// Each request of readers in turn meets a fault.
    Read(usize, Fault, Arrangement),
}

impl Cell {
    pub fn run(&self, server: &Seaweed) -> Result<()> {
        match *self {
            Self::Write(number, operation, fault, arrangement) => {
                writing::run(server, number, operation, fault, arrangement)
            }
            Self::Read(number, fault, arrangement) => {
                reading::run(server, number, fault, arrangement)
            }
        }
    }

    /// Whether an ordinary run leaves it out: missing buckets are a matter of each target by itself.
    pub fn is_extra(&self) -> bool {
        matches!(self, Self::Write(.., Arrangement::BucketlessTwo))
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(_, operation, fault, arrangement) => {
                write!(f, "write {operation:?} {fault:?} {arrangement:?}")
            }
            Self::Read(_, fault, arrangement) => write!(f, "read {fault:?} {arrangement:?}"),
        }
    }
}

/// Why a request can't meet a fault.
fn left_out(operation: Operation, fault: Fault, arrangement: Arrangement) -> Option<&'static str> {
    let is_put = !matches!(operation, Operation::GetManifest);
    match (operation, fault) {
        (_, Fault::WrongBytes | Fault::Truncated | Fault::Shortened) if is_put => {
            Some("the answer has no body")
        }
        (Operation::CreateBucket, Fault::Trickle) => {
            Some("neither the request nor its answer has a body")
        }
        (Operation::CreateBucket, Fault::Answer(404, _)) => {
            Some("there is nothing whose absence could be the answer")
        }
        (Operation::CreateBucket, _) if !arrangement.is_bucketless() => Some("the bucket is there"),
        (Operation::PutNextManifest, _) if arrangement.is_bucketless() => {
            Some("there is no manifest in a bucket that is missing")
        }
        _ => None,
    }
}

/// All cells.
pub fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for arrangement in [
        Arrangement::One,
        Arrangement::Two,
        Arrangement::Bucketless,
        Arrangement::BucketlessTwo,
    ] {
        for fault in FAULTS {
            for operation in WRITES {
                if left_out(operation, fault, arrangement).is_none() {
                    cells.push(Cell::Write(cells.len(), operation, fault, arrangement));
                }
            }
            if !arrangement.is_bucketless() {
                cells.push(Cell::Read(cells.len(), fault, arrangement));
            }
        }
    }
    // Readers of a silent store take longest: they must not come last.
    cells.sort_by_key(|cell| matches!(cell, Cell::Write(..)));
    cells
}
