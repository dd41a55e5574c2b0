//! Files of three pages in two chunks, and the sum of log records; `state.rs` holds them.

/// A page that lies behind the end of the file.
pub const ABSENT: u8 = 14;
/// A page that nobody ever wrote, inside a file that was made longer: never a committed state.
pub const HOLE: u8 = 15;
/// Both chunks.
pub const ALL: u8 = 3;

/// Chunks of a set of pages.
pub fn chunks(pages: u8) -> u8 {
    u8::from(pages & 3 != 0) | (u8::from(pages & 4 != 0) << 1)
}

/// The chunk of a page.
pub fn chunk_of(page: usize) -> u8 {
    if page < 2 { 1 } else { 2 }
}

/// The bytes of a database file; counter and size are SQLite's header, a part of page 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Image {
    pub pages: [u8; 3],
    pub counter: u8,
    pub size: u8,
}

impl Image {
    pub fn is_long(&self) -> bool {
        self.pages[2] != ABSENT
    }

    /// Whether these bytes are the committed state: what lies behind the header's size says nothing.
    pub fn shows(&self, committed: &Image) -> bool {
        self.counter == committed.counter
            && self.size == committed.size
            && self.pages[..self.size as usize] == committed.pages[..self.size as usize]
    }
}

/// The sum of some records of the log: a record only replaces pages, so the last one wins.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Overlay {
    pub pages: u8,
    pub image: Image,
    /// The file's length after the last record.
    pub long: bool,
    /// Chunks with a full image in this generation.
    pub full: u8,
    /// A range of a chunk was logged without a full image before it.
    pub loose: bool,
}

impl Overlay {
    pub fn is_empty(&self) -> bool {
        self.pages == 0
    }

    pub fn add(&mut self, other: &Overlay) {
        if other.is_empty() {
            return;
        }
        for page in 0..3 {
            if other.pages >> page & 1 == 1 {
                self.image.pages[page] = other.image.pages[page];
            }
        }
        if other.pages & 1 == 1 {
            (self.image.counter, self.image.size) = (other.image.counter, other.image.size);
        }
        self.pages |= other.pages;
        self.long = other.long;
        self.full |= other.full;
        self.loose |= other.loose;
    }

    /// Replays the records over an image.
    pub fn put_over(&self, image: &mut Image) {
        if self.is_empty() {
            return;
        }
        for page in 0..3 {
            if self.pages >> page & 1 == 1 {
                image.pages[page] = self.image.pages[page];
            }
        }
        if self.pages & 1 == 1 {
            (image.counter, image.size) = (self.image.counter, self.image.size);
        }
        set_length(image, self.long);
    }
}

/// Gives an image the length: cut off, or with a hole where nobody wrote.
pub fn set_length(image: &mut Image, long: bool) {
    if !long {
        image.pages[2] = ABSENT;
    } else if image.pages[2] == ABSENT {
        image.pages[2] = HOLE;
    }
}
