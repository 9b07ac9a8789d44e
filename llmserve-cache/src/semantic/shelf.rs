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
//!
//! From a number of rows on, each has a sketch too, and only rows are read whose sketches say that
//! they may be among the nearest. A shelf that grows to that number makes the sketches on the way,
//! from half of it on, a few with every row that comes: no row waits for all of them.

mod best;
mod sketches;

use std::mem::size_of;

use pulp::Arch;

use super::quantised::{Quantised, Query, restored};
use super::scan::{scan, scan_some};
use super::sketch::{Asked, Sketch};
use best::{Best, Candidate};
use sketches::Sketches;

/// Rows of a page: enough that a page's end is nothing to a scan.
const PAGE: usize = 1024;
/// How many more than asked for a scan takes, to be ordered by the fine plane.
const OVERSAMPLE: usize = 4;
/// The least a scan takes: 32 cost nothing beside the scan itself.
const LEAST: usize = 32;
/// How far an estimate may fall short, in its deviations, before a row is passed over that is as
/// near as the last of those asked for. Of such rows it misses one in two hundred, and fewer of
/// those that are nearer.
const MARGIN: f32 = 2.6;
/// As many rows are read in a row while one is that lies apart.
const APART: usize = 8;
/// Rows that are read before others, in what a search takes.
const FIRST: usize = 4;
/// Sketches made with each new row while not all rows have one.
const CATCH_UP: usize = 3;

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
    /// Of the first rows, or of all.
    sketches: Option<Box<Sketches>>,
    approximate_from: usize,
}

impl Shelf {
    /// An empty one, that is searched by sketches when it holds `approximate_from` rows or more.
    pub(super) fn new(dimensions: usize, approximate_from: usize) -> Self {
        Self {
            dimensions,
            rows: 0,
            pages: Vec::new(),
            sketches: None,
            approximate_from,
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
        let sketches = self.sketches.as_ref().map_or(0, |all| all.bytes());
        (full + last) * Self::row_bytes(self.dimensions)
            + self.pages.capacity() * size_of::<Page>()
            + sketches
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
        if self.rows > self.approximate_from / 2 {
            self.catch_up();
        }
        (self.rows - 1) as u32
    }

    /// Makes a few of the sketches that are missing: more than one, so that none are once as many
    /// rows again have come.
    fn catch_up(&mut self) {
        let dimensions = self.dimensions;
        let sketches = self.sketches.take();
        let mut sketches = sketches.unwrap_or_else(|| Box::new(Sketches::new(dimensions)));
        for place in (sketches.rows()..self.rows).take(CATCH_UP) {
            sketches.push(&self.sketch(place));
        }
        self.sketches = Some(sketches);
    }

    fn sketch(&self, place: usize) -> Sketch {
        let (scale, coarse, fine) = self.row(place);
        Sketch::new(&mut restored(scale, coarse, fine))
    }

    fn row(&self, place: usize) -> (f32, &[i8], &[i8]) {
        let (page, row) = (&self.pages[place / PAGE], place % PAGE);
        let plane = row * self.dimensions..(row + 1) * self.dimensions;
        (
            page.scales[row],
            &page.coarse[plane.clone()],
            &page.fine[plane],
        )
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
        self.forget_sketch(place);
        moved
    }

    /// After a row was removed and the last one put in its place.
    fn forget_sketch(&mut self, place: usize) {
        let Some(mut sketches) = self.sketches.take() else {
            return;
        };
        if self.rows < self.approximate_from / 4 {
            return;
        }
        if sketches.rows() > self.rows {
            sketches.swap_remove(place);
        } else if place < sketches.rows() {
            sketches.put(place, &self.sketch(place));
        }
        self.sketches = Some(sketches);
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
        let best = match &self.sketches {
            Some(sketches)
                if self.rows >= self.approximate_from && sketches.rows() == self.rows =>
            {
                self.by_sketches(sketches, query, k, most)
            }
            _ => self.by_all(query, most),
        };
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

    /// The best by their first byte, of all rows.
    fn by_all(&self, query: &Query, most: usize) -> Vec<Candidate> {
        let mut best = Best::new(most);
        let mut scores = [0.0; PAGE];
        let arch = Arch::new();
        for (number, page) in self.pages.iter().enumerate() {
            let scores = &mut scores[..page.scales.len()];
            scan(arch, &query.steps, &page.coarse, &page.scales, scores);
            for (row, score) in scores.iter().enumerate() {
                best.offer(Candidate {
                    score: *score,
                    tie: page.ties[row] ^ query.salt,
                    place: (number * PAGE + row) as u32,
                });
            }
        }
        best.into_vec()
    }

    /// The best by their first byte, of the rows that sketches leave.
    ///
    /// Whichever leads by its sketch is read at once. The k-th best of those read is a bound: a row
    /// whose estimate is below it by more than estimates are off cannot be among the nearest. Of
    /// those left at the end the first few raise the bound once more. Where all are about as near,
    /// and so too many are left, all are read.
    fn by_sketches(
        &self,
        sketches: &Sketches,
        query: &Query,
        k: usize,
        most: usize,
    ) -> Vec<Candidate> {
        let asked = Asked::new(&query.unit);
        let mut reading = Reading {
            shelf: self,
            arch: Arch::new(),
            query,
            asked: &asked,
            least: f32::NEG_INFINITY,
            nearest: Best::new(k),
            best: Best::new(most),
        };
        let mut leading = Best::new(k);
        let mut left: Vec<(f32, u32)> = Vec::new();
        sketches.estimate(&asked, |first, estimates| {
            for (number, chunk) in estimates.chunks(64).enumerate() {
                // Without a branch for each: most chunks have none.
                let least = reading.least;
                if !chunk.iter().fold(false, |any, x| any | (*x > least)) {
                    continue;
                }
                for (row, estimate) in chunk.iter().enumerate() {
                    if *estimate <= reading.least {
                        continue;
                    }
                    let place = (first + number * 64 + row) as u32;
                    if leading.offer(self.candidate(query, place, *estimate)) {
                        reading.read(&[place]);
                    } else {
                        left.push((*estimate, place));
                    }
                }
            }
        });
        let first = FIRST * most;
        left.retain(|(estimate, _)| *estimate > reading.least);
        if left.len() > first {
            left.select_nth_unstable_by(first, |a, b| b.0.total_cmp(&a.0));
            let rest = left.split_off(first);
            reading.read(&places(&left));
            left = rest;
            left.retain(|(estimate, _)| *estimate > reading.least);
            if left.len() > self.rows / APART {
                return self.by_all(query, most);
            }
            // As they lie in memory.
            left.sort_unstable_by_key(|(_, place)| *place);
        }
        reading.read(&places(&left));
        reading.best.into_vec()
    }

    fn candidate(&self, query: &Query, place: u32, score: f32) -> Candidate {
        let (page, row) = (place as usize / PAGE, place as usize % PAGE);
        let tie = self.pages[page].ties[row] ^ query.salt;
        Candidate { score, tie, place }
    }

    fn similarity(&self, query: &Query, place: u32) -> Near {
        let (scale, coarse, fine) = self.row(place as usize);
        let (page, row) = (place as usize / PAGE, place as usize % PAGE);
        Near {
            entry: self.pages[page].entries[row],
            similarity: query.cosine(scale, coarse, fine),
        }
    }
}

/// What is read of a shelf, and how good that is.
struct Reading<'a> {
    shelf: &'a Shelf,
    arch: Arch,
    query: &'a Query,
    asked: &'a Asked,
    /// Estimates up to this one are of rows that are not worth reading.
    least: f32,
    nearest: Best,
    best: Best,
}

impl Reading<'_> {
    fn read(&mut self, places: &[u32]) {
        let (shelf, query) = (self.shelf, self.query);
        let row = |place: u32| {
            let (scale, coarse, _) = shelf.row(place as usize);
            (coarse, scale)
        };
        scan_some(self.arch, &query.steps, places, row, |place, score| {
            let found = shelf.candidate(query, place, score);
            if self.best.offer(found)
                && self.nearest.offer(found)
                && let Some(kth) = self.nearest.worst()
            {
                let cosine = kth.score * query.step;
                let off = MARGIN * self.asked.deviation(cosine);
                self.least = (cosine - off) / self.asked.step;
            }
        });
    }
}

fn places(of: &[(f32, u32)]) -> Vec<u32> {
    of.iter().map(|(_, place)| *place).collect()
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

#[cfg(test)]
mod tests;
