//! The corpus begins with real objects: files named `seed-…`, exactly as the encoders write them today. The other files are what a
//! long run found worth keeping (`scripts/fuzz`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use verneuil_fuzz::seeds;

/// What the whole corpus may take: it is cloned with the sources.
const CORPUS_LEN_MAX_BYTES: u64 = 1 << 20;

const PREFIX: &str = "seed-";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/targets/__fuzz__")
}

/// To accept a change of the encoders: `VERNEUIL_BLESS=1 cargo test --release -p verneuil-fuzz corpus`.
#[test]
fn the_seeds_of_the_corpus_are_what_the_encoders_write() {
    let bless = std::env::var_os("VERNEUIL_BLESS").is_some();
    for (kind, seeds) in seeds::all() {
        let folder = root().join(kind).join("corpus");
        if bless {
            fs::create_dir_all(&folder).unwrap();
        }
        let mut expected = BTreeSet::new();
        for (name, bytes) in seeds {
            let name = format!("{PREFIX}{name}");
            let file = folder.join(&name);
            if bless {
                fs::write(&file, &bytes).unwrap();
            }
            let found = fs::read(&file).unwrap_or_default();
            assert!(
                found == bytes,
                "{kind}: {name} is not what the encoder writes; if that was intended, run again with VERNEUIL_BLESS=1"
            );
            expected.insert(name);
        }
        for entry in fs::read_dir(&folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.starts_with(PREFIX) && !expected.contains(&name) {
                assert!(bless, "{kind}: nothing writes {name} any more");
                fs::remove_file(folder.join(name)).unwrap();
            }
        }
    }
}

#[test]
fn the_corpus_is_small_and_holds_no_crash() {
    fn walk(folder: &Path, files: &mut Vec<(PathBuf, u64)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), files);
            } else {
                files.push((entry.path(), entry.metadata().unwrap().len()));
            }
        }
    }
    let mut files = Vec::new();
    walk(&root(), &mut files);
    assert!(files.len() > 20);
    for (file, _) in &files {
        let folder = file.parent().unwrap();
        assert!(
            folder.ends_with("corpus"),
            "{} is not part of a corpus",
            file.display()
        );
    }
    let total: u64 = files.iter().map(|(_, len)| len).sum();
    assert!(
        total <= CORPUS_LEN_MAX_BYTES,
        "the corpus has {total} bytes"
    );
}
