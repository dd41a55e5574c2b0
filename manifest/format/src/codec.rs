//! The bytes of a manifest: head, protobuf body, BLAKE3 of both; `wire` does the columns. Any bytes give a manifest or an error.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;

use crate::error::{FormatError, malformed, within};
use crate::generated as proto;
use crate::head::{HEAD_LEN_BYTES, Head, TAIL_LEN_BYTES};
use crate::ids::{ChunkId, ChunkIndex, Generation, chunk_count, chunk_len};
use crate::limits::{
    HINTS_LEN_MAX_BYTES, HOST_LEN_MAX_BYTES, MANIFEST_LEN_MAX_BYTES, PAGE_SIZE_MAX, PAGE_SIZE_MIN,
    PATCH_BUDGET_MAX_BYTES, PATCH_RANGES_MAX, PATCHES_MAX, PATH_LEN_MAX_BYTES,
    SOFTWARE_VERSION_LEN_MAX_BYTES,
};
use crate::list::{ChunkList, Shape};
use crate::manifest::{Identity, Manifest, SourceState};
use crate::node::{as_entry, node_refs};
use crate::pack::{compress, decode_frame};
use crate::patch::{Patch, PatchedRange};
use crate::wire::{
    PackTable, PackTableWriter, decode_gaps, decode_sparse, encode_gaps, encode_sparse, ids,
};

impl Manifest {
    /// The bytes of the manifest: head, body, hash.
    ///
    /// # Errors
    /// If the identity exceeds the limits, or zstd fails.
    pub fn encode(&self) -> Result<Vec<u8>, FormatError> {
        check_identity(&self.identity)?;
        let mut table = PackTableWriter::default();
        let nodes = self
            .list
            .nodes
            .iter()
            .map(|(slot, node)| (*slot, as_entry(node)));
        let nodes = encode_sparse(nodes, &mut table);
        let overlay = encode_sparse(
            self.list
                .overlay
                .iter()
                .map(|(index, entry)| (*index, *entry)),
            &mut table,
        );
        let body = proto::Body {
            software_version: self.identity.software_version.clone(),
            host: self.identity.host.clone(),
            path: self.identity.path.clone(),
            instance: self.identity.instance.to_vec(),
            page_size: self.source.page_size,
            change_counter: self.source.change_counter,
            mtime_ns: self.source.mtime_ns,
            ctime_ns: self.source.ctime_ns,
            packs: table.finish(),
            covered_chunks: self.list.covered,
            nodes: Some(nodes).filter(|list| !list.gaps.is_empty()),
            overlay: Some(overlay).filter(|list| !list.gaps.is_empty()),
            patches: encode_patches(&self.patches)?,
            hints: Vec::new(),
        };
        let body_len = body.encoded_len();
        within(
            "manifest length",
            body_len as u64,
            (MANIFEST_LEN_MAX_BYTES - HEAD_LEN_BYTES - TAIL_LEN_BYTES) as u64,
        )?;
        let head = Head {
            body_len: body_len as u32,
            ..self.head()
        };

        let mut bytes = Vec::with_capacity(HEAD_LEN_BYTES + body_len + TAIL_LEN_BYTES);
        bytes.extend_from_slice(&head.encode());
        bytes.extend_from_slice(&body.encode_to_vec());
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        Ok(bytes)
    }

    /// Reads and checks a whole manifest.
    ///
    /// # Errors
    /// If the bytes are damaged, contradict themselves or exceed a limit.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        Self::decode_shaped(bytes, Shape::FORMAT)
    }

    pub(crate) fn decode_shaped(bytes: &[u8], shape: Shape) -> Result<Self, FormatError> {
        let head = Head::decode(bytes)?;
        let (have, need) = (bytes.len() as u64, head.manifest_len());
        if have < need {
            return Err(FormatError::Truncated {
                what: "manifest",
                have,
                need,
            });
        }
        let (covered, hash) = bytes.split_at(bytes.len() - TAIL_LEN_BYTES);
        if have > need || blake3::hash(covered).as_bytes() != hash {
            return Err(FormatError::Damaged { what: "manifest" });
        }
        let body = proto::Body::decode(&covered[HEAD_LEN_BYTES..])
            .map_err(|_| malformed("manifest", "its body is not valid protobuf"))?;
        Self::from_body(&head, body, shape)
    }

    /// Any values give a manifest or an error.
    pub(crate) fn from_body(
        head: &Head,
        body: proto::Body,
        shape: Shape,
    ) -> Result<Self, FormatError> {
        let list = decode_list(head, &body, shape)?;
        let patches = match &body.patches {
            Some(patches) => decode_patches(head, patches)?,
            None => BTreeMap::new(),
        };
        within(
            "length of the hints",
            body.hints.len() as u64,
            HINTS_LEN_MAX_BYTES as u64,
        )?;
        if !page_size_is_possible(body.page_size) {
            return Err(malformed("manifest", "its page size is impossible"));
        }
        let source = SourceState {
            file_len: head.file_len,
            page_size: body.page_size,
            change_counter: body.change_counter,
            mtime_ns: body.mtime_ns,
            ctime_ns: body.ctime_ns,
            taken_ns: head.commit_time_ns,
        };
        let instance = body
            .instance
            .try_into()
            .map_err(|_| malformed("manifest", "its instance is not 16 bytes"))?;
        let identity = Identity {
            software_version: body.software_version,
            host: body.host,
            path: body.path,
            instance,
        };
        check_identity(&identity)?;
        Ok(Self {
            identity,
            source,
            generation: head.generation,
            list,
            patches,
        })
    }
}

/// 0 (unknown) or a power of two that sqlite allows.
pub(crate) fn page_size_is_possible(page_size: u32) -> bool {
    page_size == 0
        || (page_size.is_power_of_two() && (PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&page_size))
}

fn check_identity(identity: &Identity) -> Result<(), FormatError> {
    let version_len = identity.software_version.len();
    within(
        "length of the software version",
        version_len as u64,
        SOFTWARE_VERSION_LEN_MAX_BYTES as u64,
    )?;
    within(
        "length of the host name",
        identity.host.len() as u64,
        HOST_LEN_MAX_BYTES as u64,
    )?;
    within(
        "length of the path",
        identity.path.len() as u64,
        PATH_LEN_MAX_BYTES as u64,
    )
}

fn decode_list(head: &Head, body: &proto::Body, shape: Shape) -> Result<ChunkList, FormatError> {
    const WHAT: &str = "chunk list";
    // It fits, as the head was checked.
    let count = chunk_count(head.file_len) as u32;
    let covered = body.covered_chunks;
    let inner = shape.has_inner(count);
    // Slots that hold covered chunks; with inner nodes at most 4,096, else at most 128.
    let slots = u64::from(covered).div_ceil(shape.top_span(inner)) as u32;
    let slots_max = if inner {
        u64::from(u32::MAX).div_ceil(shape.top_span(true))
    } else {
        u64::from(shape.leaves_max)
    };
    let packs_max = slots_max as usize + shape.overlay_max as usize;
    if covered > count {
        return Err(malformed(WHAT, "nodes cover more chunks than the file has"));
    }
    if covered > 0 && count <= shape.flat_max {
        return Err(malformed(WHAT, "a small file has nodes"));
    }
    let table = PackTable::new(&body.packs, packs_max)?;
    let nodes = node_refs(decode_sparse(
        body.nodes.as_ref(),
        &table,
        slots_max as usize,
        slots,
    )?)?;
    let overlay = decode_sparse(
        body.overlay.as_ref(),
        &table,
        shape.overlay_max as usize,
        count,
    )?;
    if overlay.range(covered..).any(|(_, entry)| entry.is_zero()) {
        return Err(malformed(WHAT, "it lists a zero chunk that no node covers"));
    }
    Ok(ChunkList {
        shape,
        count,
        covered,
        inner,
        nodes,
        overlay,
    })
}

fn encode_patches(patches: &BTreeMap<u32, Patch>) -> Result<Option<proto::Patches>, FormatError> {
    if patches.is_empty() {
        return Ok(None);
    }
    let mut columns = proto::Patches {
        gaps: encode_gaps(patches.keys().copied()),
        ..Default::default()
    };
    let mut raw = Vec::new();
    for patch in patches.values() {
        columns.ids.extend_from_slice(&patch.id.0);
        columns.touched.push(patch.touched.0);
        columns.range_counts.push(patch.ranges.len() as u32);
        for range in &patch.ranges {
            columns.range_offsets.push(range.offset);
            columns.range_lens.push(range.bytes.len() as u32);
            raw.extend_from_slice(&range.bytes);
        }
    }
    if !raw.is_empty() {
        columns.frame = compress(&raw)?;
    }
    Ok(Some(columns))
}

fn decode_patches(
    head: &Head,
    columns: &proto::Patches,
) -> Result<BTreeMap<u32, Patch>, FormatError> {
    const WHAT: &str = "patches";
    let different = || malformed(WHAT, "the columns have different lengths");
    within(
        "number of patches",
        columns.gaps.len() as u64,
        PATCHES_MAX as u64,
    )?;
    let indexes = decode_gaps(&columns.gaps, chunk_count(head.file_len) as u32)?;
    let ids = ids(WHAT, &columns.ids)?;
    let ranges: u64 = columns.range_counts.iter().map(|&n| u64::from(n)).sum();
    let raw_len: u64 = columns.range_lens.iter().map(|&len| u64::from(len)).sum();
    within(
        "length of the patches",
        raw_len,
        u64::from(PATCH_BUDGET_MAX_BYTES),
    )?;
    let patch_columns = [ids.len(), columns.touched.len(), columns.range_counts.len()];
    let range_columns = [columns.range_offsets.len(), columns.range_lens.len()];
    if patch_columns != [indexes.len(); 3] || range_columns.map(|len| len as u64) != [ranges; 2] {
        return Err(different());
    }
    let raw = match (raw_len, columns.frame.as_slice()) {
        (0, []) => Bytes::new(),
        (0, _) => return Err(malformed(WHAT, "there are bytes, but no ranges")),
        (_, frame) => Bytes::from(decode_frame(frame, raw_len as usize)?),
    };
    if raw.len() as u64 != raw_len {
        return Err(malformed(
            WHAT,
            "there are fewer bytes than the ranges need",
        ));
    }

    let mut patches = BTreeMap::new();
    let mut places = columns.range_offsets.iter().zip(&columns.range_lens);
    let mut rest = raw;
    for (i, &index) in indexes.iter().enumerate() {
        let touched = Generation(columns.touched[i]);
        if touched > head.generation {
            return Err(malformed(WHAT, "one was changed by a later generation"));
        }
        let count = columns.range_counts[i] as usize;
        within(
            "number of ranges of a patch",
            count as u64,
            PATCH_RANGES_MAX as u64,
        )?;
        let (chunk_len, mut end) = (chunk_len(head.file_len, ChunkIndex(index)), None);
        let mut ranges = Vec::with_capacity(count);
        for (&offset, &len) in places.by_ref().take(count) {
            // Ranges that touch would have been one.
            if len == 0 || end.is_some_and(|end| offset <= end) {
                return Err(malformed(WHAT, "ranges overlap or are empty"));
            }
            let range_end = offset.checked_add(len).filter(|&end| end <= chunk_len);
            end = Some(range_end.ok_or(malformed(WHAT, "a range is beyond the end of its chunk"))?);
            ranges.push(PatchedRange {
                offset,
                bytes: rest.split_to(len as usize),
            });
        }
        patches.insert(
            index,
            Patch {
                id: ChunkId(ids[i]),
                touched,
                ranges,
            },
        );
    }
    Ok(patches)
}
