//! What a request has been charged, until it is known what it cost.

use std::sync::atomic::{AtomicBool, Ordering};

use super::limiter::{Limiter, Marks};

/// A reservation at a [`Limiter`]: a place, a request and tokens.
///
/// It is [settled](Self::settle) or [refunded](Self::refund) once; whatever is said after that
/// changes nothing, so that whoever does not know whether it was done can do it again. Dropped
/// without a word, it costs what was reserved. The place is given back by
/// [`release`](Self::release), at the latest when it is dropped.
pub struct Charge {
    limiter: Limiter,
    key: Box<str>,
    id: u64,
    reserved: u64,
    marks: Marks,
    closed: AtomicBool,
    released: AtomicBool,
}

impl Charge {
    pub(super) fn new(
        limiter: Limiter,
        key: Box<str>,
        id: u64,
        reserved: u64,
        marks: Marks,
    ) -> Self {
        Self {
            limiter,
            key,
            id,
            reserved,
            marks,
            closed: AtomicBool::new(false),
            released: AtomicBool::new(false),
        }
    }

    /// Its number, different from every other of its limiter.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The tokens that were reserved.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// It cost `tokens`: what was reserved beyond is given back, as far as it has not been refilled
    /// since; what it cost beyond is taken from what comes next.
    pub fn settle(&self, tokens: u64) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            let (limiter, marks) = (&self.limiter, &self.marks);
            limiter.settle(&self.key, self.reserved, marks, tokens);
        }
    }

    /// It came to nothing: neither the request nor its tokens count.
    pub fn refund(&self) {
        if !self.closed.swap(true, Ordering::AcqRel) {
            self.limiter.refund(&self.key, self.reserved, &self.marks);
        }
    }

    /// The request runs no more.
    pub fn release(&self) {
        if !self.released.swap(true, Ordering::AcqRel) {
            self.limiter.release(&self.key);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.release();
    }
}

impl std::fmt::Debug for Charge {
    /// Not the key: it may be a secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Charge")
            .field("id", &self.id)
            .field("reserved", &self.reserved)
            .finish_non_exhaustive()
    }
}
