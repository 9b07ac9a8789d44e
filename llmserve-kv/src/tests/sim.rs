//! The simulated device and engine of the random tests: see [`super::model`].

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use llmserve_core::{
    BlockEvent, BlockId, BlockTables, Extras, GroupId, IdentityRoot, KvError, KvManager, PageOp,
    Pinned, PrefixScope, SequenceId, TokenId,
};

use super::check::{invariants, naive_front, naive_prefix, pins, sealed_identities, snapshot};
use super::model::{Op, SLOTS};
use crate::PagedKv;

const GARBAGE: u64 = 0;

#[derive(Clone, Debug)]
struct Seq {
    id: SequenceId,
    extras: Extras,
    /// All tokens, those the manager was not told yet included.
    tokens: Vec<TokenId>,
    known: usize,
    /// Written on the device.
    written: usize,
    /// Told to the manager.
    sealed: usize,
    /// Changes when blocks are taken away, so that late rows are recognised.
    epoch: u64,
}

#[derive(Clone, Debug)]
struct Row {
    id: SequenceId,
    epoch: u64,
    target: usize,
    samples: bool,
    accepted: usize,
}

#[derive(Clone, Debug)]
struct Step {
    rows: Vec<Row>,
    fails: bool,
}

pub(crate) struct Sim {
    kv: PagedKv,
    pages: Vec<Vec<u64>>,
    seqs: Vec<Option<Seq>>,
    generations: Vec<u32>,
    flight: Vec<Step>,
    announced: BTreeSet<u128>,
    pins: Vec<(Vec<TokenId>, Extras)>,
    collide: bool,
    forked: bool,
    /// Whether identities are told apart and blocks lose their labels by eviction only: then
    /// identities alone say what is cached.
    whole: bool,
    epochs: u64,
    token: TokenId,
    counted: (u64, u64),
    uncounted: BTreeSet<(usize, u32)>,
}

fn content(extras: &Extras, tokens: &[TokenId]) -> u64 {
    let mut hasher = DefaultHasher::new();
    (extras, tokens).hash(&mut hasher);
    hasher.finish() | 1
}

fn prompt(stem: u8, len: usize, tenant: u8) -> (Vec<TokenId>, Extras) {
    let mut tokens: Vec<TokenId> = (0..len).map(|at| (at as u32 * 7 + 3) % 5).collect();
    if let Some(last) = len.checked_sub(1).filter(|_| stem > 0) {
        tokens[last.min(stem as usize * 4)] = 9;
    }
    let extras = match tenant {
        0 => Extras::default(),
        1 => Extras::default().tenant("a"),
        _ => Extras::default().tenant("b"),
    };
    (tokens, extras)
}

impl Sim {
    pub(crate) fn new(blocks: usize, block_size: usize, caching: bool, mask: u128) -> Self {
        let mut kv = PagedKv::builder()
            .blocks(blocks)
            .block_size(block_size)
            .root(IdentityRoot::new(1, "f32", block_size))
            .prefix_caching(caching)
            .events(true)
            .max_pinned_blocks(Self::max_pinned(blocks))
            .build()
            .expect("valid settings");
        if let Some(chain) = &mut kv.chain {
            chain.mask = mask;
        }
        Self {
            kv,
            pages: vec![vec![GARBAGE; block_size]; blocks],
            seqs: vec![None; SLOTS],
            generations: vec![0; SLOTS],
            flight: Vec::new(),
            announced: BTreeSet::new(),
            pins: Vec::new(),
            collide: mask != u128::MAX,
            forked: false,
            whole: mask == u128::MAX,
            epochs: 0,
            token: 0,
            counted: (0, 0),
            uncounted: BTreeSet::new(),
        }
    }

    /// All blocks, or half of them.
    fn max_pinned(blocks: usize) -> usize {
        if blocks.is_multiple_of(2) {
            blocks
        } else {
            blocks / 2
        }
    }

    /// A token from a small alphabet, so that sequences meet again.
    fn sample(&mut self) -> TokenId {
        self.token = self.token.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (self.token >> 16) % 2
    }

    fn epoch(&mut self) -> u64 {
        self.epochs += 1;
        self.epochs
    }

    fn write(&mut self, id: SequenceId, position: usize, value: u64) {
        let size = self.kv.layout().block_size;
        let block = self.kv.table(id, GroupId::MAIN)[position / size];
        self.pages[block.index()][position % size] = value;
    }

    fn in_flight(&self, id: SequenceId) -> bool {
        self.flight
            .iter()
            .any(|step| step.rows.iter().any(|row| row.id == id))
    }

    pub(crate) fn apply(&mut self, op: Op) {
        match op {
            Op::Open(slot, stem, len, tenant, reuse) => self.open(slot, stem, len, tenant, reuse),
            Op::Plan(rows, drafts, fails) => self.plan(&rows, drafts, fails),
            Op::Commit(how) => self.commit(how),
            Op::Fork(parent, child) => self.fork(parent, child),
            Op::Trim(slot, tokens, exact) => self.trim(slot, tokens, exact),
            Op::Release(slot) => self.release(slot),
            Op::Close(slot) => self.close(slot),
            Op::Reset => self.reset(),
            Op::Pin(stem, len, tenant) => self.pin(stem, len, tenant),
            Op::Unpin(nth) => self.unpin(nth),
            Op::Nonsense(slot) => self.nonsense(slot),
        }
        self.check();
    }

    fn open(&mut self, slot: usize, stem: u8, len: usize, tenant: u8, reuse: bool) {
        if let Some(seq) = &self.seqs[slot] {
            let before = snapshot(&self.kv);
            let other = SequenceId::new(slot as u32, 99);
            let open = |kv: &mut PagedKv, id| kv.open(id, &[1], PrefixScope::default());
            assert_eq!(open(&mut self.kv, other), Err(KvError::AlreadyOpen(seq.id)));
            assert_eq!(snapshot(&self.kv), before);
            return;
        }
        let id = SequenceId::new(slot as u32, self.generations[slot]);
        let (tokens, extras) = prompt(stem, len, tenant);
        let scope = PrefixScope {
            extras: extras.clone(),
            reuse,
        };
        self.kv.open(id, &tokens, scope).expect("vacant");
        self.uncounted.insert((slot, id.generation()));
        let epoch = self.epoch();
        self.seqs[slot] = Some(Seq {
            id,
            extras,
            known: tokens.len(),
            tokens,
            written: 0,
            sealed: 0,
            epoch,
        });
    }

    fn plan(&mut self, wanted: &[(usize, usize)], drafts: usize, fails: bool) {
        if self.flight.len() >= 2 {
            return;
        }
        // What follows a failing step on the device fails with it.
        let fails = fails || self.flight.iter().any(|step| step.fails);
        let mut step = Step {
            rows: Vec::new(),
            fails,
        };
        // Position, value: written together after all rows are planned and pages were copied.
        let mut writes: Vec<(SequenceId, usize, u64)> = Vec::new();
        for &(slot, most) in wanted {
            let Some(seq) = self.seqs[slot].clone() else {
                continue;
            };
            if step.rows.iter().any(|row| row.id == seq.id) || seq.written >= seq.tokens.len() {
                continue;
            }
            let id = seq.id;
            let first = self.kv.table(id, GroupId::MAIN).is_empty();
            let hit = naive_prefix(&self.kv, id);
            let start = if first { hit } else { seq.written };
            assert!(start < seq.tokens.len());
            let target = seq.tokens.len().min(start + most);
            let samples = target == seq.tokens.len();
            // Drafts only where the result of no other step is awaited.
            let drafts = if samples && !self.in_flight(id) {
                drafts
            } else {
                0
            };
            let demand = self.kv.demand(id, target + drafts).expect("open");
            assert_eq!(demand.cached, hit);
            let demand = demand.blocks;
            let available = self.kv.available();
            let before = snapshot(&self.kv);
            let idle = (self.kv.pool.idle(), self.kv.pool.idle_kept());
            match self.kv.allocate(id, target + drafts) {
                Ok(cached) => {
                    let went = |number: &u32| !self.kv.pool.is_idle(BlockId(*number));
                    let kept = |number: &u32| self.kv.pool.block(BlockId(*number)).is_kept();
                    if idle.1.iter().any(|number| !kept(number)) {
                        assert!(idle.0.iter().all(went), "a pinned block went before others");
                    }
                    assert!(demand <= available);
                    assert_eq!(available - self.kv.available(), demand);
                    assert_eq!(cached, hit);
                    if first && self.uncounted.remove(&(slot, id.generation())) {
                        let scope = self.kv.slots.get(id).expect("open");
                        if self.kv.prefix_caching() && scope.reuse {
                            self.counted.0 += seq.known as u64;
                            self.counted.1 += cached as u64;
                        }
                    }
                }
                Err(error) => {
                    assert!(demand > available);
                    let out = llmserve_core::OutOfBlocks {
                        needed: demand,
                        available,
                    };
                    assert_eq!(error, KvError::OutOfBlocks(out));
                    // The list of hits is scratch memory.
                    let after = snapshot(&self.kv);
                    let end = |text: &str| text.rfind("hits:").expect("a field");
                    assert_eq!(after[..end(&after)], before[..end(&before)]);
                    continue;
                }
            }
            let mut tokens = seq.tokens.clone();
            let accepted = if drafts > 0 {
                self.token as usize % (drafts + 1)
            } else {
                0
            };
            for _ in 0..if samples { accepted + 1 } else { 0 } {
                let token = self.sample();
                tokens.push(token);
            }
            for position in start..target + drafts {
                let right = position < target + accepted && !fails;
                let value = match right {
                    true => content(&seq.extras, &tokens[..=position]),
                    false => GARBAGE,
                };
                writes.push((id, position, value));
            }
            step.rows.push(Row {
                id,
                epoch: seq.epoch,
                target: target + accepted,
                samples,
                accepted,
            });
            if let Some(seq) = &mut self.seqs[slot] {
                seq.tokens = tokens;
                seq.written = target + accepted;
                if first {
                    seq.sealed = hit;
                }
            }
        }
        let mut ops = Vec::new();
        self.kv.take_page_ops(&mut ops);
        for op in ops {
            if let PageOp::Copy {
                from, to, slots, ..
            } = op
            {
                assert_ne!(from, to);
                let copied = self.pages[from.index()][..slots].to_vec();
                self.pages[to.index()][..slots].copy_from_slice(&copied);
            }
        }
        for (id, position, value) in writes {
            self.write(id, position, value);
        }
        if !step.rows.is_empty() {
            self.flight.push(step);
        }
    }

    fn commit(&mut self, how: u8) {
        if self.flight.is_empty() {
            return;
        }
        let step = self.flight.remove(0);
        let live: Vec<Row> = step
            .rows
            .into_iter()
            .filter(|row| self.seq(row.id).is_some())
            .collect();
        if step.fails {
            self.whole = false;
            for row in &live {
                self.kv.revoke(row.id).expect("open");
            }
            for row in &live {
                // Tokens sampled by a failed step never were.
                let epoch = self.epoch();
                if let Some(seq) = self.seq_mut(row.id) {
                    seq.tokens.truncate(seq.known);
                    seq.epoch = epoch;
                }
                if how.is_multiple_of(2) {
                    self.kv.close(row.id);
                    self.forget(row.id);
                } else {
                    self.kv.release(row.id).expect("open");
                    if let Some(seq) = self.seq_mut(row.id) {
                        (seq.written, seq.sealed) = (0, 0);
                    }
                }
            }
            return;
        }
        for row in live {
            let Some(seq) = self.seq(row.id).cloned() else {
                continue;
            };
            if row.epoch == seq.epoch {
                self.kv.seal(row.id, row.target).expect("allocated");
                if let Some(seq) = self.seq_mut(row.id) {
                    seq.sealed = seq.sealed.max(row.target);
                }
            }
            // A result that was in flight when its sequence was preempted still counts.
            if row.samples {
                let new = &seq.tokens[seq.known..seq.known + row.accepted + 1];
                self.kv.append(row.id, new).expect("open");
                if let Some(seq) = self.seq_mut(row.id) {
                    seq.known += row.accepted + 1;
                }
                let known = seq.known + row.accepted + 1;
                if how.is_multiple_of(3) && known == seq.tokens.len() {
                    // Drops the blocks of rejected drafts.
                    self.kv.trim(row.id, known).expect("open");
                }
            }
        }
    }

    fn fork(&mut self, parent: usize, child: usize) {
        let Some(seq) = self.seqs[parent].clone() else {
            return;
        };
        if self.flight.iter().any(|step| step.fails) {
            // The child would outlive the failure of what its parent hit; see the sharing tests.
            return;
        }
        let id = SequenceId::new(child as u32, self.generations[child]);
        if let Some(open) = &self.seqs[child] {
            let open = open.id;
            assert_eq!(self.kv.fork(seq.id, id), Err(KvError::AlreadyOpen(open)));
            return;
        }
        // The child may come to write anew what the parent is ahead with.
        self.whole = false;
        let available = self.kv.available();
        self.kv.fork(seq.id, id).expect("vacant");
        assert_eq!(self.kv.available(), available);
        assert_eq!(
            self.kv.table(seq.id, GroupId::MAIN),
            self.kv.table(id, GroupId::MAIN)
        );
        self.forked = true;
        let epoch = self.epoch();
        let mut tokens = seq.tokens[..seq.known].to_vec();
        let computed = seq.sealed.min(seq.known);
        if computed == seq.known {
            let token = self.sample();
            self.kv.append(id, &[token]).expect("open");
            tokens.push(token);
        }
        self.seqs[child] = Some(Seq {
            id,
            extras: seq.extras,
            known: tokens.len(),
            tokens,
            written: computed,
            sealed: computed,
            epoch,
        });
    }

    fn trim(&mut self, slot: usize, tokens: usize, regrow: bool) {
        let Some(seq) = self.seqs[slot].clone() else {
            return;
        };
        if self.in_flight(seq.id) {
            return;
        }
        let keep = tokens.clamp(1, seq.tokens.len());
        self.kv.trim(seq.id, keep).expect("open");
        self.whole = false;
        let more = if regrow {
            3
        } else {
            usize::from(keep <= seq.sealed)
        };
        let more: Vec<TokenId> = (0..more).map(|_| self.sample()).collect();
        self.kv.append(seq.id, &more).expect("open");
        if let Some(seq) = &mut self.seqs[slot] {
            seq.tokens.truncate(keep);
            seq.tokens.extend(more);
            seq.known = seq.tokens.len();
            seq.written = seq.written.min(keep);
            seq.sealed = seq.sealed.min(keep);
        }
    }

    fn release(&mut self, slot: usize) {
        let epoch = self.epoch();
        if let Some(seq) = &mut self.seqs[slot] {
            self.kv.release(seq.id).expect("open");
            assert!(self.kv.table(seq.id, GroupId::MAIN).is_empty());
            (seq.written, seq.sealed, seq.epoch) = (0, 0, epoch);
        }
    }

    fn close(&mut self, slot: usize) {
        if let Some(seq) = self.seqs[slot].take() {
            self.kv.close(seq.id);
            assert!(!self.kv.is_open(seq.id));
            self.generations[slot] += 1;
        }
    }

    fn reset(&mut self) {
        let held = self.kv.stats().held_blocks;
        let before = snapshot(&self.kv);
        match self.kv.reset() {
            Ok(()) => {
                assert_eq!(held, 0);
                assert!(sealed_identities(&self.kv).is_empty());
            }
            Err(error) => {
                assert_eq!(error, KvError::Held { held });
                assert_eq!(snapshot(&self.kv), before);
            }
        }
    }

    fn pin(&mut self, stem: u8, len: usize, tenant: u8) {
        let (tokens, extras) = prompt(stem, len, tenant);
        let cached = naive_front(&self.kv, &tokens, &extras).len();
        let named = match self.kv.chain {
            Some(chain) => chain.identities(&extras, &tokens, self.kv.layout().block_size),
            None => Vec::new(),
        };
        let pinned = self.kv.stats().pinned_blocks;
        let wanted = named.iter().filter(|it| self.kv.pool.pins_of(**it) == 0);
        let wanted = wanted.count();
        let limit = Self::max_pinned(self.kv.stats().total_blocks);
        let (available, before) = (self.kv.available(), snapshot(&self.kv));
        match self.kv.pin(&tokens, &extras) {
            Ok(told) => {
                assert!(pinned + wanted <= limit);
                let blocks = named.len();
                assert_eq!(told, Pinned { blocks, cached });
                self.pins.push((tokens, extras));
            }
            Err(error) => {
                assert!(pinned + wanted > limit);
                let too_many = KvError::TooManyPinned {
                    pinned,
                    wanted,
                    limit,
                };
                assert_eq!(error, too_many);
                assert_eq!(snapshot(&self.kv), before);
            }
        }
        assert_eq!(self.kv.available(), available);
    }

    fn unpin(&mut self, nth: usize) {
        let available = self.kv.available();
        if self.pins.is_empty() {
            let before = snapshot(&self.kv);
            let (tokens, extras) = prompt(1, nth, 1);
            self.kv.unpin(&tokens, &extras);
            assert_eq!(snapshot(&self.kv), before);
        } else {
            let (tokens, extras) = self.pins.remove(nth % self.pins.len());
            self.kv.unpin(&tokens, &extras);
            if self.pins.is_empty() {
                let stats = self.kv.stats();
                assert_eq!((stats.pinned_blocks, stats.pinned_cached_blocks), (0, 0));
            }
        }
        assert_eq!(self.kv.available(), available);
    }

    fn nonsense(&mut self, slot: usize) {
        let before = snapshot(&self.kv);
        let gone = SequenceId::new(slot as u32, 1_000_000);
        let unknown = KvError::UnknownSequence(gone);
        let kv = &mut self.kv;
        assert_eq!(kv.allocate(gone, 3), Err(unknown.clone()));
        assert_eq!(kv.demand(gone, 3), Err(unknown.clone()));
        assert_eq!(kv.append(gone, &[1]), Err(unknown.clone()));
        assert_eq!(kv.seal(gone, 1), Err(unknown.clone()));
        assert_eq!(kv.revoke(gone), Err(unknown.clone()));
        assert_eq!(kv.trim(gone, 0), Err(unknown.clone()));
        assert_eq!(kv.fork(gone, SequenceId::new(77, 0)), Err(unknown.clone()));
        assert_eq!(kv.release(gone), Err(unknown));
        kv.close(gone);
        if let Some(seq) = &self.seqs[slot] {
            let beyond = kv.table(seq.id, GroupId::MAIN).len() * kv.layout().block_size + 1;
            assert!(matches!(
                kv.seal(seq.id, beyond),
                Err(KvError::Invalid { .. })
            ));
        }
        assert_eq!(snapshot(&self.kv), before);
    }

    fn seq(&self, id: SequenceId) -> Option<&Seq> {
        self.seqs[id.slot()].as_ref().filter(|seq| seq.id == id)
    }

    fn seq_mut(&mut self, id: SequenceId) -> Option<&mut Seq> {
        self.seqs[id.slot()].as_mut().filter(|seq| seq.id == id)
    }

    fn forget(&mut self, id: SequenceId) {
        self.seqs[id.slot()] = None;
        self.generations[id.slot()] += 1;
    }

    fn check(&mut self) {
        let open: Vec<SequenceId> = self.seqs.iter().flatten().map(|seq| seq.id).collect();
        invariants(&self.kv, &open, self.forked);
        pins(&self.kv, &self.pins, self.collide);
        for (tokens, extras) in &self.pins {
            let front = naive_front(&self.kv, tokens, extras).len();
            assert_eq!(self.kv.cached_blocks(tokens, extras), front);
        }
        for &id in &open {
            let (walked, told) = (naive_prefix(&self.kv, id), self.kv.prefix(id));
            assert!(told >= walked, "{id:?}: {told} of {walked}");
            assert!(!self.whole || told == walked, "{id:?}: {told} of {walked}");
        }

        let size = self.kv.layout().block_size;
        for seq in self.seqs.iter().flatten() {
            assert_eq!(
                self.kv.slots.get(seq.id).expect("open").tokens,
                seq.tokens[..seq.known]
            );
            if self.flight.iter().any(|step| step.fails) {
                continue;
            }
            let table = self.kv.table(seq.id, GroupId::MAIN);
            for position in 0..seq.written {
                let block = table[position / size];
                assert_eq!(
                    self.pages[block.index()][position % size],
                    content(&seq.extras, &seq.tokens[..=position]),
                    "{:?} at {position}",
                    seq.id
                );
            }
        }

        let mut events = Vec::new();
        self.kv.take_events(&mut events);
        for event in events {
            match event {
                BlockEvent::Stored { identity, .. } => {
                    assert!(self.announced.insert(identity.as_u128()));
                }
                BlockEvent::Removed { identity } => {
                    assert!(self.announced.remove(&identity.as_u128()));
                }
                _ => self.announced.clear(),
            }
        }
        assert_eq!(self.announced, sealed_identities(&self.kv));
        let stats = self.kv.stats();
        assert_eq!((stats.query_tokens, stats.hit_tokens), self.counted);
    }

    pub(crate) fn finish(mut self) {
        while !self.flight.is_empty() {
            self.commit(1);
            self.check();
        }
        (0..SLOTS).for_each(|slot| self.close(slot));
        self.check();
        let stats = self.kv.stats();
        assert_eq!(stats.held_blocks, 0);
        assert_eq!(stats.unused_slots, 0);
        assert_eq!(self.kv.available(), stats.total_blocks);
        self.reset();
        self.check();
        while !self.pins.is_empty() {
            self.unpin(0);
            self.check();
        }
    }
}
