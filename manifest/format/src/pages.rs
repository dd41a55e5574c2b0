//! What is remembered of a chunk's content without holding it: enough to see whether a patch would leave out something that has changed.
//! `step` asks; the copier keeps them from one publication to the next.

use std::ops::Range;

use crate::limits::PAGE_SIZE_MIN;

/// Bytes of BLAKE3 that are kept of a page: nobody finds two pages that agree in them.
const ID_LEN_BYTES: usize = 16;

/// Ids of the pages of one content of a chunk: a few hundred bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageIds {
    len: u32,
    page_size: u32,
    ids: Box<[[u8; ID_LEN_BYTES]]>,
}

/// Patched ranges consist of whole pages of at least this size.
pub(crate) fn patch_unit(page_size: u32) -> u32 {
    page_size.max(PAGE_SIZE_MIN)
}

impl PageIds {
    /// Of a chunk of a database with this page size (in bytes; 0 if it is not known).
    pub fn of(content: &[u8], page_size: u32) -> Self {
        let page_size = patch_unit(page_size);
        let id = |page: &[u8]| {
            let mut id = [0; ID_LEN_BYTES];
            id.copy_from_slice(&blake3::hash(page).as_bytes()[..ID_LEN_BYTES]);
            id
        };
        Self {
            len: content.len() as u32,
            page_size,
            ids: content.chunks(page_size as usize).map(id).collect(),
        }
    }

    /// Whether a content that differs from this one within `ranges` at most is the one of `new`; `None` if that can't be told. The ranges are
    /// ascending, and made of whole pages.
    pub(crate) fn agree_outside(&self, ranges: &[Range<u32>], new: &Self) -> Option<bool> {
        if self.page_size != new.page_size {
            return None;
        }
        let mut left_out = Vec::new();
        let mut from = 0;
        for range in ranges {
            left_out.push(from..range.start);
            from = range.end;
        }
        left_out.push(from..new.len);
        let mut pages = left_out
            .into_iter()
            .filter(|part| part.start < part.end)
            .flat_map(|part| (part.start / self.page_size)..part.end.div_ceil(self.page_size));
        let extent =
            |of: &Self, page: u32| (of.len.saturating_sub(page * of.page_size)).min(of.page_size);
        pages.try_fold(true, |agree, page| {
            if extent(self, page) != extent(new, page) {
                return None;
            }
            Some(agree && self.ids.get(page as usize)? == new.ids.get(page as usize)?)
        })
    }
}
