//! What is particular to a directory; what both stores promise is in
//! `integration/tests/store_conformance`.

use super::*;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

fn store_in(folder: &tempfile::TempDir) -> (Directory, PathBuf) {
    let root = folder.path().join("made/on/demand");
    (Directory::open(&root).unwrap(), root)
}

async fn put(store: &Directory, key: &str, body: &'static [u8]) -> Result<ETag, StoreError> {
    store
        .put(key, &Bytes::from_static(body), &Condition::None)
        .await
}

async fn keys(store: &Directory, prefix: &str, delimiter: bool, page_len: u32) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let page = store
            .list(prefix, delimiter, next.as_deref(), page_len)
            .await
            .unwrap();
        assert!(page.objects.len() + page.prefixes.len() <= page_len as usize);
        let mut names: Vec<_> = page.objects.into_iter().map(|object| object.key).collect();
        names.extend(page.prefixes);
        names.sort();
        found.extend(names);
        next = page.next;
        if next.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn files_are_private_and_the_root_is_made_by_the_first_write() {
    let folder = tempfile::tempdir().unwrap();
    let (store, root) = store_in(&folder);
    let missing = store.get("k", &GetOptions::default()).await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::NotFound);
    let missing = store.list("", false, None, 10).await.unwrap_err();
    assert_eq!(missing.kind, ErrorKind::StoreMissing);
    assert!(missing.to_string().contains(root.to_str().unwrap()));
    store.delete("k").await.unwrap();
    assert!(!folder.path().join("made").exists());

    put(&store, "manifests/host/a.db@", b"1").await.unwrap();
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o777;
    for path in ["", "manifests", "manifests/host", ".verneuil"] {
        assert_eq!(mode(root.join(path)), 0o700, "{path}");
    }
    assert_eq!(mode(root.join("manifests/host/a.db@")), 0o600);
}

#[tokio::test]
async fn no_key_and_no_link_leads_out_of_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let (store, root) = store_in(&folder);
    put(&store, "inside", b"x").await.unwrap();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("secret"), b"secret").unwrap();
    let long = "n".repeat(256);
    let too_long = "n/".repeat(512) + "nn";
    for key in [
        "",
        "/",
        "/inside",
        "a//b",
        "a/",
        "..",
        "../outside/secret",
        "a/../../outside/secret",
        "./inside",
        "a\0b",
        ".verneuil/lock-00",
        &long,
        &too_long,
    ] {
        let error = put(&store, key, b"y").await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadRequest, "{key:?}: {error}");
        let error = store.get(key, &GetOptions::default()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::BadRequest, "{key:?}: {error}");
        assert!(store.delete(key).await.is_err(), "{key:?}");
        store.list(key, true, None, 10).await.unwrap();
    }

    symlink(&outside, root.join("door")).unwrap();
    symlink(outside.join("secret"), root.join("window")).unwrap();
    for key in ["door/secret", "window"] {
        let error = store.get(key, &GetOptions::default()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotFound, "{key}");
        assert_eq!(store.head(key).await.unwrap_err().kind, ErrorKind::NotFound);
    }
    assert!(put(&store, "door/new", b"y").await.is_err());
    assert!(!outside.join("new").exists());
    // A rename replaces the link, not what it points to.
    put(&store, "window", b"y").await.unwrap();
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"secret");
    assert_eq!(keys(&store, "", false, 10).await, ["inside", "window"]);
    assert!(
        store
            .list("door/", false, None, 10)
            .await
            .unwrap()
            .objects
            .is_empty()
    );
}

#[tokio::test]
async fn a_failed_write_leaves_no_temporary_file_and_stale_ones_are_swept() {
    let folder = tempfile::tempdir().unwrap();
    let (store, root) = store_in(&folder);
    put(&store, "a/b", b"1").await.unwrap();
    let temporaries = || {
        let entries = std::fs::read_dir(root.join(".verneuil")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names
            .filter(|name| name.starts_with("tmp-"))
            .collect::<Vec<_>>()
    };
    assert!(temporaries().is_empty());
    // "a" is a folder, "a/b/c" would be below a file, and a condition may fail.
    assert!(put(&store, "a", b"2").await.is_err());
    assert!(put(&store, "a/b/c", b"2").await.is_err());
    let taken = store.put("a/b", &Bytes::new(), &Condition::Absent).await;
    assert_eq!(taken.unwrap_err().kind, ErrorKind::PreconditionFailed);
    assert!(temporaries().is_empty());

    let (old, young) = (
        root.join(".verneuil/tmp-old"),
        root.join(".verneuil/tmp-young"),
    );
    for path in [&old, &young] {
        std::fs::write(path, b"torn").unwrap();
    }
    let long_ago = SystemTime::now() - STALE_AFTER - Duration::from_secs(60);
    File::options()
        .write(true)
        .open(&old)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    assert_eq!(keys(&store, "", false, 10).await, ["a/b"]);
    // Another process, later.
    let later = Directory::open(&root).unwrap();
    put(&later, "a/b", b"3").await.unwrap();
    assert_eq!(temporaries(), ["tmp-young"]);
}

#[tokio::test]
async fn versions_differ_even_when_the_clock_stands_still_or_goes_back() {
    let folder = tempfile::tempdir().unwrap();
    let (store, root) = store_in(&folder);
    let mut seen = vec![put(&store, "k", b"0").await.unwrap()];
    let future = SystemTime::now() + Duration::from_secs(3_600);
    let file = File::options().write(true).open(root.join("k")).unwrap();
    file.set_modified(future).unwrap();
    seen.push(store.head("k").await.unwrap().etag);
    for _ in 0..50 {
        seen.push(put(&store, "k", b"0").await.unwrap());
    }
    let count = seen.len();
    seen.sort_by(|a, b| a.as_str().cmp(b.as_str()));
    seen.dedup();
    assert_eq!(seen.len(), count);
}

#[tokio::test]
async fn empty_folders_are_neither_left_nor_listed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, root) = store_in(&folder);
    put(&store, "a/b/c/d", b"1").await.unwrap();
    put(&store, "a/e", b"1").await.unwrap();
    store.delete("a/b/c/d").await.unwrap();
    assert!(!root.join("a/b").exists());
    assert!(root.join("a").exists());
    std::fs::create_dir_all(root.join("left/over")).unwrap();
    assert_eq!(keys(&store, "", true, 10).await, ["a/"]);
    store.delete("a/e").await.unwrap();
    assert!(root.exists());
    assert!(keys(&store, "", true, 10).await.is_empty());
}

#[tokio::test]
async fn writes_and_deletes_in_one_folder_do_not_disturb_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _root) = store_in(&folder);
    let mut tasks = Vec::new();
    for task in 0..4 {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for _ in 0..40 {
                let key = format!("one/folder/{task}");
                put(&store, &key, b"x").await.unwrap();
                store.head(&key).await.unwrap();
                store.delete(&key).await.unwrap();
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test]
async fn listing_agrees_with_sorting_all_keys_for_any_page_length() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _root) = store_in(&folder);
    // '!' and '-' sort before '/', '0' after: a folder's place depends on its slash.
    let mut all = Vec::new();
    for name in ["a", "a!", "a-b", "a0", "a.db@", "é", "%25"] {
        for below in ["x", "x!y", "x/1", "x/2/3", "z@"] {
            let key = format!("{name}/{below}");
            // A file and a folder cannot share a name.
            if below == "x" {
                continue;
            }
            put(&store, &key, b"1").await.unwrap();
            all.push(key);
        }
        let key = format!("{name}@");
        put(&store, &key, b"1").await.unwrap();
        all.push(key);
    }
    all.sort();
    for prefix in [
        "", "a", "a/", "a/x", "a/x/", "a0/x/2/", "a!", "é/", "none", "a/none/", "/", "a//",
    ] {
        let flat: Vec<_> = all
            .iter()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect();
        let mut folded: Vec<String> = flat
            .iter()
            .map(|key| match key[prefix.len()..].find('/') {
                Some(slash) => key[..prefix.len() + slash + 1].to_owned(),
                None => key.clone(),
            })
            .collect();
        folded.dedup();
        for page_len in [1, 2, 3, 7, 1_000] {
            assert_eq!(
                keys(&store, prefix, false, page_len).await,
                flat,
                "{prefix} {page_len}"
            );
            assert_eq!(
                keys(&store, prefix, true, page_len).await,
                folded,
                "{prefix} {page_len}"
            );
        }
    }
}
