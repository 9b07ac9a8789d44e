//! The sketches of a shelf's rows.
//!
//! As its rows they lie in pages, of which only the last may be short, and places are the same.

use std::mem::size_of;

use super::super::sketch::{Asked, Counting, LANES, Sketch, words};
use super::PAGE;

#[derive(Default)]
struct Page {
    rows: usize,
    /// Of [`LANES`] rows after each other, word by word. The last group may be short of rows.
    words: Vec<u64>,
    factors: Vec<f32>,
}

/// Sketches of the first so many rows.
pub(super) struct Sketches {
    dimensions: usize,
    rows: usize,
    pages: Vec<Page>,
}

impl Sketches {
    pub(super) fn new(dimensions: usize) -> Self {
        Self {
            dimensions,
            rows: 0,
            pages: Vec::new(),
        }
    }

    /// How many of the shelf's rows have one, from the first on.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes held, room for rows to come included.
    pub(super) fn bytes(&self) -> usize {
        let last = self.pages.last().map_or(0, |page| page.factors.capacity());
        let full = self.pages.len().saturating_sub(1) * PAGE;
        let row = words(self.dimensions) * size_of::<u64>() + size_of::<f32>();
        (full + last) * row + self.pages.capacity() * size_of::<Page>() + size_of::<Self>()
    }

    /// Adds that of the next row.
    pub(super) fn push(&mut self, sketch: &Sketch) {
        if self.rows == self.pages.len() * PAGE {
            self.pages.push(Page::default());
        }
        let words = words(self.dimensions);
        if let Some(page) = self.pages.last_mut() {
            if page.rows == page.factors.len() {
                page.grow(words);
            }
            page.rows += 1;
        }
        self.rows += 1;
        self.put(self.rows - 1, sketch);
    }

    /// Gives a row another.
    pub(super) fn put(&mut self, place: usize, sketch: &Sketch) {
        let (page, row) = (&mut self.pages[place / PAGE], place % PAGE);
        let group = row / LANES * LANES * sketch.words.len();
        for (at, word) in sketch.words.iter().enumerate() {
            page.words[group + at * LANES + row % LANES] = *word;
        }
        page.factors[row] = sketch.factor;
    }

    /// Removes that of a row, whose place the last row takes.
    pub(super) fn swap_remove(&mut self, place: usize) {
        let Some(last) = self.rows.checked_sub(1) else {
            return;
        };
        let moved = self.get(last);
        self.put(place, &moved);
        self.rows = last;
        let words = words(self.dimensions);
        if let Some(page) = self.pages.last_mut() {
            page.rows -= 1;
            page.shrink(words);
        }
        if self.rows.is_multiple_of(PAGE) {
            self.pages.pop();
            if self.pages.capacity() > 4 * self.pages.len() {
                self.pages.shrink_to(2 * self.pages.len());
            }
        }
    }

    /// Calls back for every page: the place of its first row, and its rows' estimates.
    pub(super) fn estimate(&self, asked: &Asked, mut then: impl FnMut(usize, &[f32])) {
        let by = Counting::new();
        let mut estimates = [0.0; PAGE];
        for (number, page) in self.pages.iter().enumerate() {
            let groups = &mut estimates[..page.rows.next_multiple_of(LANES)];
            let words = groups.len() * words(self.dimensions);
            let factors = &page.factors[..groups.len()];
            asked.estimate(by, &page.words[..words], factors, groups);
            then(number * PAGE, &groups[..page.rows]);
        }
    }

    fn get(&self, place: usize) -> Sketch {
        let (page, row) = (&self.pages[place / PAGE], place % PAGE);
        let words = words(self.dimensions);
        let group = row / LANES * LANES * words;
        Sketch {
            words: (0..words)
                .map(|at| page.words[group + at * LANES + row % LANES])
                .collect(),
            factor: page.factors[row],
        }
    }
}

impl Page {
    /// Makes room for one more group of rows: doubling, but never beyond a page.
    fn grow(&mut self, words: usize) {
        let rows = self.factors.len() + LANES;
        if rows > self.factors.capacity() {
            let room = (2 * self.factors.len()).clamp(LANES, PAGE);
            self.factors.reserve_exact(room - self.factors.len());
            self.words.reserve_exact(room * words - self.words.len());
        }
        self.factors.resize(rows, 0.0);
        self.words.resize(rows * words, 0);
    }

    /// Gives room back that is three quarters empty.
    fn shrink(&mut self, words: usize) {
        let rows = self.rows.next_multiple_of(LANES);
        self.factors.truncate(rows);
        self.words.truncate(rows * words);
        if self.factors.capacity() > 4 * rows {
            self.factors.shrink_to(2 * rows);
            self.words.shrink_to(2 * rows * words);
        }
    }
}
