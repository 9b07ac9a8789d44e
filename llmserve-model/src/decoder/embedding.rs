//! The embedding's rows, left in their file and read where they lie.

use std::sync::Arc;

use crate::weights::{FileDType, TensorHandle, Weights};

/// Bytes of the file that reading one row may make resident: as much as a system maps at a time of
/// what it has in its cache.
const AROUND: usize = 2 << 20;
/// Bytes that may be resident before they are let go of.
const BUDGET: usize = 32 << 20;

/// The embedding in its file. So that serving does not gather all of it in memory, row by row, its
/// pages are let go of every few rows: the file's cache keeps them, and a row costs a few
/// microseconds when it is read again.
#[derive(Debug)]
pub(super) struct Embedding {
    weights: Arc<Weights>,
    handle: TensorHandle,
    /// Rows that were read, at most, since their pages were last let go of.
    rows: usize,
}

impl Embedding {
    /// The tensor `name` of `weights`, if they have it in a format that is read.
    pub(super) fn new(weights: Arc<Weights>, name: &str) -> Option<Self> {
        let handle = weights.handle(name)?;
        Some(Self {
            weights,
            handle,
            rows: 0,
        })
    }

    /// Most rows that should be read before [`read`](Self::read) is told.
    pub(super) const ROWS: usize = BUDGET / AROUND;

    /// How its numbers are stored.
    pub(super) fn dtype(&self) -> FileDType {
        self.handle.dtype
    }

    /// All rows.
    pub(super) fn bytes(&self) -> &[u8] {
        self.weights.bytes(&self.handle)
    }

    /// Bytes of it that may be in memory at a time.
    pub(super) fn resident_bytes(&self) -> usize {
        Self::most_resident(self.bytes().len())
    }

    /// Bytes that may be in memory at a time of an embedding of so many.
    pub(super) fn most_resident(bytes: usize) -> usize {
        bytes.min(BUDGET)
    }

    /// Lets go of its pages.
    pub(super) fn release(&self) {
        self.weights.release_handle(&self.handle);
    }

    /// Counts `rows` that were read, and lets go of the pages when it is time.
    pub(super) fn read(&mut self, rows: usize) {
        self.rows += rows;
        if self.rows >= Self::ROWS {
            self.rows = 0;
            self.release();
        }
    }
}
