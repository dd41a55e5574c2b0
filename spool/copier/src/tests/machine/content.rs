//! What a database file says, which is not all of its bytes: SQLite neither reads nor journals free pages, so that what another VFS has spilled into
//! them stays there after a roll-back, under the old change counter. `model` compares states by this.

use std::collections::HashSet;

use blake3::Hash;

/// Where the header has the first page of the list of free pages.
const FIRST_TRUNK_AT: usize = 32;
/// A page of that list: its successor, how many pages it names, and these.
const LEAVES_AT: usize = 8;

/// Hash of everything but the bytes of free pages that the list of free pages names.
pub(super) fn hash_of(mut file: Vec<u8>) -> Hash {
    let page_len = match u16_at(&file, 16) {
        Some(1) => 65_536,
        len => usize::from(len.unwrap_or(0)),
    };
    let mut seen = HashSet::new();
    let mut trunk = u32_at(&file, FIRST_TRUNK_AT).unwrap_or(0);
    while trunk != 0 && page_len != 0 && seen.insert(trunk) {
        let start = (trunk as usize - 1) * page_len;
        let Some(count) = u32_at(&file, start + 4) else {
            break;
        };
        let leaves: Vec<u32> = (0..(count as usize).min(page_len / 4))
            .filter_map(|n| u32_at(&file, start + LEAVES_AT + 4 * n))
            .collect();
        trunk = u32_at(&file, start).unwrap_or(0);
        for leaf in leaves.into_iter().filter(|leaf| *leaf != 0) {
            let start = (leaf as usize - 1) * page_len;
            if let Some(page) = file.get_mut(start..start + page_len) {
                page.fill(0);
            }
        }
    }
    blake3::hash(&file)
}

fn u16_at(file: &[u8], at: usize) -> Option<u16> {
    let bytes = file.get(at..at + 2)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

fn u32_at(file: &[u8], at: usize) -> Option<u32> {
    let bytes = file.get(at..at + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}
