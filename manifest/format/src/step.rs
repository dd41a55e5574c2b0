//! One update in the making: each changed chunk becomes zeros, an inline patch (`patch`) or part of a pack, the coldest patches are
//! evicted, and the chunk list (`fold`) follows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;

use bytes::Bytes;

use crate::codec::page_size_is_possible;
use crate::entry::{Entry, Stored};
use crate::error::{FormatError, malformed, within};
use crate::ids::{ChunkId, ChunkIndex, Generation, chunk_count, chunk_len};
use crate::limits::{CHUNK_LEN_BYTES, FILE_LEN_MAX_BYTES, PACK_FRAMES_MAX};
use crate::list::Missing;
use crate::manifest::{Manifest, SourceState};
use crate::node::NodeSource;
use crate::pack::{Pack, PackBuilder};
use crate::pages::PageIds;
use crate::patch::{ChunkView, Patch, PatchBudget, PatchedRange, assemble, patched_ranges};
use crate::update::{Change, ChunkSource, UpdateError, Updated, Written};
use crate::wire::check_frame;

/// What is decided so far.
pub(crate) struct Step<'a> {
    old: &'a Manifest,
    source: SourceState,
    generation: Generation,
    count: u32,
    nodes: &'a dyn NodeSource,
    chunks: &'a dyn ChunkSource,
    budget: PatchBudget,
    /// New entries; `None` for the chunks in `to_pack`.
    entries: BTreeMap<u32, Option<Entry>>,
    /// The new manifest's patches.
    patches: BTreeMap<u32, Patch>,
    /// Whole contents of the chunks that got a new patch: eviction and the check of the patches need them.
    contents: BTreeMap<u32, Bytes>,
    /// Chunks that will be in new packs.
    to_pack: BTreeMap<u32, (ChunkId, Bytes)>,
}

impl<'a> Step<'a> {
    pub fn new(
        old: &'a Manifest,
        mut source: SourceState,
        nodes: &'a dyn NodeSource,
        chunks: &'a dyn ChunkSource,
        budget: PatchBudget,
    ) -> Result<Self, FormatError> {
        within("file length", source.file_len, FILE_LEN_MAX_BYTES)?;
        let next = old.generation.0.checked_add(1);
        let generation = Generation(next.ok_or(malformed("manifest", "no generation is left"))?);
        if !page_size_is_possible(source.page_size) {
            source.page_size = 0;
        }
        let count = chunk_count(source.file_len) as u32;
        let mut patches = old.patches.clone();
        patches.split_off(&count);
        let (entries, contents, to_pack) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Ok(Self {
            old,
            source,
            generation,
            count,
            nodes,
            chunks,
            budget,
            entries,
            patches,
            contents,
            to_pack,
        })
    }

    /// Decides for each changed chunk.
    pub fn apply(&mut self, changes: &BTreeMap<ChunkIndex, Change>) -> Result<(), UpdateError> {
        let given: Vec<(u32, &Change)> = changes
            .range(..ChunkIndex(self.count))
            .map(|(index, change)| (index.0, change))
            .collect();
        let resized: Vec<u32> = self
            .resized()
            .into_iter()
            .filter(|&index| !changes.contains_key(&ChunkIndex(index)))
            .collect();
        let by_content = given
            .iter()
            .filter(|(_, change)| matches!(change, Change::Bytes { .. }));
        let views = self.views(
            by_content
                .map(|(index, _)| *index)
                .chain(resized.iter().copied()),
        )?;

        let mut needed = Vec::new();
        for view in resized.iter().filter_map(|index| views.get(index)) {
            match self.content(view)? {
                Some(mut content) => {
                    content.resize(self.len(view.index) as usize, 0);
                    self.set_bytes(view, &content.into(), &Written::Ranges(Vec::new()))?;
                }
                None => needed.push((view.index, view.entry)),
            }
        }
        if !needed.is_empty() {
            return Err(UpdateError::NeedChunks(needed));
        }
        for (index, change) in given {
            match (change, views.get(&index)) {
                (Change::Bytes { bytes, written }, Some(view)) => {
                    self.set_bytes(view, bytes, written)?
                }
                (Change::Stored(entry), _) => self.set_stored(index, entry)?,
                // views() has all of them.
                (Change::Bytes { .. }, None) => {}
            }
        }
        Ok(())
    }

    /// Over the budget, the coldest patches (of equals, the first in the file) go into packs, down to half the budget.
    pub fn evict(&mut self) -> Result<(), UpdateError> {
        let budget = u64::from(self.budget.bytes());
        let mut cost: u64 = self.patches.values().map(Patch::cost).sum();
        if cost <= budget {
            return Ok(());
        }
        let mut coldest: Vec<(Generation, u32, u64)> = self
            .patches
            .iter()
            .map(|(&index, patch)| (patch.touched, index, patch.cost()))
            .collect();
        coldest.sort_unstable();
        let mut evicted = Vec::new();
        for (_, index, patch_cost) in coldest {
            if cost <= budget / 2 {
                break;
            }
            cost -= patch_cost;
            evicted.push(index);
        }

        let unchanged = evicted
            .iter()
            .copied()
            .filter(|index| !self.contents.contains_key(index));
        let views = self.views(unchanged)?;
        let mut needed = Vec::new();
        for view in views.values() {
            match self.content(view)? {
                Some(content) => {
                    self.contents.insert(view.index.0, content.into());
                }
                None => needed.push((view.index, view.entry)),
            }
        }
        if !needed.is_empty() {
            return Err(UpdateError::NeedChunks(needed));
        }
        for index in evicted {
            if let (Some(patch), Some(content)) =
                (self.patches.remove(&index), self.contents.remove(&index))
            {
                self.pack(index, patch.id, content);
            }
        }
        Ok(())
    }

    /// What was written without our seeing it is in no range: the pages that SQLite does not journal because they are free, for one, when a
    /// transaction of another VFS is rolled back. A patch that leaves out anything is of no use; its chunk goes into a pack.
    pub fn check_patches(&mut self) -> Result<(), UpdateError> {
        let views = self.views(self.contents.keys().copied())?;
        let (mut needed, mut useless) = (Vec::new(), Vec::new());
        for (&index, content) in &self.contents {
            let (Some(view), Some(patch)) = (views.get(&index), self.patches.get(&index)) else {
                continue;
            };
            match self.is_complete(view, patch, content)? {
                Some(true) => {}
                Some(false) => useless.push((index, patch.id, content.clone())),
                None => needed.push((view.index, view.entry)),
            }
        }
        if !needed.is_empty() {
            return Err(UpdateError::NeedChunks(needed));
        }
        for (index, id, content) in useless {
            self.patches.remove(&index);
            self.pack(index, id, content);
        }
        Ok(())
    }

    /// Whether the stored version and this new patch make `content`; `None` if the stored version has to be loaded to tell.
    fn is_complete(
        &self,
        view: &ChunkView<'_>,
        patch: &Patch,
        content: &Bytes,
    ) -> Result<Option<bool>, FormatError> {
        let range = |range: &PatchedRange| range.offset..range.offset + range.bytes.len() as u32;
        let ranges: Vec<Range<u32>> = patch.ranges.iter().map(range).collect();
        if ranges == [0..content.len() as u32] {
            return Ok(Some(true));
        }
        // The content in the old manifest differs from the stored version within these ranges only.
        let by_pages = [&view.id, &view.entry.id].into_iter().find_map(|id| {
            let known = self.chunks.pages(id)?;
            known.agree_outside(&ranges, &PageIds::of(content, self.source.page_size))
        });
        if by_pages.is_some() {
            return Ok(by_pages);
        }
        let stored = match self.chunks.stored(&view.entry.id) {
            _ if !view.needs_stored() => Vec::new(),
            None => return Ok(None),
            Some(stored) => {
                view.entry.verify(&stored)?;
                stored.into()
            }
        };
        let patched = ChunkView {
            id: patch.id,
            len: content.len() as u32,
            patch: Some(patch),
            ..*view
        };
        Ok(Some(assemble(&patched, stored).is_ok()))
    }

    /// Writes packs and nodes, and puts the manifest together.
    pub fn finish(self) -> Result<Updated, UpdateError> {
        let edit = self.old.list.edit(self.count, &self.entries, self.nodes)?;
        let (mut packs, packed) = write_packs(&self.to_pack)?;
        let edited = edit.finish(&packed)?;
        packs.extend(edited.packs);
        let manifest = Manifest {
            identity: self.old.identity.clone(),
            source: self.source,
            generation: self.generation,
            list: edited.list,
            patches: self.patches,
        };
        Ok(Updated {
            manifest,
            packs,
            nodes: edited.nodes,
        })
    }

    /// Length of a chunk in the new file.
    fn len(&self, index: ChunkIndex) -> u32 {
        chunk_len(self.source.file_len, index)
    }

    /// Chunks that both files have with different lengths: at most the last one of the shorter file.
    fn resized(&self) -> Option<u32> {
        let last = self.old.list.count.min(self.count).checked_sub(1)?;
        (chunk_len(self.old.source.file_len, ChunkIndex(last)) != self.len(ChunkIndex(last)))
            .then_some(last)
    }

    /// What the old manifest says of these chunks.
    fn views(
        &self,
        indexes: impl Iterator<Item = u32>,
    ) -> Result<BTreeMap<u32, ChunkView<'a>>, UpdateError> {
        let mut missing = Missing::default();
        let mut views = BTreeMap::new();
        for index in indexes {
            if let Some(view) = missing.note(self.old.chunk(ChunkIndex(index), self.nodes))? {
                views.insert(index, view);
            }
        }
        Ok(missing.into_result(views)?)
    }

    /// The content of a chunk in the old manifest; `None` if its stored version has to be loaded first.
    fn content(&self, view: &ChunkView<'_>) -> Result<Option<Vec<u8>>, FormatError> {
        if !view.needs_stored() {
            return assemble(view, Vec::new()).map(Some);
        }
        let Some(stored) = self.chunks.stored(&view.entry.id) else {
            return Ok(None);
        };
        view.entry.verify(&stored)?;
        assemble(view, stored.into()).map(Some)
    }

    fn set_bytes(
        &mut self,
        view: &ChunkView<'_>,
        bytes: &Bytes,
        written: &Written,
    ) -> Result<(), UpdateError> {
        let (index, len) = (view.index.0, self.len(view.index));
        if bytes.len() != len as usize {
            return Err(UpdateError::WrongLength {
                index: view.index,
                given: bytes.len() as u64,
                len,
            });
        }
        let id = ChunkId::of(bytes);
        if (id, len) == (view.id, view.len) {
            return Ok(());
        }
        let back_to_stored = id == view.entry.id && view.needs_stored();
        if back_to_stored || bytes.iter().all(|&byte| byte == 0) {
            self.patches.remove(&index);
            if !back_to_stored {
                self.set_zero(view);
            }
            return Ok(());
        }
        let ranges = patched_ranges(view.patch, view.len, written, len, self.source.page_size);
        let patched_len: u32 = ranges.iter().map(|range| range.end - range.start).sum();
        if patched_len > self.budget.patch_len_max() {
            self.patches.remove(&index);
            self.pack(index, id, bytes.clone());
            return Ok(());
        }
        if patched_len == len {
            // Nothing is left of the stored version.
            self.set_zero(view);
        }
        self.patches
            .insert(index, Patch::new(id, self.generation, &ranges, bytes));
        self.contents.insert(index, bytes.clone());
        Ok(())
    }

    fn set_zero(&mut self, view: &ChunkView<'_>) {
        if view.needs_stored() {
            self.entries
                .insert(view.index.0, Some(Entry::zero(CHUNK_LEN_BYTES)));
        }
    }

    fn set_stored(&mut self, index: u32, entry: &Entry) -> Result<(), UpdateError> {
        if let Stored::Frame(at) = &entry.stored {
            check_frame(at)?;
        }
        self.patches.remove(&index);
        self.entries.insert(index, Some(*entry));
        Ok(())
    }

    fn pack(&mut self, index: u32, id: ChunkId, bytes: Bytes) {
        self.entries.insert(index, None);
        self.to_pack.insert(index, (id, bytes));
    }
}

/// Packs chunks in the order of the file, each content once.
fn write_packs(
    chunks: &BTreeMap<u32, (ChunkId, Bytes)>,
) -> Result<(Vec<Pack>, BTreeMap<u32, Entry>), FormatError> {
    let mut packs = Vec::new();
    let mut places: HashMap<ChunkId, Entry> = HashMap::new();
    let mut seen = HashSet::new();
    let distinct: Vec<&(ChunkId, Bytes)> =
        chunks.values().filter(|(id, _)| seen.insert(*id)).collect();
    for group in distinct.chunks(PACK_FRAMES_MAX) {
        let mut builder = PackBuilder::new();
        for (_, bytes) in group {
            builder.push(bytes)?;
        }
        let pack = builder.finish();
        for ((id, _), at) in group.iter().zip(&pack.frames) {
            places.insert(
                *id,
                Entry {
                    id: *id,
                    stored: Stored::Frame(*at),
                },
            );
        }
        packs.push(pack);
    }
    let entries = chunks
        .iter()
        .filter_map(|(index, (id, _))| Some((*index, *places.get(id)?)))
        .collect();
    Ok((packs, entries))
}
