//! What every store promises, as checks over a `Store`; `main.rs` runs all of them against each kind.

use bytes::Bytes;
use futures::future::join_all;
use std::ops::Range;
use verneuil_store::{Condition, ETag, ErrorKind, GetOptions, Got, Space, Store, StoreError};

/// Runs every check, each under keys of its own.
pub async fn run(store: &Store) {
    reads_back_what_was_written(store).await;
    clips_ranges(store).await;
    tells_missing_objects_from_failures(store).await;
    gives_a_new_version_to_every_overwrite(store).await;
    reads_only_what_changed(store).await;
    writes_only_if_the_condition_holds(store).await;
    lets_one_of_many_conditional_writers_win(store).await;
    shows_whole_objects_to_readers_of_a_busy_key(store).await;
    takes_any_key(store).await;
    lists_in_pages_with_and_without_delimiter(store).await;
}

pub async fn put(store: &Store, key: &str, body: &[u8]) -> ETag {
    let body = Bytes::copy_from_slice(body);
    let put = store
        .put(Space::Manifests, key, body, Condition::None)
        .await;
    put.unwrap_or_else(|error| panic!("{key:?}: {error}"))
}

async fn put_if(
    store: &Store,
    key: &str,
    body: &[u8],
    condition: Condition,
) -> Result<ETag, StoreError> {
    let body = Bytes::copy_from_slice(body);
    store.put(Space::Manifests, key, body, condition).await
}

/// Body, version and whole length.
async fn get(store: &Store, key: &str, range: Option<Range<u64>>) -> (Bytes, ETag, u64) {
    let options = GetOptions {
        range,
        if_none_match: None,
    };
    match store.get(Space::Manifests, key, options).await {
        Ok(Got::Object {
            body,
            etag,
            total_len,
        }) => (body, etag, total_len),
        other => panic!("{key:?}: {other:?}"),
    }
}

async fn reads_back_what_was_written(store: &Store) {
    for (space, len) in [
        (Space::Chunks, 0),
        (Space::Manifests, 1),
        (Space::Chunks, 70_000),
        (Space::Manifests, 8 << 20),
    ] {
        let key = format!("read-back/{len}");
        let body: Bytes = (0..len).map(|i| (i * 31 + i / 251) as u8).collect();
        let put = store.put(space, &key, body.clone(), Condition::None).await;
        let etag = put.unwrap_or_else(|error| panic!("{len} bytes: {error}"));
        let got = store.get(space, &key, GetOptions::default()).await.unwrap();
        let whole = Got::Object {
            body,
            etag: etag.clone(),
            total_len: len,
        };
        assert!(got == whole, "{len} bytes came back different");
        let meta = store.head(space, &key).await.unwrap();
        assert_eq!((meta.etag, meta.len), (etag, len));
    }
}

async fn clips_ranges(store: &Store) {
    let content = b"0123456789";
    let etag = put(store, "ranges/ten", content).await;
    let empty_etag = put(store, "ranges/none", b"").await;
    for (range, expected) in [
        (0..10, &content[..]),
        (0..1, b"0"),
        (3..7, b"3456"),
        (9..10, b"9"),
        (5..1_000, b"56789"),
        (0..u64::MAX, content),
        (4..4, b""),
        (10..11, b""),
        (1_000..2_000, b""),
    ] {
        let (body, version, total_len) = get(store, "ranges/ten", Some(range.clone())).await;
        assert_eq!(&body[..], expected, "{range:?}");
        assert_eq!((version, total_len), (etag.clone(), 10), "{range:?}");
    }
    for range in [0..0, 0..1, 0..128, 5..6] {
        let (body, version, total_len) = get(store, "ranges/none", Some(range.clone())).await;
        assert_eq!((&body[..], total_len), (&b""[..], 0), "{range:?}");
        assert_eq!(version, empty_etag);
    }
    let backwards = GetOptions::range(Range { start: 5, end: 4 });
    let error = store.get(Space::Manifests, "ranges/ten", backwards).await;
    assert_eq!(error.unwrap_err().kind, ErrorKind::BadRequest);
}

async fn tells_missing_objects_from_failures(store: &Store) {
    put(store, "missing/neighbour", b"x").await;
    for key in [
        "missing/no",
        "missing/no/such",
        "nothing-here",
        "missing/neighbou",
    ] {
        let whole = store
            .get(Space::Manifests, key, GetOptions::default())
            .await;
        let part = store
            .get(Space::Manifests, key, GetOptions::range(0..128))
            .await;
        let none = store
            .get(Space::Manifests, key, GetOptions::range(5..5))
            .await;
        let head = store.head(Space::Manifests, key).await;
        for error in [
            whole.unwrap_err(),
            part.unwrap_err(),
            none.unwrap_err(),
            head.unwrap_err(),
        ] {
            assert_eq!(error.kind, ErrorKind::NotFound, "{error}");
            assert!(!error.is_retryable());
            assert!(error.to_string().contains(key), "{error}");
        }
        store.delete(Space::Manifests, key).await.unwrap();
    }
    store
        .delete(Space::Manifests, "missing/neighbour")
        .await
        .unwrap();
    let head = store.head(Space::Manifests, "missing/neighbour").await;
    assert_eq!(head.unwrap_err().kind, ErrorKind::NotFound);
    let page = store
        .list(Space::Manifests, "missing/", false, None)
        .await
        .unwrap();
    assert!(page.objects.is_empty() && page.prefixes.is_empty() && page.next.is_none());
}

async fn gives_a_new_version_to_every_overwrite(store: &Store) {
    let mut versions = std::collections::HashSet::new();
    for round in 0..30 {
        let etag = put(store, "versions/k", format!("{round:02}").as_bytes()).await;
        assert_eq!(
            store
                .head(Space::Manifests, "versions/k")
                .await
                .unwrap()
                .etag,
            etag
        );
        assert!(versions.insert(etag), "round {round}");
    }
}

async fn reads_only_what_changed(store: &Store) {
    let old = put(store, "changed/k", b"old").await;
    for range in [None, Some(0..2)] {
        let options = GetOptions {
            range: range.clone(),
            ..GetOptions::unless(old.clone())
        };
        let same = store.get(Space::Manifests, "changed/k", options).await;
        assert_eq!(same.unwrap(), Got::NotModified, "{range:?}");
    }
    let new = put(store, "changed/k", b"newer").await;
    let got = store
        .get(Space::Manifests, "changed/k", GetOptions::unless(old))
        .await;
    let expected = Got::Object {
        body: Bytes::from_static(b"newer"),
        etag: new.clone(),
        total_len: 5,
    };
    assert_eq!(got.unwrap(), expected);
    store.delete(Space::Manifests, "changed/k").await.unwrap();
    let gone = store
        .get(Space::Manifests, "changed/k", GetOptions::unless(new))
        .await;
    assert_eq!(gone.unwrap_err().kind, ErrorKind::NotFound);
}

async fn writes_only_if_the_condition_holds(store: &Store) {
    let key = "conditions/k";
    let failed = |put: Result<ETag, StoreError>| {
        let error = put.unwrap_err();
        assert_eq!(error.kind, ErrorKind::PreconditionFailed, "{error}");
        assert!(!error.is_retryable());
    };
    let first = put_if(store, key, b"1", Condition::Absent).await.unwrap();
    failed(put_if(store, key, b"x", Condition::Absent).await);
    let second = put_if(store, key, b"2", Condition::Matches(first.clone()))
        .await
        .unwrap();
    failed(put_if(store, key, b"x", Condition::Matches(first)).await);
    assert_eq!(
        get(store, key, None).await,
        (Bytes::from_static(b"2"), second.clone(), 1)
    );
    store.delete(Space::Manifests, key).await.unwrap();
    failed(put_if(store, key, b"x", Condition::Matches(second)).await);
    put_if(store, key, b"3", Condition::Absent).await.unwrap();
}

async fn lets_one_of_many_conditional_writers_win(store: &Store) {
    const WRITERS: usize = 8;
    let key = "race/k";
    let mut condition = Condition::Absent;
    for round in 0..6 {
        let body = |writer: usize| format!("round {round}, writer {writer}");
        let writers = (0..WRITERS).map(|writer| {
            let (store, condition, body) = (store.clone(), condition.clone(), body(writer));
            tokio::spawn(async move { put_if(&store, key, body.as_bytes(), condition).await })
        });
        let mut winner = None;
        for (writer, ended) in join_all(writers).await.into_iter().enumerate() {
            match ended.unwrap() {
                Ok(etag) => {
                    let before = winner.replace((writer, etag));
                    assert!(
                        before.is_none(),
                        "{before:?} and {winner:?} won round {round}"
                    );
                }
                Err(error) => assert_eq!(error.kind, ErrorKind::PreconditionFailed, "{error}"),
            }
        }
        let (writer, etag) = winner.unwrap();
        let (content, version, _) = get(store, key, None).await;
        assert_eq!(content, body(writer).as_bytes());
        assert_eq!(version, etag);
        condition = Condition::Matches(etag);
    }
}

async fn shows_whole_objects_to_readers_of_a_busy_key(store: &Store) {
    let key = "busy/k";
    put(store, key, &[0; 1_000]).await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 1..=60_u8 {
                put(&store, key, &vec![round; 1_000 + usize::from(round) * 997]).await;
            }
        })
    };
    while !writer.is_finished() {
        let (body, _, total_len) = get(store, key, None).await;
        let round = body[0];
        assert_eq!(body.len(), 1_000 + usize::from(round) * 997);
        assert_eq!(body.len() as u64, total_len);
        assert!(body.iter().all(|byte| *byte == round));
    }
    writer.await.unwrap();
}

async fn takes_any_key(store: &Store) {
    let long_name = "n".repeat(240);
    let long = format!("odd/{0}/{0}/{0}/{0}", long_name) + "/" + &"z".repeat(31);
    assert_eq!(long.len(), 999);
    let mut keys: Vec<String> = [
        "odd/plain",
        "odd/with space",
        "odd/%25/%2F/%",
        "odd/name@",
        "odd/name@@/@",
        "odd/é/日本語/😀@",
        "odd/a+b&c=d;e?f#g",
        "odd/'\"<>!*()[]{}|^`~$,:",
        "odd/...",
        "odd/.hidden",
        "odd/trailing.",
        "odd/UPPER",
        "odd/upper",
    ]
    .map(str::to_owned)
    .to_vec();
    keys.push(long.clone() + "@");
    for key in &keys {
        put(store, key, key.as_bytes()).await;
    }
    for key in &keys {
        let (body, ..) = get(store, key, None).await;
        assert_eq!(body, key.as_bytes(), "{key}");
    }
    keys.sort();
    assert_eq!(list_all(store, "odd/", false, 1_000).await, keys);
    assert_eq!(
        list_all(store, "odd/é/", true, 1_000).await,
        ["odd/é/日本語/"]
    );
    for key in &keys {
        store.delete(Space::Manifests, key).await.unwrap();
    }
    assert!(list_all(store, "odd/", false, 1_000).await.is_empty());
}

async fn lists_in_pages_with_and_without_delimiter(store: &Store) {
    let mut keys = Vec::new();
    for folder in ["", "a/", "a/b/", "a/b/c/", "a-/", "a0/", "z/y/x/"] {
        for name in ["1", "2@", "m"] {
            let key = format!("list/{folder}{name}");
            put(store, &key, key.as_bytes()).await;
            keys.push(key);
        }
    }
    keys.sort();
    for prefix in [
        "list/",
        "list/a",
        "list/a/",
        "list/a/b",
        "list/a/b/",
        "list/z/",
        "list/none/",
        "list/2",
    ] {
        let flat: Vec<_> = keys
            .iter()
            .filter(|key| key.starts_with(prefix))
            .cloned()
            .collect();
        let mut folded: Vec<_> = flat
            .iter()
            .map(|key| match key[prefix.len()..].find('/') {
                Some(slash) => key[..prefix.len() + slash + 1].to_owned(),
                None => key.clone(),
            })
            .collect();
        folded.dedup();
        for page_len in [1, 3, 1_000] {
            let context = format!("{prefix} in pages of {page_len}");
            assert_eq!(
                list_all(store, prefix, false, page_len).await,
                flat,
                "{context}"
            );
            assert_eq!(
                list_all(store, prefix, true, page_len).await,
                folded,
                "{context}"
            );
        }
    }
    let page = store
        .list(Space::Manifests, "list/", false, None)
        .await
        .unwrap();
    for listed in page.objects {
        let meta = store.head(Space::Manifests, &listed.key).await.unwrap();
        assert_eq!(listed.len, listed.key.len() as u64);
        assert_eq!(listed.etag, Some(meta.etag), "{}", listed.key);
    }
}

/// Objects and prefixes together, sorted, after looking at the order of each in every page: not every store keeps an
/// order from page to page.
async fn list_all(store: &Store, prefix: &str, delimiter: bool, page_len: u32) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = None;
    loop {
        let page = store
            .list_at_most(Space::Manifests, prefix, delimiter, next, page_len)
            .await
            .unwrap_or_else(|error| panic!("{prefix}: {error}"));
        let mut names: Vec<_> = page.objects.into_iter().map(|listed| listed.key).collect();
        assert!(names.is_sorted() && page.prefixes.is_sorted());
        assert!(delimiter || page.prefixes.is_empty());
        assert!(page.prefixes.iter().all(|prefix| prefix.ends_with('/')));
        names.extend(page.prefixes);
        assert!(names.len() <= page_len as usize);
        found.extend(names);
        next = page.next;
        if next.is_none() {
            found.sort();
            return found;
        }
    }
}
