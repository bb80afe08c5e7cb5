//! The check word: a hash over a record's key and contents that tells a reader it copied one whole record.
//!
//! A hash map without preallocation may hand a freed element to another key while a program still reads it
//! (kernel commit 0fd7c5d43339, `bpf_mem_alloc`). The writer stores the hash, the reader recomputes it over its own
//! key and its copy; a mismatch means "look up again". Must not know any particular record.

/// A running hash. Mixing is a multiply and a rotate for each word: a few instructions in a kernel program.
#[derive(Clone, Copy, Debug)]
pub struct Mix(u32);

impl Mix {
    /// The start value: never the hash of all-zero contents.
    #[inline(always)]
    pub const fn new() -> Self {
        Self(0x9e37_79b9)
    }

    /// Adds one word.
    #[inline(always)]
    pub const fn word(self, word: u32) -> Self {
        Self((self.0 ^ word).wrapping_mul(0x85eb_ca6b).rotate_left(13))
    }

    /// The check word.
    #[inline(always)]
    pub const fn finish(self) -> u32 {
        self.0 ^ (self.0 >> 16)
    }
}

impl Default for Mix {
    fn default() -> Self {
        Self::new()
    }
}
