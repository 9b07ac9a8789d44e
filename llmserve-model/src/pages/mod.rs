//! The physical KV pages of the CPU backend.
//!
//! ```text
//!  one layer:  [ page 0 | page 1 | … ]            a page holds `block_size` positions (slots)
//!  one page:   keys    [kv head][dimension][slot]     scores of 16 slots are one vector
//!              values  [kv head][slot][dimension]     16 dimensions of the output are one vector
//! ```
//!
//! A block id names the same page in every layer; to others a page is the bytes of all layers, one
//! after the other. Memory is zeroed lazily: a page nobody has written costs none.

use llmserve_core::{BlockId, GroupId, ModelError, PageStore};

use crate::decoder::DType;
use crate::kernels::buffer::{Buffer, Number, bytes_of, bytes_of_mut};

#[cfg(test)]
mod tests;

/// Sizes of the pages of one layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PageShape {
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) block_size: usize,
    pub(crate) blocks: usize,
}

impl PageShape {
    /// Numbers in a page of one layer.
    #[inline(always)]
    pub(crate) fn page(&self) -> usize {
        2 * self.half()
    }

    /// Numbers of a page's keys, and of its values.
    #[inline(always)]
    fn half(&self) -> usize {
        self.kv_heads * self.head_dim * self.block_size
    }

    /// Where the keys of a head begin; dimension `d` of slot `s` is `d * block_size + s` further.
    #[inline(always)]
    pub(crate) fn keys(&self, block: usize, head: usize) -> usize {
        block * self.page() + head * self.head_dim * self.block_size
    }

    /// Where the values of a head begin; dimension `d` of slot `s` is `s * head_dim + d` further.
    #[inline(always)]
    pub(crate) fn values(&self, block: usize, head: usize) -> usize {
        self.keys(block, head) + self.half()
    }
}

/// The pages of all layers.
#[derive(Debug)]
pub(crate) struct Pages {
    shape: PageShape,
    pub(crate) layers: Layers,
}

/// One buffer a layer, by how numbers are stored.
#[derive(Debug)]
pub(crate) enum Layers {
    F32(Vec<Buffer<f32>>),
    Bf16(Vec<Buffer<u16>>),
}

/// The part of a block's identity that says how its numbers lie.
pub(crate) fn layout_name(dtype: DType) -> String {
    let order = if cfg!(target_endian = "big") {
        "be"
    } else {
        "le"
    };
    format!("cpu/{dtype}-{order}/k:head,dim,slot/v:head,slot,dim")
}

impl Pages {
    /// No pages at all: what a model has before it is prepared.
    pub(crate) fn none() -> Self {
        Self {
            shape: PageShape::default(),
            layers: Layers::F32(Vec::new()),
        }
    }

    pub(crate) fn new(shape: PageShape, layers: usize, dtype: DType) -> Result<Self, ModelError> {
        Ok(Self {
            shape,
            layers: match dtype {
                DType::F32 => Layers::F32(allocate(shape, layers)?),
                _ => Layers::Bf16(allocate(shape, layers)?),
            },
        })
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

fn allocate<T: Number>(shape: PageShape, layers: usize) -> Result<Vec<Buffer<T>>, ModelError> {
    let len = [
        shape.kv_heads,
        shape.head_dim,
        shape.block_size,
        shape.blocks,
    ]
    .into_iter()
    .try_fold(2usize, usize::checked_mul);
    let layer = || len.and_then(Buffer::try_zeroed);
    (0..layers)
        .map(|_| layer())
        .collect::<Option<_>>()
        .ok_or_else(|| {
            ModelError::Prepare(format!(
                "no memory for {} KV blocks of {} tokens in {layers} layers: ask for fewer",
                shape.blocks, shape.block_size
            ))
        })
}

fn copy_page<T: Number>(shape: PageShape, layer: &mut [T], from: usize, to: usize, slots: usize) {
    for head in 0..shape.kv_heads {
        let (source, target) = (shape.keys(from, head), shape.keys(to, head));
        for dim in 0..shape.head_dim {
            let row = dim * shape.block_size;
            layer.copy_within(source + row..source + row + slots, target + row);
        }
        let source = shape.values(from, head);
        layer.copy_within(
            source..source + slots * shape.head_dim,
            shape.values(to, head),
        );
    }
}

impl PageStore for Pages {
    fn page_bytes(&self, group: GroupId) -> usize {
        match &self.layers {
            _ if group != GroupId::MAIN => 0,
            Layers::F32(layers) => layers.len() * self.shape.page() * size_of::<f32>(),
            Layers::Bf16(layers) => layers.len() * self.shape.page() * size_of::<u16>(),
        }
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
        match &mut self.layers {
            Layers::F32(layers) => layers
                .iter_mut()
                .for_each(|layer| copy_page(shape, layer, from, to, slots)),
            Layers::Bf16(layers) => layers
                .iter_mut()
                .for_each(|layer| copy_page(shape, layer, from, to, slots)),
        }
        Ok(())
    }

    fn read(&self, group: GroupId, block: BlockId, out: &mut Vec<u8>) -> Result<(), ModelError> {
        self.check(group, block)?;
        let page = self.shape.page();
        let range = block.index() * page..(block.index() + 1) * page;
        out.reserve(self.page_bytes(group));
        match &self.layers {
            Layers::F32(layers) => layers
                .iter()
                .for_each(|layer| out.extend_from_slice(bytes_of(&layer[range.clone()]))),
            Layers::Bf16(layers) => layers
                .iter()
                .for_each(|layer| out.extend_from_slice(bytes_of(&layer[range.clone()]))),
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
        match &mut self.layers {
            Layers::F32(layers) => {
                let parts = bytes.chunks_exact(page * size_of::<f32>());
                for (layer, part) in layers.iter_mut().zip(parts) {
                    bytes_of_mut(&mut layer[range.clone()]).copy_from_slice(part);
                }
            }
            Layers::Bf16(layers) => {
                let parts = bytes.chunks_exact(page * size_of::<u16>());
                for (layer, part) in layers.iter_mut().zip(parts) {
                    bytes_of_mut(&mut layer[range.clone()]).copy_from_slice(part);
                }
            }
        }
        Ok(())
    }
}
