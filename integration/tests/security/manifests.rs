//! Manifests that lie about lengths, nodes and frames: `restore`, `manifest`, `ls` and the mount answer each with an error that says what is
//! wrong, soon, and in bounded memory. The bytes are made by hand here: the encoders refuse to.

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use verneuil_format::{
    ChunkId, Entry, FrameRef, Generation, HEAD_LEN_BYTES, Head, Node, NodeId, NodeRef, PackId,
    Stored, manifest_key, pack_key,
};
use verneuil_integration::process::{self, COMMAND_LIMIT};
use verneuil_integration::publish::Publisher;
use verneuil_integration::setup::{HOST, Kind, Setup};
use verneuil_integration::watchdog;

use crate::support::{
    DECODED_MAX_BYTES, RESTORED_MAX_BYTES, is_plain, limited_ctl, memory_is_bounded, put, utf8,
};

/// The largest file that the format allows, and its number of chunks.
const LARGEST: u64 = 4_294_967_294 * 65_536;
/// How long a program may think about a lie, on a busy machine.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Protobuf by hand.
#[derive(Clone, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(mut self, mut value: u64) -> Self {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
        self
    }

    fn number(self, field: u64, value: u64) -> Self {
        self.varint(field << 3).varint(value)
    }

    fn bytes(self, field: u64, bytes: &[u8]) -> Self {
        let mut message = self.varint(field << 3 | 2).varint(bytes.len() as u64);
        message.0.extend_from_slice(bytes);
        message
    }

    fn packed(self, field: u64, values: &[u64]) -> Self {
        let packed = values
            .iter()
            .fold(Self::default(), |message, value| message.varint(*value));
        self.bytes(field, &packed.0)
    }
}

/// What every body says.
fn body(path: &str) -> Message {
    Message::default()
        .bytes(2, HOST.as_bytes())
        .bytes(3, path.as_bytes())
        .bytes(4, &[7; 16])
        .number(5, 4_096)
}

/// A manifest around any body.
fn seal(file_len: u64, body: &Message) -> Vec<u8> {
    let body_len = body.0.len() as u32;
    let head = Head {
        generation: Generation(1),
        file_len,
        commit_time_ns: 1,
        body_len,
    };
    let mut bytes = head.encode().to_vec();
    assert_eq!(bytes.len(), HEAD_LEN_BYTES);
    bytes.extend_from_slice(&body.0);
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    bytes
}

/// `Sparse`, with these gaps, all entries alike.
fn sparse(gaps: &[u64], id: &[u8; 32], at: &FrameRef) -> Message {
    let all = |value: u64| vec![value; gaps.len()];
    let entries = Message::default()
        .packed(1, &all(1))
        .bytes(2, &id.repeat(gaps.len()))
        .packed(3, &all(u64::from(at.offset)))
        .packed(4, &all(u64::from(at.len)));
    Message::default().packed(1, gaps).bytes(2, &entries.0)
}

/// A zstd frame of 32 KB that becomes 1 GiB: 8,192 blocks of one repeated byte.
fn bomb() -> Vec<u8> {
    const BLOCKS: u32 = 8_192;
    const BLOCK_LEN: u32 = 128 * 1024;
    // Magic; no content size; a window of 128 KiB.
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x38];
    for block in 0..BLOCKS {
        let header = u32::from(block + 1 == BLOCKS) | 1 << 1 | BLOCK_LEN << 3;
        frame.extend_from_slice(&header.to_le_bytes()[..3]);
        frame.push(b'x');
    }
    frame
}

/// An object of the chunk space that holds one frame, and its reference.
fn pack(setup: &Setup, frame: &[u8]) -> Result<FrameRef> {
    let pack = PackId::of(frame);
    put(setup, &pack_key(pack), frame)?;
    Ok(FrameRef {
        pack,
        offset: 0,
        len: frame.len() as u32,
    })
}

/// The same, of these raw bytes.
fn stored(setup: &Setup, raw: &[u8]) -> Result<FrameRef> {
    let mut builder = verneuil_format::PackBuilder::new();
    builder.push(raw)?;
    let pack = builder.finish();
    put(setup, &pack_key(pack.id), &pack.body)?;
    pack.frames.into_iter().next().context("a frame")
}

/// A lie: its name, its manifest, and what a restore has to say of it.
struct Lie {
    name: &'static str,
    manifest: Vec<u8>,
    said: &'static str,
}

fn path_of(name: &str) -> String {
    format!("/srv/{name}.db")
}

/// Puts all of them into the store.
fn lies(setup: &Setup) -> Result<Vec<Lie>> {
    let mut lies = Vec::new();
    let mut lie =
        |name: &'static str, said, file_len, message: &dyn Fn(Message) -> Message| -> Result<()> {
            let manifest = seal(file_len, &message(body(&path_of(name))));
            put(
                setup,
                &manifest_key(HOST, path_of(name).as_bytes()),
                &manifest,
            )?;
            lies.push(Lie {
                name,
                manifest,
                said,
            });
            Ok(())
        };
    let chunk = [b'c'; 65_536];
    let chunk_at = stored(setup, &chunk)?;
    let chunk_entry = Entry {
        id: ChunkId::of(&chunk),
        stored: Stored::Frame(chunk_at),
    };
    let bomb_at = pack(setup, &bomb())?;

    // Lengths.
    lie(
        "quintillion",
        "file length is 1000000000000000000, the limit is",
        1_000_000_000_000_000_000,
        &|body| body,
    )?;
    lie(
        "all_ones",
        "file length is 18446744073709551615, the limit is",
        u64::MAX,
        &|body| body,
    )?;
    lie("zeros", "File too large", LARGEST, &|body| body)?;

    // Nodes: one leaf and one inner node that stand for everything, more of them than there is file, and one in the place of the other.
    let leaf = Node::Leaf(vec![chunk_entry; 1_024]).encode();
    let leaf_at = stored(setup, &leaf)?;
    let leaf_ref = NodeRef {
        id: NodeId::of(&leaf),
        at: leaf_at,
    };
    let inner = Node::Inner(
        (0..1_024)
            .map(|slot| (slot, leaf_ref))
            .collect::<BTreeMap<_, _>>(),
    )
    .encode();
    let inner_at = stored(setup, &inner)?;
    let inner_id = NodeId::of(&inner);
    let covered = LARGEST / 65_536;
    lie("one_chunk_for_all", "File too large", LARGEST, &|body| {
        let nodes = sparse(&[0; 4_096], &inner_id.0, &inner_at);
        body.bytes(9, &inner_at.pack.0)
            .number(10, covered)
            .bytes(11, &nodes.0)
    })?;
    lie(
        "more_nodes_than_file",
        "nodes cover more chunks than the file has",
        200 * 65_536,
        &|body| {
            let nodes = sparse(&[0], &leaf_ref.id.0, &leaf_at);
            body.bytes(9, &leaf_at.pack.0)
                .number(10, 201)
                .bytes(11, &nodes.0)
        },
    )?;
    lie(
        "overlapping_nodes",
        "an index is beyond the end",
        1_024 * 65_536,
        &|body| {
            let nodes = sparse(&[0, 0, 0], &leaf_ref.id.0, &leaf_at);
            body.bytes(9, &leaf_at.pack.0)
                .number(10, 1_024)
                .bytes(11, &nodes.0)
        },
    )?;
    lie("inner_for_leaf", "node", 1_024 * 65_536, &|body| {
        let nodes = sparse(&[0], &inner_id.0, &inner_at);
        body.bytes(9, &inner_at.pack.0)
            .number(10, 1_024)
            .bytes(11, &nodes.0)
    })?;
    lie("leaf_for_inner", "node", 200_000 * 65_536, &|body| {
        let nodes = sparse(&[0], &leaf_ref.id.0, &leaf_at);
        body.bytes(9, &leaf_at.pack.0)
            .number(10, 200_000)
            .bytes(11, &nodes.0)
    })?;

    // Frames that become more than they may: of a chunk, of a node, of the patches.
    lie("chunk_bomb", "does not decompress", 65_536, &|body| {
        let overlay = sparse(&[0], &[9; 32], &bomb_at);
        body.bytes(9, &bomb_at.pack.0).bytes(12, &overlay.0)
    })?;
    lie(
        "node_bomb",
        "does not decompress",
        1_024 * 65_536,
        &|body| {
            let nodes = sparse(&[0], &[9; 32], &bomb_at);
            body.bytes(9, &bomb_at.pack.0)
                .number(10, 1_024)
                .bytes(11, &nodes.0)
        },
    )?;
    lie("patch_bomb", "does not decompress", 65_536, &|body| {
        let patches = Message::default()
            .packed(1, &[0])
            .bytes(2, &[9; 32])
            .packed(3, &[1])
            .packed(4, &[1])
            .packed(5, &[0])
            .packed(6, &[65_536])
            .bytes(7, &bomb());
        body.bytes(13, &patches.0)
    })?;

    // Protobuf: a length beyond everything, columns longer than any list, messages within messages.
    lie("long_field", "is not valid protobuf", 65_536, &|body| {
        body.varint(9 << 3 | 2).varint(u64::MAX >> 1)
    })?;
    lie("long_columns", "the limit is", 65_536, &|body| {
        let entries = Message::default().bytes(1, &vec![1; 3 << 20]);
        let overlay = Message::default().bytes(2, &entries.0);
        body.bytes(12, &overlay.0)
    })?;
    lie("groups", "is not valid protobuf", 65_536, &|mut body| {
        // Starts of groups, none of which ends.
        body.0
            .extend(std::iter::repeat_n(0xfb_u8, 200_000).flat_map(|tag| [tag, 0x01]));
        body
    })?;
    // An object that is no manifest and does not end: sparse, so it costs nothing here.
    let name = "endless";
    let key = manifest_key(HOST, path_of(name).as_bytes());
    put(setup, &key, &lies[2].manifest)?;
    File::options()
        .write(true)
        .open(setup.path("store").join(key))?
        .set_len(10 << 30)?;
    lies.push(Lie {
        name,
        manifest: Vec::new(),
        said: "manifest",
    });
    Ok(lies)
}

#[test]
fn a_hostile_manifest_costs_bounded_memory_and_gives_a_clear_error() -> Result<()> {
    let _limit = watchdog::limit("manifests", 200);
    let setup = Setup::new(Kind::Directory)?;
    let lies = lies(&setup)?;
    let out = setup.path("out.db");
    for Lie {
        name,
        said,
        manifest,
    } in &lies
    {
        let told = || format!("{name}, whose manifest has {} bytes", manifest.len());
        let path = path_of(name);
        let begin = Instant::now();
        let restored = limited_ctl(
            &setup,
            RESTORED_MAX_BYTES,
            &[
                "restore",
                "-s",
                &path,
                "--hostname",
                HOST,
                "-o",
                utf8(&out)?,
            ],
        )?;
        ensure!(
            begin.elapsed() < ANSWER_LIMIT,
            "{}: it took {:?}",
            told(),
            begin.elapsed()
        );
        is_plain(&restored).with_context(told)?;
        // Not by a signal, nor out of memory.
        ensure!(
            restored.status.code() == Some(1),
            "{}: {} {}",
            told(),
            restored.status,
            restored.stderr
        );
        ensure!(
            restored.stderr.contains(said),
            "{}: {}",
            told(),
            restored.stderr
        );
        ensure!(
            restored.stderr.contains(&path) || restored.stderr.contains("out.db"),
            "{}: {}",
            told(),
            restored.stderr
        );
        ensure!(!out.exists(), "{}: something was restored", told());
    }
    // A listing looks at heads only, and shows each of them with its length or with its error.
    let listed = limited_ctl(&setup, DECODED_MAX_BYTES, &["ls", HOST])?;
    is_plain(&listed)?;
    ensure!(listed.status.code() == Some(1), "{}", listed.stderr);
    for Lie { name, .. } in &lies {
        ensure!(
            listed.text().contains(&path_of(name)),
            "{name} is missing: {}",
            listed.text()
        );
    }
    ensure!(listed.text().contains("the limit is"), "{}", listed.text());
    Ok(())
}

#[test]
fn a_hostile_manifest_is_decoded_in_bounded_memory() -> Result<()> {
    let _limit = watchdog::limit("decoding", 100);
    let setup = Setup::new(Kind::Directory)?;
    for Lie { name, .. } in lies(&setup)? {
        let path = path_of(name);
        let out = setup.path(&format!("{name}.json"));
        let arguments = [
            "manifest",
            "--decode",
            &path,
            "--hostname",
            HOST,
            "-o",
            utf8(&out)?,
        ];
        let decoded = limited_ctl(&setup, DECODED_MAX_BYTES, &arguments)?;
        is_plain(&decoded).with_context(|| name.to_owned())?;
        match decoded.status.code() {
            Some(0) => ensure!(name.ends_with("_bomb"), "{name} was decoded"),
            Some(1) => ensure!(!out.exists(), "{name}: half of it was left"),
            _ => anyhow::bail!("{name}: {} {}", decoded.status, decoded.stderr),
        }
    }
    Ok(())
}

#[test]
fn a_mount_serves_others_beside_hostile_manifests_in_bounded_memory() -> Result<()> {
    let _limit = watchdog::limit("mounted_manifests", 100);
    let setup = Setup::new(Kind::Directory)?;
    let lies = lies(&setup)?;
    let honest: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    Publisher::new(&setup, &setup.database())?
        .publish(&honest, verneuil_format::PatchBudget::ORDINARY)?;
    let mount = setup.mount(Duration::from_millis(100))?;
    let mut refused = 0;
    for Lie { name, .. } in &lies {
        let file = mount
            .point()
            .join(HOST)
            .join(path_of(name).trim_start_matches('/'));
        for (program, arguments) in [
            ("stat", &[][..]),
            ("head", &["-c", "100000"]),
            ("tail", &["-c", "100000"]),
        ] {
            let begin = Instant::now();
            let looked = process::run(
                process::tied(program).args(arguments).arg(&file),
                COMMAND_LIMIT,
            )
            .with_context(|| name.to_string())?;
            ensure!(
                begin.elapsed() < ANSWER_LIMIT,
                "{program} of {name} took {:?}",
                begin.elapsed()
            );
            refused += u32::from(!looked.status.success());
        }
    }
    ensure!(
        refused >= 20,
        "only {refused} of the looks at lies were refused"
    );
    let read = process::run(
        process::tied("cat").arg(mount.replica(&setup.database())),
        COMMAND_LIMIT,
    )?
    .ok()?;
    ensure!(
        read.stdout == honest,
        "another database than the one that was published"
    );
    memory_is_bounded(&mount)
}
