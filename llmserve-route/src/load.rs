//! What a replica has been given and has not finished, counted where it is decided.
//!
//! A count that waits for the replica's own report is stale by a round trip, and every router
//! that reads it sends its next request to the same idle-looking replica. So a dispatch is
//! counted before the replica hears of it, and the count is held by a guard that cannot be
//! forgotten: it goes when the guard goes, whatever the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// One replica's counters. Each is exact by itself; together they are no snapshot.
#[derive(Debug, Default)]
pub(crate) struct Load {
    outstanding: AtomicUsize,
    outstanding_tokens: AtomicU64,
    dispatched: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding.load(Ordering::Relaxed)
    }

    pub(crate) fn outstanding_tokens(&self) -> u64 {
        self.outstanding_tokens.load(Ordering::Relaxed)
    }

    pub(crate) fn dispatched(&self) -> u64 {
        self.dispatched.load(Ordering::Relaxed)
    }

    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn count_failure(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// One dispatched request. Counted from its making to its drop.
#[derive(Debug)]
pub(crate) struct InFlight {
    load: Arc<Load>,
    tokens: u64,
}

impl InFlight {
    pub(crate) fn dispatch(load: &Arc<Load>, tokens: u64) -> Self {
        load.outstanding.fetch_add(1, Ordering::Relaxed);
        load.outstanding_tokens.fetch_add(tokens, Ordering::Relaxed);
        load.dispatched.fetch_add(1, Ordering::Relaxed);
        Self {
            load: load.clone(),
            tokens,
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.outstanding.fetch_sub(1, Ordering::Relaxed);
        self.load
            .outstanding_tokens
            .fetch_sub(self.tokens, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_guard_counts_while_it_lives_even_through_a_panic() {
        let load = Arc::new(Load::default());
        let first = InFlight::dispatch(&load, 10);
        let second = InFlight::dispatch(&load, 5);
        assert_eq!((load.outstanding(), load.outstanding_tokens()), (2, 15));
        drop(first);
        assert_eq!((load.outstanding(), load.outstanding_tokens()), (1, 5));
        let unwound = catch_unwind(AssertUnwindSafe(|| {
            let _held = second;
            panic!("on purpose");
        }));
        assert!(unwound.is_err());
        assert_eq!((load.outstanding(), load.outstanding_tokens()), (0, 0));
        assert_eq!(load.dispatched(), 2);
    }
}
