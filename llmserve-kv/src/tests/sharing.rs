//! Blocks that several sequences hold: forks, copies, failed steps, forged collisions, events.

use llmserve_core::{
    BlockEvent, BlockId, BlockTables, GroupId, KvError, KvManager, OutOfBlocks, PageOp,
    PrefixScope, SequenceId,
};

use super::{id, kv};

fn copy(from: u32, to: u32, slots: usize) -> PageOp {
    PageOp::Copy {
        group: GroupId::MAIN,
        from: BlockId(from),
        to: BlockId(to),
        slots,
    }
}

#[test]
fn of_three_forks_two_copy_and_the_last_writes_in_place() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3, 4, 5, 6]);
    kv.fork(id(0), id(1)).expect("fresh");
    kv.fork(id(0), id(2)).expect("fresh");
    assert_eq!(kv.stats().held_blocks, 2);
    assert_eq!(kv.stats().unused_slots, 2);
    for (slot, demand) in [(0, 1), (1, 1), (2, 0)] {
        kv.append(id(slot), &[slot + 10]).expect("open");
        assert_eq!(kv.needs(id(slot), 7), demand);
        assert_eq!(kv.allocate(id(slot), 7), Ok(0));
        assert_eq!(kv.needs(id(slot), 7), 0);
    }
    assert_eq!(kv.ops(), [copy(1, 2, 2), copy(1, 3, 2)]);
    assert_eq!(kv.blocks_of(0), [0, 2]);
    assert_eq!(kv.blocks_of(1), [0, 3]);
    assert_eq!(kv.blocks_of(2), [0, 1]);
    let stats = kv.stats();
    assert_eq!(
        (stats.held_blocks, stats.copies, stats.unused_slots),
        (4, 2, 3)
    );
}

#[test]
fn a_fork_at_a_block_boundary_copies_nothing() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3, 4]);
    kv.fork(id(0), id(1)).expect("fresh");
    kv.append(id(1), &[5]).expect("open");
    assert_eq!(kv.needs(id(1), 5), 1);
    kv.allocate(id(1), 5).expect("room");
    assert_eq!(kv.ops(), []);
}

#[test]
fn what_a_fork_that_ended_had_written_is_not_counted_twice() {
    let mut kv = kv(8, 4);
    let scope = PrefixScope::default();
    kv.open(id(0), &[1, 2, 3, 4, 5], scope).expect("fresh");
    kv.allocate(id(0), 5).expect("room");
    kv.fork(id(0), id(1)).expect("fresh");
    // The child knows of more than the parent in the block they share, and ends.
    kv.append(id(1), &[6, 7]).expect("open");
    kv.close(id(1));
    kv.seal(id(0), 5).expect("open");
    for (token, unused) in [(8, 2), (9, 1), (10, 0)] {
        let known = 8 - unused;
        kv.append(id(0), &[token]).expect("open");
        kv.allocate(id(0), known).expect("room");
        assert_eq!(kv.stats().unused_slots, unused);
    }
}

#[test]
fn a_copy_without_room_is_refused_and_nothing_changes() {
    let mut kv = kv(2, 4);
    kv.start(0, &[1, 2, 3, 4, 5]);
    kv.fork(id(0), id(1)).expect("fresh");
    kv.append(id(1), &[6]).expect("open");
    let full = OutOfBlocks {
        needed: 1,
        available: 0,
    };
    assert_eq!(kv.allocate(id(1), 6), Err(full.into()));
    assert_eq!(kv.blocks_of(0), kv.blocks_of(1));
    // Once the parent is gone the child is alone with the block.
    kv.close(id(0));
    assert_eq!(kv.allocate(id(1), 6), Ok(0));
    assert_eq!(kv.ops(), []);
}

#[test]
fn a_parent_with_a_step_in_flight_copies_what_that_step_writes() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3, 4, 5]);
    kv.append(id(0), &[6]).expect("open");
    kv.allocate(id(0), 6).expect("room"); // position 5 is in flight
    kv.fork(id(0), id(1)).expect("fresh");
    kv.allocate(id(0), 7).expect("room"); // the next step, planned before the commit
    assert_eq!(kv.ops(), [copy(1, 2, 2)]);
    kv.seal(id(0), 6).expect("allocated");
    // The child knows of one computed position only, and is alone with the old block.
    kv.allocate(id(1), 6).expect("room");
    assert_eq!(kv.ops(), []);
}

#[test]
fn writing_after_a_trim_into_a_shared_block_copies_it() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(kv.start(1, &[1, 2, 3, 4, 5, 6, 7, 8, 9]), 8);
    kv.trim(id(1), 7).expect("open");
    kv.append(id(1), &[88]).expect("open");
    assert_eq!(kv.needs(id(1), 8), 1);
    kv.allocate(id(1), 8).expect("room");
    assert_eq!(kv.ops(), [copy(1, 2, 3)]);
    kv.seal(id(1), 8).expect("allocated");
    // Both versions are found.
    assert_eq!(kv.start(2, &[1, 2, 3, 4, 5, 6, 7, 8, 9]), 8);
    assert_eq!(kv.start(3, &[1, 2, 3, 4, 5, 6, 7, 88, 9]), 8);
    assert_eq!(kv.blocks_of(2)[1], 1);
    assert_eq!(kv.blocks_of(3)[1], 2);
}

#[test]
fn writing_after_a_trim_into_a_block_of_its_own_takes_its_identity() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3, 4, 5, 6, 7, 8]);
    let stored = kv.news();
    kv.trim(id(0), 6).expect("open");
    assert_eq!(kv.news(), [], "nothing was written yet");
    assert!(matches!(kv.seal(id(0), 7), Err(KvError::Invalid { .. })));
    kv.append(id(0), &[77]).expect("open");
    assert_eq!(kv.needs(id(0), 7), 0);
    kv.allocate(id(0), 7).expect("room");
    let BlockEvent::Stored { identity, .. } = stored[1] else {
        panic!("two blocks were stored: {stored:?}");
    };
    assert_eq!(kv.news(), [BlockEvent::Removed { identity }]);
    assert_eq!(kv.stats().unused_slots, 1);
    assert_eq!(kv.start(1, &[1, 2, 3, 4, 5, 6, 7, 8, 9]), 4);
}

#[test]
fn a_block_is_hit_by_a_row_later_in_the_step_that_writes_it() {
    let mut kv = kv(8, 4);
    let prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    for slot in 0..2 {
        kv.open(id(slot), &prompt, PrefixScope::default())
            .expect("fresh");
    }
    assert_eq!(kv.allocate(id(0), 9), Ok(0));
    assert_eq!(kv.allocate(id(1), 9), Ok(8));
    assert_eq!(kv.news(), [], "not before the step succeeded");
    kv.seal(id(0), 9).expect("allocated");
    kv.seal(id(1), 9).expect("allocated");
    let news = kv.news();
    assert_eq!(news.len(), 2);
    let (
        BlockEvent::Stored {
            identity,
            parent: None,
            tokens,
        },
        BlockEvent::Stored {
            parent: Some(parent),
            ..
        },
    ) = (&news[0], &news[1])
    else {
        panic!("two stored blocks, the second after the first: {news:?}");
    };
    assert_eq!((parent, &tokens[..]), (identity, &[1, 2, 3, 4][..]));
}

#[test]
fn only_the_part_that_the_step_fills_is_published() {
    let mut kv = kv(8, 4);
    let prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    for slot in 0..2 {
        kv.open(id(slot), &prompt, PrefixScope::default())
            .expect("fresh");
    }
    kv.allocate(id(0), 6).expect("room"); // a chunk
    assert_eq!(kv.prefix(id(1)), 4);
}

#[test]
fn positions_of_unknown_tokens_are_not_published_until_they_are_known() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3]);
    // Position 3 is computed for a draft, which was accepted.
    kv.allocate(id(0), 4).expect("room");
    kv.seal(id(0), 4).expect("allocated");
    assert_eq!(kv.news(), []);
    kv.append(id(0), &[4, 5]).expect("open");
    assert_eq!(kv.news().len(), 1);
    assert_eq!(kv.start(1, &[1, 2, 3, 4, 5]), 4);
}

#[test]
fn a_failed_step_takes_its_identities_back_and_nobody_vouches_for_its_blocks() {
    let mut kv = kv(8, 4);
    let prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    for slot in 0..3 {
        kv.open(id(slot), &prompt, PrefixScope::default())
            .expect("fresh");
    }
    kv.allocate(id(0), 9).expect("room");
    assert_eq!(kv.allocate(id(1), 9), Ok(8));
    kv.revoke(id(0)).expect("open");
    assert_eq!(kv.prefix(id(2)), 0);
    // What the second started from was never computed: it cannot be sealed, and says so.
    let sealed = kv.seal(id(1), 9);
    assert!(matches!(sealed, Err(KvError::Invalid { .. })), "{sealed:?}");
    assert_eq!(kv.news(), []);
    // The first may try again; it does not write where the second reads.
    assert_eq!(kv.needs(id(0), 9), 2);
    kv.allocate(id(0), 9).expect("room");
    kv.seal(id(0), 9).expect("allocated");
    assert_eq!(kv.allocate(id(2), 9), Ok(8));
    // And so may the second, from the start.
    kv.release(id(1)).expect("open");
    assert_eq!(kv.allocate(id(1), 9), Ok(8));
    kv.seal(id(1), 9).expect("allocated");
}

#[test]
fn a_hit_in_a_step_under_way_seals_nothing_by_itself() {
    let mut kv = kv(8, 4);
    for slot in 0..2 {
        kv.open(id(slot), &[1, 2, 3, 4, 5], PrefixScope::default())
            .expect("fresh");
    }
    kv.allocate(id(0), 5).expect("room");
    assert_eq!(kv.allocate(id(1), 5), Ok(4));
    // A token of an earlier step comes in, for a sequence that was preempted and admitted again.
    kv.append(id(1), &[6]).expect("open");
    assert_eq!(kv.news(), []);
    kv.revoke(id(0)).expect("open");
    kv.revoke(id(1)).expect("open");
    kv.release(id(0)).expect("open");
    assert_eq!(kv.prefix(id(0)), 0);
}

#[test]
fn what_was_sealed_survives_a_later_failure() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3, 4, 5]);
    kv.append(id(0), &[6, 7, 8]).expect("open");
    kv.allocate(id(0), 8).expect("room");
    kv.revoke(id(0)).expect("open");
    kv.close(id(0));
    assert_eq!(kv.start(1, &[1, 2, 3, 4, 5, 6, 7, 8, 9]), 4);
}

#[test]
fn a_block_nobody_sealed_is_blank_once_let_go() {
    let mut kv = kv(8, 4);
    kv.open(id(0), &[1; 8], PrefixScope::default())
        .expect("fresh");
    kv.allocate(id(0), 8).expect("room");
    kv.release(id(0)).expect("open");
    assert_eq!(kv.stats().cached_idle_blocks, 0);
    assert_eq!(kv.prefix(id(0)), 0);
}

#[test]
fn contents_forged_to_share_an_identity_are_told_apart() {
    let mut kv = kv(16, 4);
    if let Some(chain) = &mut kv.chain {
        chain.mask = 0; // every block of every sequence has identity 0
    }
    let (a, b) = ([1, 2, 3, 4, 9, 9, 9, 9, 5], [5, 6, 7, 8, 9, 9, 9, 9, 5]);
    assert_eq!(kv.start(0, &a), 0);
    assert_eq!(kv.start(1, &b), 0);
    // Second blocks are equal in identity, tokens and parent identity, and yet not the same.
    assert_eq!(kv.start(2, &a), 8);
    assert_eq!(kv.start(3, &b), 8);
    assert_eq!(kv.blocks_of(2)[..2], kv.blocks_of(0)[..2]);
    assert_eq!(kv.blocks_of(3)[..2], kv.blocks_of(1)[..2]);
    // Nor do extras that collide open another tenant's blocks.
    let scope = PrefixScope {
        extras: llmserve_core::Extras::default().adapter("x"),
        reuse: true,
    };
    assert_eq!(kv.start_scoped(4, &a, scope), 0);
}

#[test]
fn a_late_call_for_a_slots_former_owner_finds_nobody() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3]);
    kv.close(id(0));
    let next = SequenceId::new(0, 1);
    kv.open(next, &[4, 5], PrefixScope::default())
        .expect("vacant");
    kv.allocate(next, 2).expect("room");
    assert_eq!(kv.seal(id(0), 1), Err(KvError::UnknownSequence(id(0))));
    kv.close(id(0));
    assert!(kv.is_open(next));
    assert!(kv.table(id(0), GroupId::MAIN).is_empty());
    assert_eq!(kv.table(next, GroupId::MAIN).len(), 1);
    assert!(kv.table(next, GroupId(1)).is_empty());
}

#[test]
fn an_absurd_slot_number_is_an_error_and_costs_no_memory() {
    let mut kv = kv(8, 4);
    let far = SequenceId::new(u32::MAX, 0);
    let opened = kv.open(far, &[1], PrefixScope::default());
    assert!(matches!(opened, Err(KvError::Invalid { .. })));
    kv.start(0, &[1]);
    let forked = kv.fork(id(0), far);
    assert!(matches!(forked, Err(KvError::Invalid { .. })));
    assert!(!kv.is_open(far));
    let huge = kv.allocate(id(0), usize::MAX);
    assert!(matches!(huge, Err(KvError::OutOfBlocks(_))));
    kv.trim(id(0), usize::MAX).expect("open");
    assert!(kv.seal(id(0), usize::MAX).is_err());
}

#[test]
fn whoever_hit_a_failed_block_does_not_publish_it_when_trying_again() {
    let mut kv = kv(8, 4);
    let prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    for slot in 0..3 {
        kv.open(id(slot), &prompt, PrefixScope::default())
            .expect("fresh");
    }
    kv.allocate(id(0), 9).expect("room");
    assert_eq!(kv.allocate(id(1), 9), Ok(8));
    kv.revoke(id(0)).expect("open");
    kv.revoke(id(1)).expect("open");
    kv.allocate(id(1), 9).expect("room");
    assert_eq!(kv.prefix(id(2)), 0);
}

#[test]
fn a_fork_does_not_count_positions_as_computed_whose_tokens_it_does_not_share() {
    let mut kv = kv(8, 4);
    kv.start(0, &[1, 2, 3]);
    kv.allocate(id(0), 4).expect("room");
    kv.seal(id(0), 4).expect("allocated"); // an accepted draft at position 3
    kv.fork(id(0), id(1)).expect("fresh");
    kv.append(id(0), &[4]).expect("open");
    kv.append(id(1), &[9]).expect("open");
    assert_eq!(kv.needs(id(1), 4), 1);
    kv.allocate(id(1), 4).expect("room");
    assert_eq!(kv.ops(), [copy(0, 1, 3)]);
    kv.seal(id(1), 4).expect("allocated");
    assert_eq!(kv.start(2, &[1, 2, 3, 4, 0]), 4);
    assert_eq!(kv.start(3, &[1, 2, 3, 9, 0]), 4);
    assert_eq!((kv.blocks_of(2)[0], kv.blocks_of(3)[0]), (0, 1));
}

#[test]
fn a_block_trimmed_before_it_was_filled_is_not_found() {
    let mut kv = kv(8, 4);
    for slot in 0..2 {
        kv.open(
            id(slot),
            &[1, 2, 3, 4, 5, 6, 7, 8, 9],
            PrefixScope::default(),
        )
        .expect("fresh");
    }
    kv.allocate(id(0), 8).expect("room");
    assert_eq!(kv.prefix(id(1)), 8);
    kv.trim(id(0), 6).expect("open");
    assert_eq!(kv.prefix(id(1)), 4);
}
