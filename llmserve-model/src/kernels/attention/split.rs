//! Where the keys and values of a split lie.

use std::sync::atomic::{AtomicBool, Ordering};

use llmserve_core::BlockId;

use super::format::{CHUNK, CHUNKS, KvFormat, SPLIT};
use crate::kernels::simd::LANES;
use crate::pages::PageShape;

/// One layer's pages, as one sequence and one KV head see them.
#[derive(Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) words: &'a [u32],
    pub(super) table: &'a [BlockId],
    pub(super) shape: PageShape,
    pub(super) kv_head: usize,
    /// Set when the table names a block that does not exist.
    pub(super) beyond: &'a AtomicBool,
}

/// The chunks of a split: where each one's keys and values begin in `words`.
///
/// Key word `w` of chunk `c` is the vector at `keys[c] + w * stride`, value row `r` the vectors from
/// `values[c] + r * head_dim` on. All of them lie within `words`, also where the last vector of a
/// row sticks out of it: the constructors see to that, and nobody else makes one.
pub(super) struct Split<'a> {
    words: &'a [u32],
    keys: [usize; CHUNKS],
    values: [usize; CHUNKS],
    stride: usize,
    key_words: usize,
    head_dim: usize,
    value_rows: usize,
    chunks: usize,
}

/// Words of memory that a [`gathered`](Head::gathered) split needs.
pub(super) fn gathered_len(shape: PageShape) -> usize {
    if shape.block_size.is_multiple_of(CHUNK) {
        return 0;
    }
    CHUNKS * (chunk_keys(shape) + chunk_values(shape)) + LANES
}

fn chunk_keys(shape: PageShape) -> usize {
    shape.key_words() * CHUNK
}

fn chunk_values(shape: PageShape) -> usize {
    CHUNK / shape.packed * shape.head_dim
}

impl<'a> Head<'a> {
    /// The block and the slot of a position, the block checked to exist.
    #[inline(always)]
    fn locate(&self, position: usize) -> (usize, usize) {
        let block = self.table[position / self.shape.block_size].index();
        let slot = position % self.shape.block_size;
        if block < self.shape.blocks {
            return (block, slot);
        }
        self.beyond.store(true, Ordering::Relaxed);
        (0, slot)
    }

    /// The first `len` positions of the split at `begin`, a multiple of [`SPLIT`]. Where blocks are
    /// whole chunks it is read where it lies, else `memory` receives a copy that looks the same.
    #[inline(always)]
    pub(super) fn split<'s, F: KvFormat>(
        &'s self,
        begin: usize,
        len: usize,
        memory: &'s mut [u32],
    ) -> Split<'s> {
        let len = len.min(SPLIT);
        if self.shape.block_size.is_multiple_of(CHUNK) {
            self.in_place(begin, len)
        } else {
            self.gathered::<F>(begin, len, memory)
        }
    }

    #[inline(always)]
    fn in_place(&self, begin: usize, len: usize) -> Split<'_> {
        let shape = self.shape;
        let (mut keys, mut values) = ([0; CHUNKS], [0; CHUNKS]);
        let chunks = len.div_ceil(CHUNK);
        for (chunk, (keys, values)) in keys.iter_mut().zip(&mut values).take(chunks).enumerate() {
            let (block, slot) = self.locate(begin + chunk * CHUNK);
            *keys = shape.keys(block, self.kv_head) + slot;
            *values = shape.values(block, self.kv_head) + slot / shape.packed * shape.head_dim;
        }
        Split::new(self.words, shape, shape.block_size, keys, values, chunks)
    }

    #[inline(never)]
    fn gathered<'s, F: KvFormat>(
        &self,
        begin: usize,
        len: usize,
        memory: &'s mut [u32],
    ) -> Split<'s> {
        let shape = self.shape;
        let (dim, size) = (shape.head_dim, shape.block_size);
        let all_keys = CHUNKS * chunk_keys(shape);
        for at in 0..len {
            let (block, slot) = self.locate(begin + at);
            let from = shape.keys(block, self.kv_head) + slot;
            let to = at / CHUNK * chunk_keys(shape) + at % CHUNK;
            for word in 0..shape.key_words() {
                memory[to + word * CHUNK] = self.words[from + word * size];
            }
            let from = shape.values(block, self.kv_head) + slot / F::PACKED * dim;
            let to = all_keys + at / F::PACKED * dim;
            let to = &mut memory[to..to + dim];
            for (to, from) in to.iter_mut().zip(&self.words[from..from + dim]) {
                *to = F::with_value(*to, at, F::value(*from, slot));
            }
        }
        let keys = std::array::from_fn(|chunk| chunk * chunk_keys(shape));
        let values = std::array::from_fn(|chunk| all_keys + chunk * chunk_values(shape));
        Split::new(memory, shape, CHUNK, keys, values, len.div_ceil(CHUNK))
    }
}

impl<'a> Split<'a> {
    #[inline(always)]
    fn new(
        words: &'a [u32],
        shape: PageShape,
        stride: usize,
        keys: [usize; CHUNKS],
        values: [usize; CHUNKS],
        chunks: usize,
    ) -> Self {
        let (key_words, head_dim) = (shape.key_words(), shape.head_dim);
        let value_rows = CHUNK / shape.packed;
        let last_key = key_words.saturating_sub(1) * stride + CHUNK;
        let last_value = (value_rows - 1) * head_dim + head_dim.next_multiple_of(LANES);
        for (keys, values) in keys.iter().zip(&values).take(chunks) {
            assert!(keys + last_key <= words.len() && values + last_value <= words.len());
        }
        Self {
            words,
            keys,
            values,
            stride,
            key_words,
            head_dim,
            value_rows,
            chunks,
        }
    }

    /// Words of a key.
    #[inline(always)]
    pub(super) fn key_words(&self) -> usize {
        self.key_words
    }

    /// Numbers of a value.
    #[inline(always)]
    pub(super) fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// From one key word to the next.
    #[inline(always)]
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// The first key word of a chunk; [`key_words`](Self::key_words) vectors can be read from there,
    /// [`stride`](Self::stride) apart.
    #[inline(always)]
    pub(super) fn keys(&self, chunk: usize) -> *const u32 {
        assert!(chunk < self.chunks);
        // SAFETY: within the slice, as `new` saw.
        unsafe { self.words.as_ptr().add(self.keys[chunk]) }
    }

    /// The first value row of a chunk. `CHUNK / packed` rows of [`head_dim`](Self::head_dim) words
    /// can be read from there, and beyond the last one as far as a vector sticks out of it.
    #[inline(always)]
    pub(super) fn values(&self, chunk: usize) -> *const u32 {
        assert!(chunk < self.chunks);
        // SAFETY: within the slice, as `new` saw.
        unsafe { self.words.as_ptr().add(self.values[chunk]) }
    }

    /// What is read after the keys of the first `chunk` of `chunks` chunks: the keys of another
    /// one, then values. Not to be read from.
    #[inline(always)]
    pub(super) fn after(&self, chunk: usize, chunks: usize) -> *const u32 {
        let start = match self.keys.get(chunk) {
            Some(keys) if chunk < chunks => *keys,
            _ => self.values[chunk.saturating_sub(chunks).min(CHUNKS - 1)],
        };
        self.words.as_ptr().wrapping_add(start)
    }

    /// Value row `row` of the split, with room behind it to fill its last vector.
    #[inline(always)]
    pub(super) fn row(&self, row: usize) -> &'a [u32] {
        let start = self.values[row / self.value_rows] + row % self.value_rows * self.head_dim;
        &self.words[start..start + self.head_dim.next_multiple_of(LANES)]
    }
}
