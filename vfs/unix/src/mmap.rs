//! Pages of the database as memory (`PRAGMA mmap_size`): what xFetch lends and xUnfetch takes back; used by `file`, maps through `map`.
//!
//! Reads through xRead never go through the map: SQLite makes them also where it can't be sure of the file's length, and a read
//! beyond the end of a file through a map is a SIGBUS.

use crate::map::Map;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use verneuil_abi::Mapped;
use verneuil_dbfile::Pooled;

/// The most that can be mapped, whatever is asked: SQLite's own default for `SQLITE_MAX_MMAP_SIZE`, which an extension can't see.
const MAX_LIMIT_BYTES: i64 = 0x7fff_0000;

/// How many bytes behind a page must be mapped, too: SQLite may read a little too far in a page that is damaged.
const MARGIN_BYTES: usize = 256;

/// The map of one connection's database file.
#[derive(Debug, Default)]
pub(crate) struct FileMap {
    /// 0 maps nothing.
    limit_bytes: i64,
    map: Option<Map>,
    /// What maps are made through, kept from the first one on; see [`verneuil_dbfile::open_again`].
    file: Option<Pooled>,
    /// How much of the map the file is known to back: less than its length after a truncation.
    usable_len: usize,
    /// How many pages are lent. While there are any, the map stays where and as long as it is.
    lent: usize,
    /// Something was written behind the end of the map.
    may_have_grown: bool,
}

impl FileMap {
    /// Sets the limit, unless it is negative or something is lent; answers the old one.
    pub(crate) fn set_limit(&mut self, limit_bytes: i64) -> i64 {
        let old = self.limit_bytes;
        let limit_bytes = limit_bytes.min(MAX_LIMIT_BYTES);
        if limit_bytes >= 0 && limit_bytes != old && self.lent == 0 {
            self.limit_bytes = limit_bytes;
            self.unmap();
        }
        old
    }

    /// Lends `len` bytes at `offset`; none if they can't be mapped now.
    ///
    /// # Errors
    /// When the file's length can't be seen, or mapping fails; then nothing is mapped any more on this connection, as in `unix`.
    pub(crate) fn fetch(
        &mut self,
        file: &File,
        offset: u64,
        len: usize,
    ) -> io::Result<Option<Mapped>> {
        if self.limit_bytes == 0 {
            return Ok(None);
        }
        let Some((start, end)) = usize::try_from(offset)
            .ok()
            .and_then(|start| Some((start, start.checked_add(len)?.checked_add(MARGIN_BYTES)?)))
        else {
            return Ok(None);
        };
        let is_outgrown = self.may_have_grown && end > self.usable_len;
        if self.lent == 0 && (self.map.is_none() || is_outgrown) {
            self.map_anew(file)?;
        }
        if end > self.usable_len {
            return Ok(None);
        }
        let lent = self.map.as_ref().and_then(|map| map.lend(start, len));
        self.lent += usize::from(lent.is_some());
        Ok(lent)
    }

    /// Takes one page back.
    pub(crate) fn unfetch(&mut self) {
        self.lent = self.lent.saturating_sub(1);
    }

    /// The file may have changed in any way: whatever is lent next is mapped anew.
    pub(crate) fn unmap(&mut self) {
        if self.lent == 0 {
            self.map = None;
            self.usable_len = 0;
            self.may_have_grown = false;
        }
    }

    /// This connection has written up to `end`.
    pub(crate) fn written_to(&mut self, end: u64) {
        self.may_have_grown |= self.map.is_some() && end > self.usable_len as u64;
    }

    /// This connection has set the file's length.
    pub(crate) fn truncated_to(&mut self, len: u64) {
        self.written_to(len);
        self.usable_len = self
            .usable_len
            .min(usize::try_from(len).unwrap_or(usize::MAX));
    }

    fn map_anew(&mut self, file: &File) -> io::Result<()> {
        self.unmap();
        let len = file.metadata()?.len().min(self.limit_bytes.cast_unsigned());
        let Some(len) = usize::try_from(len).ok().and_then(NonZeroUsize::new) else {
            return Ok(());
        };
        if self.file.is_none() {
            self.file = verneuil_dbfile::open_again(file).ok();
        }
        match Map::new(self.file.as_deref().unwrap_or(file), 0, len, false) {
            Ok(map) => {
                self.usable_len = map.len();
                self.map = Some(map);
                Ok(())
            }
            Err(error) => {
                // It would fail again and again.
                self.limit_bytes = 0;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn file_of(len: u64) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(len).unwrap();
        file
    }

    #[test]
    fn what_is_lent_stays_where_it_is_and_the_map_follows_when_nothing_is() {
        let file = file_of(8192);
        let mut map = FileMap::default();
        assert_eq!(map.fetch(&file, 0, 4096).unwrap(), None, "0 is the default");
        assert_eq!(map.set_limit(1 << 20), 0);
        let first = map.fetch(&file, 0, 4096).unwrap().unwrap();
        assert_eq!(
            map.fetch(&file, 4096, 4096).unwrap(),
            None,
            "no margin behind it"
        );

        file.set_len(1 << 20).unwrap();
        map.written_to(1 << 20);
        assert_eq!(
            map.fetch(&file, 4096, 4096).unwrap(),
            None,
            "the map must not move now"
        );
        assert_eq!(map.set_limit(0), 1 << 20);
        assert_eq!(map.set_limit(-1), 1 << 20, "nor be given up");
        map.unmap();
        assert_eq!(map.fetch(&file, 0, 4096).unwrap(), Some(first));
        map.unfetch();
        map.unfetch();
        assert!(map.fetch(&file, 4096, 4096).unwrap().is_some());
    }

    #[test]
    fn nothing_behind_a_truncation_or_the_limit_is_lent() {
        let file = file_of(1 << 20);
        let mut map = FileMap::default();
        map.set_limit(65_536);
        assert!(map.fetch(&file, 32_768, 4096).unwrap().is_some());
        assert_eq!(map.fetch(&file, 65_536, 4096).unwrap(), None);
        assert_eq!(map.fetch(&file, u64::MAX, 4096).unwrap(), None);
        file.set_len(8192).unwrap();
        map.truncated_to(8192);
        assert_eq!(map.fetch(&file, 32_768, 4096).unwrap(), None);
        assert_eq!(map.set_limit(i64::MAX), 65_536);
        map.unfetch();
        map.set_limit(i64::MAX);
        assert_eq!(map.set_limit(-1), MAX_LIMIT_BYTES);
    }
}
