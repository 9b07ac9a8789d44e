//! Random use, checked against a simulated device.
//!
//! The device has a page array whose every slot holds a hash of *all* a key and value depends on:
//! the extras, the tokens up to and including its position. It applies page operations and writes
//! rows in the order of the plans, while commits come later (the pipeline is up to two steps
//! deep). After every operation each slot below a sequence's computed positions must hold exactly
//! that sequence's hash: a wrong hit, a missed copy or a reused block is found at once.

use proptest::prelude::*;

use super::sim::Sim;

pub(crate) const SLOTS: usize = 5;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Open a slot with a prompt: one of few stems, then a tail.
    Open(usize, u8, usize, u8, bool),
    /// Plan a step with rows of at most so many tokens, and drafts behind them.
    Plan(Vec<(usize, usize)>, usize, bool),
    /// Commit the oldest planned step.
    Commit(u8),
    Fork(usize, usize),
    Trim(usize, usize, bool),
    Release(usize),
    Close(usize),
    Reset,
    /// Pin a prompt.
    Pin(u8, usize, u8),
    /// Take one of the pins back.
    Unpin(usize),
    /// Calls that must fail or do nothing.
    Nonsense(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let slot = 0..SLOTS;
    prop_oneof![
        4 => (slot.clone(), 0..3u8, 1..22usize, 0..3u8, prop::bool::weighted(0.85))
            .prop_map(|(s, stem, len, tenant, reuse)| Op::Open(s, stem, len, tenant, reuse)),
        8 => (
            prop::collection::vec((slot.clone(), 1..14usize), 1..4),
            0..4usize,
            prop::bool::weighted(0.1)
        )
            .prop_map(|(rows, drafts, fails)| Op::Plan(rows, drafts, fails)),
        8 => any::<u8>().prop_map(Op::Commit),
        2 => (slot.clone(), slot.clone()).prop_map(|(a, b)| Op::Fork(a, b)),
        1 => (slot.clone(), 0..24usize, any::<bool>()).prop_map(|(s, t, e)| Op::Trim(s, t, e)),
        1 => slot.clone().prop_map(Op::Release),
        2 => slot.clone().prop_map(Op::Close),
        1 => Just(Op::Reset),
        2 => (0..3u8, 0..22usize, 0..3u8).prop_map(|(stem, len, tenant)| Op::Pin(stem, len, tenant)),
        1 => (0..8usize).prop_map(Op::Unpin),
        1 => slot.prop_map(Op::Nonsense),
    ]
}

fn run(blocks: usize, block_size: usize, caching: bool, mask: u128, ops: Vec<Op>) {
    let mut sim = Sim::new(blocks, block_size, caching, mask);
    ops.into_iter().for_each(|op| sim.apply(op));
    sim.finish();
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..90)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    #[test]
    fn pages_always_hold_what_tables_say(
        blocks in 1..24usize, block_size in 1..6usize, ops in ops()
    ) {
        run(blocks, block_size, true, u128::MAX, ops);
    }

    #[test]
    fn pages_hold_what_tables_say_when_identities_collide(
        blocks in 1..24usize, block_size in 1..6usize, bits in 0..3u32, ops in ops()
    ) {
        run(blocks, block_size, true, (1 << bits) - 1, ops);
    }

    #[test]
    fn pages_hold_what_tables_say_without_prefix_caching(
        blocks in 1..24usize, block_size in 1..6usize, ops in ops()
    ) {
        run(blocks, block_size, false, u128::MAX, ops);
    }
}
