//! A fast hash for states; `checker.rs` remembers states by it.

use std::hash::{BuildHasherDefault, Hash, Hasher};

use crate::state::State;

/// Mixes bytes eight at a time; the states are our own, nobody attacks it.
#[derive(Default)]
struct Mixer {
    hash: u64,
    word: u64,
    bytes: u32,
}

impl Mixer {
    fn mix(&mut self, word: u64) {
        // 64 by 64 bits: never more than 128.
        let product =
            u128::from(self.hash ^ word ^ 0x9e37_79b9_7f4a_7c15) * 0xd6e8_feb8_6659_fd93_u128;
        self.hash = (product as u64) ^ ((product >> 64) as u64).rotate_left(23);
    }
}

impl Hasher for Mixer {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u8(byte));
    }

    fn write_u8(&mut self, byte: u8) {
        self.word = self.word << 8 | u64::from(byte);
        self.bytes += 1;
        if self.bytes & 7 == 0 {
            self.mix(self.word);
        }
    }

    fn write_isize(&mut self, discriminant: isize) {
        self.write_u8(discriminant as u8);
    }

    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        let mut last = Mixer {
            hash: self.hash,
            word: 0,
            bytes: 0,
        };
        last.mix(self.word ^ u64::from(self.bytes) << 56);
        last.hash
    }
}

/// Keys that are hashes already.
#[derive(Default)]
pub struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {}

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Sets and maps of such keys.
pub type Keyed = BuildHasherDefault<AsIs>;

/// The 64 bits by which a state is remembered.
pub fn key(state: &State) -> u64 {
    let mut mixer = Mixer::default();
    state.hash(&mut mixer);
    mixer.finish()
}
