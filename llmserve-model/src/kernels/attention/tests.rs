use super::*;
use crate::config::{RopeConfig, RopeScaling};
use crate::kernels::levels;
use crate::kernels::rope::frequencies;
use proptest::prelude::*;

fn noise(len: usize, seed: u32) -> Vec<f32> {
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

/// One sequence whose projections are all known, computed in the chunks given.
struct Case {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    len: usize,
    seed: u32,
}

impl Case {
    fn width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }

    fn rope(&self) -> RopeTable {
        let rope = RopeConfig {
            theta: 10_000.0,
            scaling: RopeScaling::None,
        };
        let mut table = RopeTable::try_new(&frequencies(&rope, self.head_dim), self.len).unwrap();
        (0..self.len).for_each(|position| table.prepare(position));
        table
    }

    /// Row-major outputs of all tokens.
    fn run<E: KvNumber>(
        &self,
        level: Level,
        threads: usize,
        block_size: usize,
        chunks: &[usize],
    ) -> Vec<f32> {
        let mut team = ThreadTeam::new(threads).unwrap();
        let data = noise(self.len * self.width(), self.seed);
        let used = self.len.div_ceil(block_size);
        let shape = PageShape {
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            block_size,
            blocks: used + 2,
        };
        // Backwards, and not from block 0 on.
        let table: Vec<_> = (0..used).map(|i| BlockId((used - i) as u32)).collect();
        // Whatever lies in slots that were never written must not matter.
        let mut layer = vec![E::narrow(f32::NAN); shape.page() * shape.blocks];
        let rope = self.rope();
        let mut scratch = vec![0.0; threads * scratch_len(self.head_dim)];
        let outputs = self.heads * self.head_dim;
        let mut all = Vec::new();
        let mut start = 0;
        for &chunk in chunks {
            let tiling = Tiling::new(chunk, level.tile_rows());
            let projections = Projections {
                data: &data[start * self.width()..(start + chunk) * self.width()],
                heads: self.heads,
                shape,
            };
            let slots: Vec<_> = (start..start + chunk)
                .map(|position| Slot {
                    block: table[position / block_size].0,
                    slot: (position % block_size) as u32,
                    position: position as u32,
                })
                .collect();
            write_kv(&mut team, projections, &slots, &rope, &mut layer).unwrap();
            let each = span_len(self.heads, self.kv_heads);
            let spans: Vec<_> = (0..chunk)
                .step_by(each)
                .map(|first| Span {
                    row: 0,
                    first,
                    len: each.min(chunk - first),
                    position: start + first,
                })
                .collect();
            let context = Context {
                spans: &spans,
                tables: &[&table],
                beyond: &AtomicBool::new(false),
                rope: &rope,
                layer: &layer,
            };
            let mut out = vec![0.0; chunk * outputs];
            attend(
                &mut team,
                level,
                projections,
                &context,
                tiling,
                &mut scratch,
                &mut out,
            )
            .unwrap();
            for row in 0..chunk {
                let place = tiling.place(row, outputs);
                all.extend((0..outputs).map(|k| out[place.start + k * place.step]));
            }
            start += chunk;
        }
        assert_eq!(start, self.len);
        all
    }

    /// The definition, in double precision.
    fn naive(&self) -> Vec<f64> {
        let data = noise(self.len * self.width(), self.seed);
        let rope = self.rope();
        let (dim, shared) = (self.head_dim, self.heads / self.kv_heads);
        let head = |token: usize, head: usize, rotated: bool| -> Vec<f64> {
            let at = token * self.width() + head * dim;
            let x = &data[at..at + dim];
            let mut out = vec![0.0; dim];
            match rotated {
                true => rope.rotate(token, x, |d, x| out[d] = f64::from(x)),
                false => (0..dim).for_each(|d| out[d] = f64::from(x[d])),
            }
            out
        };
        let mut all = Vec::new();
        for token in 0..self.len {
            for query in 0..self.heads {
                let kv = query / shared;
                let q = head(token, query, true);
                let scores: Vec<f64> = (0..=token)
                    .map(|t| {
                        let k = head(t, self.heads + kv, true);
                        let dot: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
                        dot / (dim as f64).sqrt()
                    })
                    .collect();
                let peak = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|s| (s - peak).exp()).collect();
                let sum: f64 = weights.iter().sum();
                let mut out = vec![0.0; dim];
                for (t, weight) in weights.iter().enumerate() {
                    let v = head(t, self.heads + self.kv_heads + kv, false);
                    out.iter_mut()
                        .zip(v)
                        .for_each(|(o, v)| *o += weight / sum * v);
                }
                all.extend(out);
            }
        }
        all
    }
}

fn same(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

#[test]
fn matches_the_definition() {
    for (heads, kv_heads, head_dim, len) in [
        (1, 1, 2, 5),
        (4, 2, 16, 40),
        (6, 1, 24, 33),
        (3, 3, 34, 70),
        (20, 2, 32, 20),
    ] {
        let case = Case {
            heads,
            kv_heads,
            head_dim,
            len,
            seed: 11,
        };
        let exact = case.naive();
        for level in levels() {
            let wide = case.run::<f32>(level, 2, 16, &[len]);
            let narrow = case.run::<u16>(level, 2, 16, &[len]);
            for ((wide, narrow), exact) in wide.iter().zip(&narrow).zip(&exact) {
                assert!((f64::from(*wide) - exact).abs() < 2e-5, "{wide} {exact}");
                assert!((f64::from(*narrow) - exact).abs() < 0.1, "{narrow} {exact}");
            }
        }
    }
}

#[test]
fn long_contexts_cross_splits() {
    let case = Case {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        len: 530,
        seed: 3,
    };
    let exact = case.naive();
    for level in levels() {
        let whole = case.run::<f32>(level, 2, 16, &[530]);
        for (got, exact) in whole.iter().zip(&exact) {
            assert!((f64::from(*got) - exact).abs() < 2e-5);
        }
        for (block_size, chunks) in [
            (32, vec![255, 1, 1, 273]),
            (40, vec![254, 5, 252, 19]),
            (1, vec![530]),
            (530, vec![100, 430]),
        ] {
            assert!(same(
                &whole,
                &case.run::<f32>(level, 1, block_size, &chunks)
            ));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Neither block size, chunks nor threads can be told from a result.
    #[test]
    fn only_positions_matter(
        kv_heads in 1usize..3,
        shared in 1usize..11,
        head_dim in (1usize..20).prop_map(|half| 2 * half),
        cuts in prop::collection::vec(1usize..24, 1..5),
        block_size in prop::sample::select(vec![1usize, 3, 4, 5, 16, 17, 32, 40]),
        seed: u32,
    ) {
        let len = cuts.iter().sum();
        let case = Case { heads: kv_heads * shared, kv_heads, head_dim, len, seed };
        for level in levels() {
            let plain = case.run::<f32>(level, 1, 16, &[len]);
            prop_assert!(same(&plain, &case.run::<f32>(level, 2, block_size, &cuts)));
            let ones = vec![1; len];
            prop_assert!(same(&plain, &case.run::<f32>(level, 1, block_size, &ones)));
            let plain = case.run::<u16>(level, 1, 16, &[len]);
            prop_assert!(same(&plain, &case.run::<u16>(level, 3, block_size, &cuts)));
        }
    }
}
