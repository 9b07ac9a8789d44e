//! Keys and values of a step's tokens, into their pages.

use std::marker::PhantomData;

use super::Projections;
use super::format::KvFormat;
use crate::kernels::rope::RopeTable;
use crate::kernels::simd::Simd;
use crate::kernels::{Kernel, Level};
use crate::threads::{Disjoint, TaskPanicked, ThreadTeam};

/// Where a token's key and value go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) block: u32,
    pub(crate) slot: u32,
    pub(crate) position: u32,
}

/// Writes the rotated keys, and the values, of all tokens into `layer`.
pub(crate) fn write_kv<F: KvFormat>(
    team: &mut ThreadTeam,
    level: Level,
    projections: Projections<'_>,
    slots: &[Slot],
    rope: &RopeTable,
    layer: &mut [u32],
) -> Result<(), TaskPanicked> {
    let shape = projections.shape;
    let layer = Disjoint::new(layer);
    let kv_heads = shape.kv_heads;
    let write = |kv_head, share, shares| {
        level.run(Write {
            projections,
            slots,
            rope,
            layer,
            kv_head,
            share,
            shares,
            format: PhantomData::<F>,
        });
    };
    // Waking threads costs more than a few thousand numbers.
    if slots.len() * kv_heads * shape.head_dim < 4096 {
        return team.run(1, |_, _| (0..kv_heads).for_each(|head| write(head, 0, 1)));
    }
    let shares = (2 * team.threads()).div_ceil(kv_heads);
    team.run(kv_heads * shares, |task, _| {
        write(task % kv_heads, task / kv_heads, shares);
    })
}

/// One head, in every `shares`-th page: two tasks never have a word in common, not even if two
/// sequences write the same page.
struct Write<'a, F> {
    projections: Projections<'a>,
    slots: &'a [Slot],
    rope: &'a RopeTable,
    layer: Disjoint<'a, u32>,
    kv_head: usize,
    share: usize,
    shares: usize,
    format: PhantomData<F>,
}

impl<F: KvFormat> Kernel for Write<'_, F> {
    const BF16: bool = F::PACKED == 2;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut token = 0;
        while let Some(slot) = self.slots.get(token) {
            if slot.block as usize % self.shares != self.share {
                token += 1;
                continue;
            }
            self.key(s, token, slot);
            let next = self.slots.get(token + 1);
            let odd = next.filter(|next| next.block == slot.block && next.slot == slot.slot + 1);
            if F::PACKED == 2
                && slot.slot.is_multiple_of(2)
                && let Some(next) = odd
            {
                self.key(s, token + 1, next);
                self.values(s, slot, Some(token), Some(token + 1));
                token += 2;
            } else if F::PACKED == 1 || slot.slot.is_multiple_of(2) {
                self.values(s, slot, Some(token), None);
                token += 1;
            } else {
                self.values(s, slot, None, Some(token));
                token += 1;
            }
        }
    }
}

impl<F: KvFormat> Write<'_, F> {
    #[inline(always)]
    fn key<S: Simd>(&self, s: S, token: usize, slot: &Slot) {
        let shape = self.projections.shape;
        let half = shape.head_dim / 2;
        let x = self
            .projections
            .head(token, self.projections.heads + self.kv_head);
        let start = shape.keys(slot.block as usize, self.kv_head) + slot.slot as usize;
        self.rope
            .rotate(s, slot.position as usize, x, |at, first, second| {
                F::keys(s, first, second, half, |offset, words| {
                    for (word, x) in words.into_iter().take(half - at).enumerate() {
                        let to = start + (at + offset + word) * shape.block_size;
                        // SAFETY: a head's part of a page belongs to one task alone.
                        unsafe { self.layer.write(to, x) };
                    }
                });
            });
    }

    /// Values of the tokens whose slots share the words of `slot`.
    #[inline(always)]
    fn values<S: Simd>(&self, s: S, slot: &Slot, even: Option<usize>, odd: Option<usize>) {
        let shape = self.projections.shape;
        let head = self.projections.heads + shape.kv_heads + self.kv_head;
        let value = |token| self.projections.head(token, head);
        let row = slot.slot as usize / F::PACKED * shape.head_dim;
        let start = shape.values(slot.block as usize, self.kv_head) + row;
        // SAFETY: a head's part of a page belongs to one task alone.
        let words = unsafe { self.layer.part(start..start + shape.head_dim) };
        F::values(s, even.map(value), odd.map(value), words);
    }
}
