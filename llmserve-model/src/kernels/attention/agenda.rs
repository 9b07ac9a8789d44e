//! How a step's attention is cut into tasks. It changes speed, never a result.
//!
//! ```text
//!  a long prompt      spans of tokens, each one task per KV head:   all its splits, in order
//!  a long context     one token, too much for one task:             some of its splits each,
//!                                                                   merged by whoever ends last
//! ```

use std::cmp::Reverse;
use std::ops::Range;

use super::format::SPLIT;
use super::part::part_len;
use crate::kernels::simd::LANES;

/// Tasks that each thread should find at least, so that the last ones end together.
const TASKS: usize = 8;
/// Queries that share one reading of keys and values, where there are as many.
const QUERIES: usize = 96;
/// Reading keys and values costs what the products of this many queries do.
const READING: usize = 8;

/// What cutting depends on, apart from the batch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Query heads.
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    /// Most queries of a register tile.
    pub(crate) tile: usize,
    pub(crate) threads: usize,
}

impl Geometry {
    /// Query heads that share a KV head.
    pub(super) fn shared(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Most tokens of a span.
    fn most_tokens(&self) -> usize {
        (QUERIES / self.shared()).max(1)
    }

    /// Most queries of a task.
    pub(super) fn most_queries(&self) -> usize {
        self.most_tokens() * self.shared()
    }

    /// Most spans that are cut into several works, and most works that this adds.
    pub(super) fn most_cuts(&self) -> usize {
        TASKS * self.threads
    }

    /// Tokens of a span in a step of `tokens`: many, so that keys and values are read seldom, but
    /// not so many that threads go without, and whole tiles.
    fn span_len(&self, tokens: usize) -> usize {
        let least = self.tile.div_ceil(self.shared());
        let even = tokens * self.kv_heads / (TASKS * self.threads);
        let len = even.clamp(least.min(self.most_tokens()), self.most_tokens());
        let mut whole = self.tile;
        while !whole.is_multiple_of(self.shared()) {
            whole += self.tile;
        }
        let whole = whole / self.shared();
        if len > whole {
            len / whole * whole
        } else {
            len
        }
    }

    /// How a task's queries are cut into tiles of nearly equal height.
    pub(super) fn tiles(&self, queries: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let tiles = queries.div_ceil(self.tile);
        let (each, extra) = (queries / tiles.max(1), queries % tiles.max(1));
        (0..tiles).map(move |tile| {
            let start = tile * each + tile.min(extra);
            start..start + each + usize::from(tile < extra)
        })
    }

    /// Numbers of the parts of all tiles of a task.
    pub(super) fn parts_len(&self, queries: usize) -> usize {
        let tiles = queries.div_ceil(self.tile);
        tiles * part_len(0, 0) + queries * self.head_dim.next_multiple_of(LANES)
    }

    /// Memory, in numbers, for the parts of works that are cut, in steps of `rows` rows of up to
    /// `positions` positions; nothing if it cannot be counted.
    pub(super) fn records(&self, rows: usize, positions: usize) -> Option<usize> {
        if self.threads == 1 {
            return Some(0);
        }
        // Two long ones a thread: of more than that, each is small beside the whole.
        let most = (2 * self.threads).max(16).next_multiple_of(self.kv_heads);
        let works = most.min(rows.checked_mul(self.kv_heads)?);
        let each = self.parts_len(self.shared());
        works
            .checked_mul(positions.div_ceil(SPLIT))?
            .checked_mul(each)
    }
}

/// Neighbouring tokens of one sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// Which table.
    pub(crate) row: usize,
    /// Index of the first token in the step.
    pub(crate) first: usize,
    /// How many.
    pub(crate) len: usize,
    /// Position of the first token.
    pub(crate) position: usize,
}

impl Span {
    /// The position after the last one that it sees.
    pub(super) fn end(&self) -> usize {
        self.position + self.len
    }
}

/// A span and splits of what it sees: one task for each KV head.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) span: Span,
    pub(super) splits: Range<usize>,
    /// Which of the cuts, for a work that has not all the splits.
    pub(super) cut: Option<usize>,
    cost: usize,
}

/// A span whose splits are several works.
#[derive(Clone, Debug)]
pub(super) struct Cut {
    /// Where its parts go in the records: by KV head, then split, then tile.
    pub(super) records: usize,
    pub(super) works: usize,
}

/// The tasks of a step, the same in every layer.
#[derive(Debug)]
pub(crate) struct Agenda {
    geometry: Geometry,
    /// Numbers that the records hold.
    room: usize,
    spans: Vec<Span>,
    works: Vec<Work>,
    cuts: Vec<Cut>,
}

impl Agenda {
    /// An agenda for steps of up to `tokens` tokens in up to `rows` rows of up to `positions`
    /// positions.
    pub(crate) fn new(geometry: Geometry, tokens: usize, rows: usize, positions: usize) -> Self {
        Self {
            geometry,
            room: geometry.records(rows, positions).unwrap_or(0),
            spans: Vec::with_capacity(tokens),
            works: Vec::with_capacity(tokens + geometry.most_cuts()),
            cuts: Vec::with_capacity(geometry.most_cuts()),
        }
    }

    pub(super) fn geometry(&self) -> Geometry {
        self.geometry
    }

    pub(super) fn works(&self) -> &[Work] {
        &self.works
    }

    pub(super) fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// Cuts anew: `rows` are the number of tokens and the first position of each.
    pub(crate) fn fill(&mut self, rows: impl Iterator<Item = (usize, usize)> + Clone) {
        let tokens = rows.clone().map(|(len, _)| len).sum();
        let each = self.geometry.span_len(tokens);
        self.spans.clear();
        let mut first = 0;
        for (row, (len, start)) in rows.enumerate() {
            self.spans.extend((0..len).step_by(each).map(|at| Span {
                row,
                first: first + at,
                len: each.min(len - at),
                position: start + at,
            }));
            first += len;
        }
        self.cut();
        // The longest first, so that no thread begins one when the others are about to end.
        self.works.sort_unstable_by_key(|work| Reverse(work.cost));
    }

    fn cut(&mut self) {
        let Geometry {
            kv_heads, threads, ..
        } = self.geometry;
        let shared = self.geometry.shared();
        let cost = |span: &Span| span.end() * READING.max(span.len * shared);
        let total: usize = self.spans.iter().map(cost).sum();
        // A task of two splits is short enough for anybody.
        let fair = (total * kv_heads / (TASKS * threads)).max(2 * SPLIT * READING);
        self.works.clear();
        self.cuts.clear();
        let mut used = 0;
        for span in &self.spans {
            let (cost, splits) = (cost(span), span.end().div_ceil(SPLIT));
            let records = self.geometry.parts_len(span.len * shared) * splits * kv_heads;
            let mut pieces = cost.div_ceil(fair).min(splits);
            if used + records > self.room || self.cuts.len() == self.geometry.most_cuts() {
                pieces = 1;
            }
            let mut cut = None;
            if pieces > 1 {
                cut = Some(self.cuts.len());
                self.cuts.push(Cut {
                    records: used,
                    works: pieces,
                });
                used += records;
            }
            self.works.extend((0..pieces).map(|piece| Work {
                span: *span,
                splits: piece * splits / pieces..(piece + 1) * splits / pieces,
                cut,
                cost: cost / pieces,
            }));
        }
    }
}
