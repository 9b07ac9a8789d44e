//! The physical KV pages of the CPU backend.
//!
//! ```text
//!  one layer:  [ page 0 | page 1 | … ]         a page holds `block_size` positions (slots)
//!
//!  one page, of words:
//!   f32   keys    [kv head][dimension][slot]        scores of 16 slots are one vector
//!         values  [kv head][slot][dimension]        16 dimensions of the output are one vector
//!   bf16  keys    [kv head][dimension, below half][slot]      a word: the dimension and the one
//!                                                             half the head's dimensions further
//!         values  [kv head][slot / 2][dimension]              a word: the even slot, the odd slot
//! ```
//!
//! Two bf16 numbers share a word, the first in its low half, as dot products of bf16 want them. If
//! blocks have an odd number of slots, the last value words of a page are half empty.
//!
//! A block id names the same page in every layer; to others a page is the bytes of all layers, one
//! after the other. Memory is zeroed lazily: a page nobody has written costs none.

use llmserve_core::{BlockId, GroupId, ModelError, PageStore};

use crate::decoder::DType;
use crate::kernels::buffer::{Buffer, bytes_of, bytes_of_mut};
use crate::kernels::simd::LANES;

#[cfg(test)]
mod tests;

/// Sizes of the pages of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageShape {
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) block_size: usize,
    pub(crate) blocks: usize,
    /// Numbers in a word: 1 or 2.
    pub(crate) packed: usize,
}

impl PageShape {
    /// Words in a page of one layer.
    #[inline(always)]
    pub(crate) fn page(&self) -> usize {
        self.kv_heads * (self.head_keys() + self.head_values())
    }

    /// Words of a key.
    #[inline(always)]
    pub(crate) fn key_words(&self) -> usize {
        self.head_dim / self.packed
    }

    /// Words of the keys of one head in a page.
    #[inline(always)]
    fn head_keys(&self) -> usize {
        self.key_words() * self.block_size
    }

    /// Words of the values of one head in a page.
    #[inline(always)]
    fn head_values(&self) -> usize {
        self.block_size.div_ceil(self.packed) * self.head_dim
    }

    /// Where the keys of a head begin; word `w` of slot `s` is `w * block_size + s` further.
    #[inline(always)]
    pub(crate) fn keys(&self, block: usize, head: usize) -> usize {
        block * self.page() + head * self.head_keys()
    }

    /// Where the values of a head begin; dimension `d` of slot `s` is in the word
    /// `s / packed * head_dim + d` further.
    #[inline(always)]
    pub(crate) fn values(&self, block: usize, head: usize) -> usize {
        block * self.page() + self.kv_heads * self.head_keys() + head * self.head_values()
    }

    /// Words of a layer: its pages, and room for a vector that begins in the last one and sticks
    /// out of it.
    pub(crate) fn layer(&self) -> Option<usize> {
        let keys = self.key_words().checked_mul(self.block_size)?;
        let values = self.block_size.div_ceil(self.packed);
        let values = values.checked_mul(self.head_dim)?;
        [self.kv_heads, self.blocks]
            .into_iter()
            .try_fold(keys.checked_add(values)?, usize::checked_mul)?
            .checked_add(LANES)
    }
}

/// The pages of all layers.
#[derive(Debug)]
pub(crate) struct Pages {
    shape: PageShape,
    /// Words, one buffer a layer.
    pub(crate) layers: Vec<Buffer<u32>>,
}

/// How many numbers a word holds, keys and values being stored as `dtype`: [`DType::F32`] or
/// [`DType::BF16`].
pub(crate) fn packed(dtype: DType) -> usize {
    match dtype {
        DType::F32 => 1,
        _ => 2,
    }
}

/// The part of a block's identity that says how its numbers lie.
pub(crate) fn layout_name(dtype: DType) -> String {
    let order = if cfg!(target_endian = "big") {
        "be"
    } else {
        "le"
    };
    let lie = match dtype {
        DType::F32 => "k:head,dim,slot/v:head,slot,dim",
        _ => "k:head,dim%half,slot,dim/half/v:head,slot/2,dim,slot%2",
    };
    format!("cpu/{dtype}-{order}/{lie}")
}

impl Pages {
    /// Bytes of all pages, those never written as well.
    pub(crate) fn bytes(&self) -> usize {
        self.layers.iter().map(|layer| size_of_val(&**layer)).sum()
    }

    /// No pages at all: what a model has before it is prepared.
    pub(crate) fn none() -> Self {
        Self {
            shape: PageShape::default(),
            layers: Vec::new(),
        }
    }

    pub(crate) fn new(shape: PageShape, layers: usize) -> Result<Self, ModelError> {
        let len = shape.layer();
        let layer = || len.and_then(Buffer::try_zeroed);
        let layers = (0..layers)
            .map(|_| layer())
            .collect::<Option<_>>()
            .ok_or_else(|| {
                ModelError::Prepare(format!(
                    "no memory for {} KV blocks of {} tokens in {layers} layers: ask for fewer",
                    shape.blocks, shape.block_size
                ))
            })?;
        Ok(Self { shape, layers })
    }

    pub(crate) fn shape(&self) -> PageShape {
        self.shape
    }

    fn check(&self, group: GroupId, block: BlockId) -> Result<(), ModelError> {
        if group != GroupId::MAIN {
            return Err(ModelError::InvalidBatch(format!(
                "{group:?} does not exist; the model has one group, {:?}",
                GroupId::MAIN
            )));
        }
        if block.index() >= self.shape.blocks {
            return Err(ModelError::InvalidBatch(format!(
                "{block:?} does not exist; there are {} blocks",
                self.shape.blocks
            )));
        }
        Ok(())
    }
}

fn copy_page(shape: PageShape, layer: &mut [u32], from: usize, to: usize, slots: usize) {
    let dim = shape.head_dim;
    let (whole, shared) = (slots / shape.packed * dim, slots % shape.packed);
    for head in 0..shape.kv_heads {
        let (source, target) = (shape.keys(from, head), shape.keys(to, head));
        for word in 0..shape.key_words() {
            let row = word * shape.block_size;
            layer.copy_within(source + row..source + row + slots, target + row);
        }
        let (source, target) = (shape.values(from, head), shape.values(to, head));
        layer.copy_within(source..source + whole, target);
        if shared > 0 {
            // The last slot copied shares its words with one that is not.
            for at in whole..whole + dim {
                let even = layer[source + at] & 0xffff;
                layer[target + at] = (layer[target + at] & 0xffff_0000) | even;
            }
        }
    }
}

impl PageStore for Pages {
    fn page_bytes(&self, group: GroupId) -> usize {
        if group != GroupId::MAIN {
            return 0;
        }
        self.layers.len() * self.shape.page() * size_of::<u32>()
    }

    fn copy(
        &mut self,
        group: GroupId,
        from: BlockId,
        to: BlockId,
        slots: usize,
    ) -> Result<(), ModelError> {
        self.check(group, from)?;
        self.check(group, to)?;
        let shape = self.shape;
        if slots > shape.block_size {
            return Err(ModelError::InvalidBatch(format!(
                "{slots} slots to copy; a block has {}",
                shape.block_size
            )));
        }
        let (from, to) = (from.index(), to.index());
        for layer in &mut self.layers {
            copy_page(shape, layer, from, to, slots);
        }
        Ok(())
    }

    fn read(&self, group: GroupId, block: BlockId, out: &mut Vec<u8>) -> Result<(), ModelError> {
        self.check(group, block)?;
        let page = self.shape.page();
        let range = block.index() * page..(block.index() + 1) * page;
        out.reserve(self.page_bytes(group));
        for layer in &self.layers {
            out.extend_from_slice(bytes_of(&layer[range.clone()]));
        }
        Ok(())
    }

    fn write(&mut self, group: GroupId, block: BlockId, bytes: &[u8]) -> Result<(), ModelError> {
        self.check(group, block)?;
        let expected = self.page_bytes(group);
        if bytes.len() != expected {
            return Err(ModelError::InvalidBatch(format!(
                "{} bytes for a page of {expected}",
                bytes.len()
            )));
        }
        let page = self.shape.page();
        let range = block.index() * page..(block.index() + 1) * page;
        // The pages of a model without layers have no bytes.
        let parts = bytes.chunks_exact((page * size_of::<u32>()).max(1));
        for (layer, part) in self.layers.iter_mut().zip(parts) {
            bytes_of_mut(&mut layer[range.clone()]).copy_from_slice(part);
        }
        Ok(())
    }
}
