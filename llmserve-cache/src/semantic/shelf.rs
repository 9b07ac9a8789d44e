//! The vectors of one namespace, and the nearest of them.
//!
//! ```text
//!  pages   │ coarse rows │ fine rows │ scales │ entries │ ties │    1024 rows each; only the last
//!          │ coarse rows │ …                            │      │    may be short, and grows
//! ```
//!
//! A row is found by its place. Removing one moves the last row into the gap, so places stay dense
//! and nothing is ever searched or shifted. Pages are never copied once full: adding to a shelf of a
//! million rows costs what adding to an empty one does.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::mem::size_of;

use pulp::Arch;

use super::quantised::{Quantised, Query};
use super::scan::scan;

/// Rows of a page: enough that a page's end is nothing to a scan.
const PAGE: usize = 1024;
/// How many more than asked for a scan takes, to be ordered by the fine plane.
const OVERSAMPLE: usize = 4;
/// The least a scan takes: 32 cost nothing beside the scan itself.
const LEAST: usize = 32;

#[derive(Default)]
struct Page {
    coarse: Vec<i8>,
    fine: Vec<i8>,
    scales: Vec<f32>,
    entries: Vec<u32>,
    ties: Vec<u64>,
}

/// A neighbour: which entry, and its cosine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Near {
    pub(super) entry: u32,
    pub(super) similarity: f32,
}

/// Vectors of one length.
pub(super) struct Shelf {
    dimensions: usize,
    rows: usize,
    pages: Vec<Page>,
}

impl Shelf {
    pub(super) fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            rows: 0,
            pages: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// Bytes of a row, both planes and what goes with them.
    pub(super) const fn row_bytes(dimensions: usize) -> usize {
        2 * dimensions + size_of::<f32>() + size_of::<u32>() + size_of::<u64>()
    }

    /// Bytes held, room for rows to come included.
    pub(super) fn bytes(&self) -> usize {
        let last = self.pages.last().map_or(0, |page| page.scales.capacity());
        let full = self.pages.len().saturating_sub(1) * PAGE;
        (full + last) * Self::row_bytes(self.dimensions) + self.pages.capacity() * size_of::<Page>()
    }

    /// The entry of the last row.
    pub(super) fn last(&self) -> Option<u32> {
        self.pages.last()?.entries.last().copied()
    }

    /// Adds a row and returns its place. `tie` orders it among equals.
    pub(super) fn push(&mut self, vector: &Quantised, entry: u32, tie: u64) -> u32 {
        if self.rows == self.pages.len() * PAGE {
            self.pages.push(Page::default());
        }
        let dimensions = self.dimensions;
        if let Some(page) = self.pages.last_mut() {
            page.grow(dimensions);
            page.coarse.extend_from_slice(&vector.coarse);
            page.fine.extend_from_slice(&vector.fine);
            page.scales.push(vector.scale);
            page.entries.push(entry);
            page.ties.push(tie);
        }
        self.rows += 1;
        (self.rows - 1) as u32
    }

    /// Removes the row at a place. The entry whose row took that place, if one did.
    pub(super) fn swap_remove(&mut self, place: u32) -> Option<u32> {
        let place = place as usize;
        debug_assert!(place < self.rows);
        let dimensions = self.dimensions;
        let page = self.pages.last_mut()?;
        let last = page.pop(dimensions)?;
        page.shrink(dimensions);
        self.rows -= 1;
        let moved = (place < self.rows).then(|| {
            let page = &mut self.pages[place / PAGE];
            page.put(place % PAGE, &last, dimensions);
            last.entry
        });
        if self.rows.is_multiple_of(PAGE) {
            self.pages.pop();
            // The list of pages follows what it lists, with room to spare against back and forth.
            if self.pages.capacity() > 4 * self.pages.len() {
                self.pages.shrink_to(2 * self.pages.len());
            }
        }
        moved
    }

    /// The `k` most similar rows, best first. Of equals, `tie` and the query decide which come
    /// first, so that neither age nor place does, and not the same one for every query.
    pub(super) fn nearest(&self, query: &Query, k: usize) -> Vec<Near> {
        if k == 0 {
            return Vec::new();
        }
        let most = k
            .saturating_mul(OVERSAMPLE)
            .max(LEAST)
            .min(self.rows.max(1));
        let mut best = BinaryHeap::with_capacity(most + 1);
        let mut scores = [0.0; PAGE];
        let arch = Arch::new();
        for (number, page) in self.pages.iter().enumerate() {
            let scores = &mut scores[..page.scales.len()];
            scan(arch, &query.steps, &page.coarse, &page.scales, scores);
            for (row, score) in scores.iter().enumerate() {
                let found = Candidate {
                    score: *score,
                    tie: page.ties[row] ^ query.salt,
                    place: (number * PAGE + row) as u32,
                };
                if best.len() < most {
                    best.push(found);
                } else if best.peek().is_some_and(|worst| found < *worst) {
                    best.pop();
                    best.push(found);
                }
            }
        }
        let mut best: Vec<(Near, u64)> = best
            .into_iter()
            .map(|found| (self.similarity(query, found.place), found.tie))
            .collect();
        best.sort_by(|(a, a_tie), (b, b_tie)| {
            b.similarity.total_cmp(&a.similarity).then(a_tie.cmp(b_tie))
        });
        best.truncate(k);
        best.into_iter().map(|(near, _)| near).collect()
    }

    fn similarity(&self, query: &Query, place: u32) -> Near {
        let (page, row) = (place as usize / PAGE, place as usize % PAGE);
        let page = &self.pages[page];
        let plane = row * self.dimensions..(row + 1) * self.dimensions;
        let (coarse, fine) = (&page.coarse[plane.clone()], &page.fine[plane]);
        Near {
            entry: page.entries[row],
            similarity: query.cosine(page.scales[row], coarse, fine),
        }
    }
}

/// A row taken out.
struct Row {
    coarse: Vec<i8>,
    fine: Vec<i8>,
    scale: f32,
    entry: u32,
    tie: u64,
}

impl Page {
    /// Makes room for one more row: doubling, but never beyond a page.
    fn grow(&mut self, dimensions: usize) {
        let rows = self.scales.len();
        if rows < self.scales.capacity() {
            return;
        }
        let more = (2 * rows).clamp(1, PAGE) - rows;
        self.coarse.reserve_exact(more * dimensions);
        self.fine.reserve_exact(more * dimensions);
        self.scales.reserve_exact(more);
        self.entries.reserve_exact(more);
        self.ties.reserve_exact(more);
    }

    /// Gives room back that is three quarters empty, so that evicting rows makes room for others.
    fn shrink(&mut self, dimensions: usize) {
        let keep = 2 * self.scales.len();
        if self.scales.capacity() <= 2 * keep {
            return;
        }
        self.coarse.shrink_to(keep * dimensions);
        self.fine.shrink_to(keep * dimensions);
        self.scales.shrink_to(keep);
        self.entries.shrink_to(keep);
        self.ties.shrink_to(keep);
    }

    fn pop(&mut self, dimensions: usize) -> Option<Row> {
        let entry = self.entries.pop()?;
        let rest = self.entries.len() * dimensions;
        Some(Row {
            coarse: self.coarse.split_off(rest),
            fine: self.fine.split_off(rest),
            scale: self.scales.pop()?,
            entry,
            tie: self.ties.pop()?,
        })
    }

    fn put(&mut self, row: usize, from: &Row, dimensions: usize) {
        let plane = row * dimensions..(row + 1) * dimensions;
        self.coarse[plane.clone()].copy_from_slice(&from.coarse);
        self.fine[plane].copy_from_slice(&from.fine);
        self.scales[row] = from.scale;
        self.entries[row] = from.entry;
        self.ties[row] = from.tie;
    }
}

/// A row that may be among the nearest. Better is less, so that a heap's top is the worst.
#[derive(Clone, Copy)]
struct Candidate {
    score: f32,
    tie: u64,
    place: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        other
            .score
            .total_cmp(&self.score)
            .then(self.tie.cmp(&other.tie))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

#[cfg(test)]
mod tests;
