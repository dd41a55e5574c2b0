//! Every limit of the format, with the reason for its number; the decoders refuse what exceeds them.

/// Length of a chunk: an aligned slice of the database file. One round trip brings 16 pages of 4 KiB, and 1 GB has 16,000 of them.
pub const CHUNK_LEN_BYTES: u32 = 65_536;

/// The largest file: sqlite's own limit of 4,294,967,294 pages of 65,536 bytes. Chunk counts therefore fit in 32 bits.
pub const FILE_LEN_MAX_BYTES: u64 = 4_294_967_294 * 65_536;

/// Frames in one pack: touching and collecting get 64 times cheaper than with one object per chunk, and a pack (at most about
/// 4 MiB of chunks) is still a single PUT.
pub const PACK_FRAMES_MAX: usize = 64;

/// Raw length of a node: 1,024 entries of at most 32 + 3 × 5 bytes, as many pack ids of 32 bytes, and the tags (79 KiB), rounded up.
pub const NODE_LEN_MAX_BYTES: usize = 128 * 1024;

/// Length of one frame: what zstd makes at worst of the longest node (an incompressible input grows by 1/256).
pub const FRAME_LEN_MAX_BYTES: u32 = 129 * 1024;

/// Length of a pack body.
pub const PACK_LEN_MAX_BYTES: usize = PACK_FRAMES_MAX * FRAME_LEN_MAX_BYTES as usize;

/// zstd level of every frame: 240 MB/s and a ratio of 2.2 on databases; higher levels gain little on 64 KiB.
pub const ZSTD_LEVEL: i32 = 3;

/// Chunks that a manifest lists without any node: 8 MiB of database, 5 KB of list.
pub const FLAT_CHUNKS_MAX: u32 = 128;

/// Entries of a leaf node: 64 MiB of database in about 46 KB.
pub const LEAF_ENTRIES: u32 = 1_024;

/// Leaf nodes that a manifest lists itself: 8 GiB of database in about 9 KB. Beyond, inner nodes list them.
pub const LEAVES_IN_MANIFEST_MAX: u32 = 128;

/// Leaf nodes that one inner node lists: 64 GiB of database. The largest file has 4,096 inner nodes.
pub const INNER_SLOTS: u32 = 1_024;

/// Entries that changed since their node was written, kept in the manifest: about 12 KB.
pub const OVERLAY_ENTRIES_MAX: u32 = 256;

/// Inline patches of an ordinary database, in raw bytes: about 30 KB of manifest.
pub const PATCH_BUDGET_BYTES: u32 = 64 * 1024;

/// Inline patches of a database that commits all the time: smaller manifests, as each commit uploads one.
pub const PATCH_BUDGET_BUSY_BYTES: u32 = 32 * 1024;

/// The largest budget that a caller may ask for, and therefore the most patch bytes in a manifest that a reader accepts.
pub const PATCH_BUDGET_MAX_BYTES: u32 = 256 * 1024;

/// The largest patch of one chunk. Half a chunk: beyond, the whole chunk in a pack costs little more, and only once.
pub const PATCH_LEN_MAX_BYTES: u32 = 32 * 1024;

/// What a patch costs against the budget beside its bytes (index, id, generation, ranges): bounds the number of patches.
pub const PATCH_OVERHEAD_BYTES: u32 = 64;

/// Patched chunks in one manifest: what the largest budget allows.
pub const PATCHES_MAX: usize = (PATCH_BUDGET_MAX_BYTES / PATCH_OVERHEAD_BYTES) as usize;

/// Ranges in one patch: every second page of the smallest page size (512 bytes) would be 64.
pub const PATCH_RANGES_MAX: usize = 128;

/// Smallest and largest page size of sqlite.
pub const PAGE_SIZE_MIN: u32 = 512;
/// See [`PAGE_SIZE_MIN`].
pub const PAGE_SIZE_MAX: u32 = 65_536;

/// Length of a whole manifest. The largest list (4,096 inner nodes, 320 KB), overlay, patches and hints together stay below.
pub const MANIFEST_LEN_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Length of the hints field, which readers of this version ignore.
pub const HINTS_LEN_MAX_BYTES: usize = 1024 * 1024;

/// Length of the path in a manifest: Linux's PATH_MAX, with room for odd file systems.
pub const PATH_LEN_MAX_BYTES: usize = 8 * 1024;

/// Length of a host name in a manifest: DNS allows 253.
pub const HOST_LEN_MAX_BYTES: usize = 1_024;

/// Length of the software version in a manifest.
pub const SOFTWARE_VERSION_LEN_MAX_BYTES: usize = 256;

/// Length of a key without the user's prefix: S3 allows 1,024 bytes, which leaves 124 for the prefix.
pub const KEY_LEN_MAX_BYTES: usize = 900;

/// Length of a key segment: 255 is the longest file name of a directory store, and a database's last segment ends in `@`.
pub const SEGMENT_LEN_MAX_BYTES: usize = 254;
