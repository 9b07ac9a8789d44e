use std::sync::{Arc, LazyLock};

use llmserve_core::{BlockId, BlockIdentity, Extras};

use super::{Parent, Pool, Table};

const ONE: BlockIdentity = BlockIdentity::from_u128(1);

static NO_EXTRAS: LazyLock<Arc<Extras>> = LazyLock::new(Arc::default);

fn root() -> Parent<'static> {
    Parent::Root(&NO_EXTRAS)
}

fn pool() -> Pool {
    Pool::new(4, 2, true, true).expect("small")
}

fn take(pool: &mut Pool, blocks: usize) -> Table {
    let mut table = Table::default();
    let mut claim = pool.claim(&mut table);
    claim.fresh(blocks).expect("room");
    claim.keep(|_| 0);
    table
}

/// A pool whose block 0 is idle and sealed.
fn with_cached() -> Pool {
    let mut pool = pool();
    let mut table = take(&mut pool, 1);
    pool.publish(BlockId(0), ONE, root(), &[7, 8]);
    pool.seal(BlockId(0), ONE, None);
    pool.give_back(&mut table, 0);
    assert_eq!(pool.idle(), [1, 2, 3, 0]);
    pool
}

#[test]
fn a_dropped_claim_gives_everything_back_as_it_was() {
    let mut pool = with_cached();
    let before = format!("{:?}", (pool.idle(), &pool.blocks, pool.levels));
    let mut table = Table::default();
    let mut claim = pool.claim(&mut table);
    claim.hit(BlockId(0));
    claim.hit(BlockId(0));
    claim.fresh(2).expect("room");
    drop(claim);
    assert!(table.is_empty());
    assert_eq!(
        format!("{:?}", (pool.idle(), &pool.blocks, pool.levels)),
        before
    );
    assert_eq!(pool.find(ONE, root(), &[7, 8]), Some(BlockId(0)));
}

#[test]
fn a_dropped_claim_puts_what_is_kept_back_where_it_was() {
    let mut pool = with_cached();
    pool.limit_pins(1);
    pool.pin(&[ONE], &[BlockId(0)]).expect("allowed");
    let idle = |pool: &Pool| (pool.idle(), pool.idle_kept());
    assert_eq!(idle(&pool), (vec![1, 2, 3], vec![0]));
    for hits in [0, 1] {
        let before = format!("{:?}", (idle(&pool), &pool.blocks, pool.levels));
        let mut table = Table::default();
        let mut claim = pool.claim(&mut table);
        (0..hits).for_each(|_| claim.hit(BlockId(0)));
        claim.fresh(4 - hits).expect("room");
        drop(claim);
        assert_eq!(
            format!("{:?}", (idle(&pool), &pool.blocks, pool.levels)),
            before
        );
    }
    let table = take(&mut pool, 4);
    assert_eq!(table.as_slice(), [1, 2, 3, 0].map(BlockId));
    assert_eq!((pool.levels().kept, pool.levels().evictions), (0, 1));
}

#[test]
fn a_claim_that_runs_out_gives_back_even_what_it_would_have_evicted() {
    let mut pool = with_cached();
    let mut table = Table::default();
    let mut claim = pool.claim(&mut table);
    claim.fresh(4).expect("room");
    assert!(claim.fresh(1).is_err());
    drop(claim);
    assert!(table.is_empty());
    assert_eq!(pool.idle(), [1, 2, 3, 0]);
    assert_eq!(pool.find(ONE, root(), &[7, 8]), Some(BlockId(0)));
    assert_eq!(pool.levels().evictions, 0);
}

#[test]
fn a_claim_is_given_back_when_its_owner_panics() {
    let mut pool = with_cached();
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut table = Table::default();
        let mut claim = pool.claim(&mut table);
        claim.fresh(1).expect("room");
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    assert!(panicked.is_err());
    assert_eq!(pool.idle(), [1, 2, 3, 0]);
}

#[test]
fn a_kept_block_forgets_what_it_held() {
    let mut pool = with_cached();
    let table = take(&mut pool, 4);
    assert_eq!(table.as_slice(), [1, 2, 3, 0].map(BlockId));
    assert_eq!(pool.find(ONE, root(), &[7, 8]), None);
    assert_eq!(pool.levels().evictions, 1);
    assert_eq!(pool.levels().unused, 8);
}

#[test]
fn a_claim_leaves_what_the_table_held_and_counts_what_is_filled() {
    let mut pool = with_cached();
    let mut table = take(&mut pool, 1);
    let mut claim = pool.claim(&mut table);
    claim.hit(BlockId(0));
    claim.fresh(2).expect("room");
    claim.keep(|nth| 2 - nth);
    assert_eq!(table.as_slice(), [1, 0, 2, 3].map(BlockId));
    // Blank the first, full the hit and the first fresh one, half the last.
    assert_eq!(pool.levels().unused, 2 + 1);
    let mut claim = pool.claim(&mut table);
    assert!(claim.fresh(1).is_err());
    drop(claim);
    assert_eq!(table.as_slice(), [1, 0, 2, 3].map(BlockId));
}

#[test]
fn a_shared_block_is_free_when_the_last_table_lets_go() {
    let mut pool = pool();
    let mut table = take(&mut pool, 2);
    let mut twin = pool.share(&table);
    pool.give_back(&mut table, 0);
    assert_eq!(pool.available(), 2);
    pool.give_back(&mut twin, 1);
    assert_eq!(pool.available(), 3);
    pool.give_back(&mut twin, 0);
    assert_eq!(pool.available(), 4);
    assert_eq!(pool.levels().held, 0);
    assert_eq!(pool.levels().peak_held, 2);
}

#[test]
fn a_hit_compares_tokens_parent_and_extras() {
    let pool = with_cached();
    let tenant = Arc::new(Extras::default().tenant("t"));
    let other = Parent::Root(&tenant);
    let after = Parent::After(pool.lineage(BlockId(0)).expect("labelled"));
    assert_eq!(pool.find(ONE, root(), &[7, 8]), Some(BlockId(0)));
    assert_eq!(pool.find(ONE, root(), &[7, 9]), None);
    assert_eq!(pool.find(ONE, other, &[7, 8]), None);
    assert_eq!(pool.find(ONE, after, &[7, 8]), None);
}

#[test]
fn a_held_twin_is_preferred_to_an_idle_one() {
    let mut pool = pool();
    let _held = take(&mut pool, 1);
    let mut idle = take(&mut pool, 1);
    for block in [BlockId(0), BlockId(1)] {
        pool.publish(block, ONE, root(), &[7, 8]);
        pool.seal(block, ONE, None);
    }
    pool.give_back(&mut idle, 0);
    assert_eq!(pool.find(ONE, root(), &[7, 8]), Some(BlockId(0)));
    assert_eq!(pool.lineage(BlockId(1)), pool.lineage(BlockId(0)));
}
