//! Ragged batches of sequences whose projections are all known.

use super::super::*;
use crate::config::{RopeConfig, RopeScaling};
use crate::kernels::levels;
use crate::kernels::rope::frequencies;

pub(super) fn noise(len: usize, seed: u32) -> Vec<f32> {
    let mut state = seed.wrapping_mul(2_654_435_761) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            (state as f32 / u32::MAX as f32 - 0.5) * 4.0
        })
        .collect()
}

/// Heads, and the projections of each sequence, token by token.
#[derive(Clone)]
pub(super) struct Case {
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) sequences: Vec<Vec<f32>>,
}

/// How a case is computed.
#[derive(Clone, Copy)]
pub(super) struct How {
    pub(super) level: Level,
    pub(super) threads: usize,
    pub(super) block_size: usize,
}

pub(super) fn plainly() -> impl Iterator<Item = How> {
    levels().into_iter().map(|level| How {
        level,
        threads: 1,
        block_size: 16,
    })
}

impl Case {
    pub(super) fn new(
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
        lens: &[usize],
        seed: u32,
    ) -> Self {
        let width = (heads + 2 * kv_heads) * head_dim;
        let noise = |(sequence, len): (usize, &usize)| {
            noise(len * width, seed.wrapping_add(sequence as u32 * 977))
        };
        Self {
            heads,
            kv_heads,
            head_dim,
            sequences: lens.iter().enumerate().map(noise).collect(),
        }
    }

    pub(super) fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    pub(super) fn len(&self, sequence: usize) -> usize {
        self.sequences[sequence].len() / self.width()
    }

    pub(super) fn frequencies(&self) -> Vec<f32> {
        let rope = RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        };
        frequencies(&rope, self.head_dim)
    }

    /// Every sequence at once.
    pub(super) fn whole(&self) -> Vec<Vec<usize>> {
        let each = 0..self.sequences.len();
        vec![each.map(|sequence| self.len(sequence)).collect()]
    }

    /// Row-major outputs of all tokens of each sequence, computed in `steps`: of each sequence, how
    /// many tokens.
    pub(super) fn run<F: KvFormat>(&self, how: How, steps: &[Vec<usize>]) -> Vec<Vec<f32>> {
        let How {
            level,
            threads,
            block_size,
        } = how;
        let count = self.sequences.len();
        let longest = (0..count).map(|i| self.len(i)).max().unwrap();
        let used = longest.div_ceil(block_size);
        let shape = PageShape {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_size,
            blocks: used * count + 2,
            packed: F::PACKED,
        };
        // Backwards, in turn, and not from block 0 on.
        let table = |sequence| -> Vec<BlockId> {
            let block = |i| BlockId(((used - i) * count - sequence) as u32);
            (0..used).map(block).collect()
        };
        let tables: Vec<_> = (0..count).map(table).collect();
        // Whatever lies in slots that were never written must not matter.
        let mut layer = vec![u32::MAX; shape.page() * shape.blocks + 16];
        let mut rope = RopeTable::try_new(&self.frequencies(), longest).unwrap();
        (0..longest).for_each(|position| rope.prepare(position));
        let geometry = Geometry {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            tile: level.tile_rows(crate::kernels::format::Format::Bf16),
            threads,
        };
        let tokens = steps.iter().map(|step| step.iter().sum()).max().unwrap();
        let mut agenda = Agenda::new(geometry, tokens, count, longest);
        let mut workspace = Workspace::try_new(geometry, shape, count, longest).unwrap();
        // Nor what an earlier step left behind.
        workspace.numbers.fill(f32::NAN);
        workspace.records.fill(f32::NAN);
        workspace.words.fill(u32::MAX);
        let mut team = ThreadTeam::new(threads).unwrap();
        let outputs = self.heads * self.head_dim;
        let mut all = vec![Vec::new(); count];
        let mut at = vec![0; count];
        for step in steps {
            let (mut data, mut slots, mut rows, mut step_tables) =
                (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for (sequence, &len) in step.iter().enumerate().filter(|(_, len)| **len > 0) {
                let start = at[sequence];
                let width = self.width();
                data.extend(&self.sequences[sequence][start * width..(start + len) * width]);
                slots.extend((start..start + len).map(|position| Slot {
                    block: tables[sequence][position / block_size].0,
                    slot: (position % block_size) as u32,
                    position: position as u32,
                }));
                rows.push((len, start));
                step_tables.push(tables[sequence].as_slice());
                at[sequence] += len;
            }
            let projections = Projections {
                data: &data,
                heads: self.heads,
                shape,
            };
            write_kv::<F>(&mut team, level, projections, &slots, &rope, &mut layer).unwrap();
            agenda.fill(rows.iter().copied());
            let context = Context {
                tables: &step_tables,
                beyond: &AtomicBool::new(false),
                rope: &rope,
                layer: &layer,
            };
            let mut out = vec![f32::NAN; slots.len() * outputs];
            attend::<F>(
                &mut team,
                level,
                &agenda,
                projections,
                &context,
                &mut workspace,
                &mut out,
            )
            .unwrap();
            let mut rest = out.as_slice();
            for (sequence, len) in step.iter().enumerate() {
                let (mine, others) = rest.split_at(len * outputs);
                all[sequence].extend(mine);
                rest = others;
            }
        }
        for (sequence, at) in at.into_iter().enumerate() {
            assert_eq!(at, self.len(sequence));
        }
        all
    }
}

/// Whether all numbers are the same, bit for bit.
pub(super) fn same(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    let bits = |all: &[Vec<f32>]| -> Vec<Vec<u32>> {
        let row = |row: &Vec<f32>| row.iter().map(|x| x.to_bits()).collect();
        all.iter().map(row).collect()
    };
    bits(a) == bits(b)
}
