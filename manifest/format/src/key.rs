//! Keys of packs and manifests in a store: `store` joins them to its prefix, `replica` lists and inverts them. The rules are in docs/FORMAT.md.

use crate::error::{FormatError, malformed};
use crate::ids::PackId;
use crate::limits::{KEY_LEN_MAX_BYTES, SEGMENT_LEN_MAX_BYTES};

/// What all keys of packs start with.
pub const PACKS_PREFIX: &str = "packs/";

/// What all keys of manifests start with.
pub const MANIFESTS_PREFIX: &str = "manifests/";

/// Ends the last segment of a manifest's key, and occurs nowhere else in it.
pub const DATABASE_MARK: char = '@';

/// Stands for a segment of no bytes. (`%` is otherwise followed by two upper-case hex digits.)
const EMPTY: &str = "%empty";

/// First segment of a path that does not start with `/`.
const RELATIVE: &str = "%relative";

/// Starts the segment that stands for a name that no file name can hold (too long, or with a `/` or NUL in it, as a host's might);
/// the BLAKE3 of the name follows.
const HASHED_NAME: &str = "%name-";

/// Starts the only segment after the host of a path too long for a key; the BLAKE3 of the path follows.
const HASHED_PATH: &str = "%path-";

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// One segment of a key, decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The name that it stands for.
    Plain(Vec<u8>),
    /// The name is not in the key (too long, or a whole path that is, or not absolute): a manifest below has it.
    Hashed,
}

/// The key of a pack: `packs/<first 2 hex digits>/<64 hex digits>`.
pub fn pack_key(id: PackId) -> String {
    let hex = id.to_hex();
    format!("{PACKS_PREFIX}{}/{hex}", &hex[..2])
}

/// Inverts [`pack_key`].
pub fn invert_pack_key(key: &str) -> Option<PackId> {
    let hex = key.strip_prefix(PACKS_PREFIX)?.get(3..)?;
    let id = PackId(*blake3::Hash::from_hex(hex).ok()?.as_bytes());
    (pack_key(id) == key).then_some(id)
}

/// The key of a database's manifest: `manifests/<host>/<segments of the path, joined by />@`.
///
/// Two different (host, path) never have the same key, whatever bytes they hold; no key is longer than 900 bytes and no segment
/// longer than 255.
pub fn manifest_key(host: &str, path: &[u8]) -> String {
    let mut key = host_prefix(host);
    let start = key.len();
    let names = match path.strip_prefix(b"/") {
        Some(rest) => rest,
        None => {
            key.push_str(RELATIVE);
            key.push('/');
            path
        }
    };
    for (i, name) in names.split(|&b| b == b'/').enumerate() {
        if i > 0 {
            key.push('/');
        }
        key.push_str(&path_segment(name));
        if key.len() >= KEY_LEN_MAX_BYTES {
            // One byte is for the mark. A deep path stands at the top of its host, see deep_prefix().
            key.truncate(start);
            key.push_str(HASHED_PATH);
            key.push_str(blake3::hash(path).to_hex().as_str());
            break;
        }
    }
    key.push(DATABASE_MARK);
    key
}

/// What the keys of all databases of a host start with: `manifests/<host>/`.
pub fn host_prefix(host: &str) -> String {
    format!("{MANIFESTS_PREFIX}{}/", host_segment(host))
}

/// What the keys of those databases of a host start with whose paths were too long for a key: they do not stand in the folder
/// that they belong to; their manifests have the path.
pub fn deep_prefix(host: &str) -> String {
    format!("{}{HASHED_PATH}", host_prefix(host))
}

/// The segment of a host name.
pub fn host_segment(host: &str) -> String {
    path_segment(host.as_bytes())
}

/// The segment of one name of a path, without the mark that ends a database's.
pub fn path_segment(name: &[u8]) -> String {
    match name {
        b"" => return EMPTY.to_owned(),
        // A directory store must never walk along these.
        b"." => return "%2E".to_owned(),
        b".." => return "%2E%2E".to_owned(),
        _ => {}
    }
    let mut segment = String::with_capacity(name.len());
    for &byte in name {
        if is_plain(byte) {
            segment.push(char::from(byte));
        } else {
            segment.push('%');
            segment.push(char::from(HEX[usize::from(byte >> 4)]));
            segment.push(char::from(HEX[usize::from(byte & 15)]));
        }
        if segment.len() > SEGMENT_LEN_MAX_BYTES || matches!(byte, b'/' | 0) {
            return format!("{HASHED_NAME}{}", blake3::hash(name).to_hex());
        }
    }
    segment
}

/// Inverts [`path_segment`] and [`host_segment`].
///
/// # Errors
/// If the segment is not one that [`manifest_key`] makes. What decodes never holds a `/` or a NUL, but may be empty, `.` or `..`,
/// which a mount must refuse.
pub fn decode_segment(segment: &str) -> Result<Segment, FormatError> {
    const WHAT: &str = "key segment";
    if segment.is_empty() || segment.len() > SEGMENT_LEN_MAX_BYTES {
        return Err(malformed(WHAT, "its length is impossible"));
    }
    if segment == EMPTY {
        return Ok(Segment::Plain(Vec::new()));
    }
    if segment == RELATIVE {
        return Ok(Segment::Hashed);
    }
    if let Some(hex) = segment
        .strip_prefix(HASHED_NAME)
        .or_else(|| segment.strip_prefix(HASHED_PATH))
    {
        if hex.len() == 64
            && hex
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        {
            return Ok(Segment::Hashed);
        }
        return Err(malformed(WHAT, "its hash is not 64 hex digits"));
    }
    let mut name = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let (high, low) = (
                bytes.next().and_then(hex_value),
                bytes.next().and_then(hex_value),
            );
            let (Some(high), Some(low)) = (high, low) else {
                return Err(malformed(
                    WHAT,
                    "a % is not followed by two upper-case hex digits",
                ));
            };
            name.push(high << 4 | low);
        } else {
            name.push(byte);
        }
    }
    // Only one spelling is right: else two keys would stand for one path.
    if path_segment(&name) != segment {
        return Err(malformed(WHAT, "it is not spelt as it should be"));
    }
    Ok(Segment::Plain(name))
}

/// Host and path of a manifest's key; `None` if it is not such a key, or if the name is not in it (hashed).
pub fn invert_manifest_key(key: &str) -> Option<(String, Vec<u8>)> {
    let rest = key
        .strip_prefix(MANIFESTS_PREFIX)?
        .strip_suffix(DATABASE_MARK)?;
    let (host, path_segments) = rest.split_once('/')?;
    let Segment::Plain(host) = decode_segment(host).ok()? else {
        return None;
    };
    let host = String::from_utf8(host).ok()?;
    let (names, absolute) = match path_segments
        .strip_prefix(RELATIVE)
        .and_then(|names| names.strip_prefix('/'))
    {
        Some(names) => (names, false),
        None => (path_segments, true),
    };
    let mut path = Vec::with_capacity(rest.len());
    for (i, segment) in names.split('/').enumerate() {
        if i > 0 || absolute {
            path.push(b'/');
        }
        let Segment::Plain(name) = decode_segment(segment).ok()? else {
            return None;
        };
        path.extend_from_slice(&name);
    }
    (manifest_key(&host, &path) == key).then_some((host, path))
}

/// The unreserved characters of URIs: no store, shell or signature treats them specially.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

fn hex_value(digit: u8) -> Option<u8> {
    HEX.iter().position(|&d| d == digit).map(|v| v as u8)
}
