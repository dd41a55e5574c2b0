//! What an error must say of each fault; used by `writing` and `reading`.

use anyhow::{Result, ensure};
use verneuil_integration::front::{Fault, Operation};

/// Fails unless `text` says what was asked of which store, and what went wrong.
pub fn names_the_cause(
    text: &str,
    operation: Operation,
    fault: Fault,
    endpoint: &str,
) -> Result<()> {
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    ensure!(text.contains(endpoint), "{text:?} does not name {endpoint}");
    let verbs = operation_words(operation, fault);
    ensure!(has(verbs), "{text:?} does not say one of {verbs:?}");
    let causes = cause_words(fault);
    ensure!(has(causes), "{text:?} does not say one of {causes:?}");
    Ok(())
}

fn operation_words(operation: Operation, fault: Fault) -> &'static [&'static str] {
    match (operation, fault) {
        // From then on, nobody listens: what is tried next fails like that, too.
        (_, Fault::Refused) => &[
            "cannot write",
            "cannot read",
            "cannot create",
            "cannot list",
        ],
        (Operation::CreateBucket, _) => &["cannot create bucket"],
        (Operation::List, _) => &["cannot list"],
        (Operation::PutPack | Operation::PutFirstManifest | Operation::PutNextManifest, _) => {
            &["cannot write"]
        }
        (Operation::GetPackRange, Fault::WrongBytes) => &["packs/"],
        _ => &["cannot read", "cannot be used"],
    }
}

fn cause_words(fault: Fault) -> &'static [&'static str] {
    match fault {
        Fault::Refused => &["refused"],
        Fault::Reset => &["reset", "connection closed"],
        Fault::Trickle | Fault::Hang | Fault::Stall => &["no complete answer within 2000 ms"],
        Fault::Answer(500, _) => &["500 InternalError"],
        Fault::Answer(503, _) => &["503 SlowDown"],
        Fault::Answer(403, _) => &["403 AccessDenied"],
        Fault::Answer(_, "NoSuchBucket") => &["NoSuchBucket"],
        Fault::Answer(..) => &["NoSuchKey"],
        Fault::WrongBytes => &[
            "damaged",
            "does not decompress",
            "not a Verneuil manifest",
            "the answer can't be read",
        ],
        Fault::Truncated => &["broke off", "end of file before message length"],
        Fault::Shortened => &["damaged", "is cut short", "breaks off", "another range"],
        Fault::LostAnswer => &["connection closed"],
    }
}
