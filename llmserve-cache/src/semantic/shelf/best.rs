//! The best few of many.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The best so many of those offered.
pub(super) struct Best {
    most: usize,
    heap: BinaryHeap<Candidate>,
}

impl Best {
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            heap: BinaryHeap::new(),
        }
    }

    /// Whether it is among the best so far.
    pub(super) fn offer(&mut self, found: Candidate) -> bool {
        if self.heap.len() < self.most {
            self.heap.push(found);
            return true;
        }
        let better = self.heap.peek().is_some_and(|worst| found < *worst);
        if better {
            self.heap.pop();
            self.heap.push(found);
        }
        better
    }

    /// The worst of the best, if there are as many as wanted.
    pub(super) fn worst(&self) -> Option<&Candidate> {
        self.heap.peek().filter(|_| self.heap.len() == self.most)
    }

    pub(super) fn into_vec(self) -> Vec<Candidate> {
        self.heap.into_vec()
    }
}

/// A row that may be among the nearest. Better is less, so that a heap's top is the worst.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub(super) score: f32,
    pub(super) tie: u64,
    pub(super) place: u32,
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
