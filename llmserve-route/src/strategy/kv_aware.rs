//! Where the prompt's KV is, weighed against the load.

use llmserve_core::Request;
use parking_lot::Mutex;

use super::softmax::draw;
use super::{KeyBy, Strategy};
use crate::ask::{Ask, Prepared};
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::identify::{Identify, TextBlocks};
use crate::index::PrefixIndex;
use crate::outcome::{Answering, Outcome};
use crate::random::Rng;
use crate::replica::ReplicaInfo;
use crate::ring::{Points, Seen};

/// What a block of prefill that waits weighs, next to 1 for one that decodes: it is in the way of
/// all first tokens, while a decoding one makes steps a little longer.
const DEFAULT_PREFILL_SCALE: f64 = 4.0;

/// What a block in host memory is worth, next to 1 for one the model can compute from.
const DEFAULT_HOST: f64 = 0.75;

/// What a block on disk is worth.
const DEFAULT_DISK: f64 = 0.25;

/// Share of a prompt that is worth going where it is cached, however long queues are.
const ENOUGH: f64 = 0.8;

/// Prompts that wait at each candidate, in the mean, from which on there is a crowd.
const CROWDED: f64 = 4.0;

/// In a crowd, the requests a home may have relative to an even share.
const HOME_FACTOR: f64 = 1.25;

/// The candidate where a request costs least: prefill that is to be done and not cached, and what
/// is to be done there already.
///
/// ```text
/// cost   = max(0, blocks of the prompt − credit) + load × prompt / max(prompt, mean load)
/// credit = blocks on the device + 0.75 × those in host memory + 0.25 × those on disk
/// load   = scale × prefill waiting there + blocks decoding there
/// ```
///
/// All is in KV blocks: prefill waits from a request's dispatch until its first event, and its
/// blocks decode until its end. With [`temperature`](Self::temperature) 0 the least cost wins, ties
/// being drawn; above, a replica is drawn with a chance that falls with its cost. Where nothing is
/// cached, or nothing is known, that is balancing by load.
///
/// While replicas have less to do than the request itself brings, load counts block for block, as
/// in the rule of NVIDIA Dynamo's router. Under more it counts relative to the mean: a replica with
/// as much above the mean as the mean itself is as bad as one that has nothing cached. Block for
/// block, the fluctuation of a long queue would outweigh any prompt: conversations would leave
/// their KV behind, be computed anew, and make all queues longer.
///
/// In a crowd, where prefill of four such prompts waits in the mean and nobody has four fifths of
/// this one, there is nothing to be saved now, and balancing would spread each conversation's KV over all
/// replicas until no cache holds any for long. The request then goes to its home: the place that
/// consistent hashing with bounded loads gives to its session or, once it has come again, to the
/// beginning of its prompt, as in [`BoundedHash`](crate::BoundedHash).
///
/// Who has what comes from a [`PrefixIndex`], which engines feed with their events; what is sent
/// somewhere is assumed there at once, so that requests with the same new prefix that come in
/// quick succession stay together. Without feeds the assumptions alone are a fair guess:
/// [`approximate`](Self::approximate).
///
/// | setting | default |
/// | --- | --- |
/// | [`prefill_scale`](Self::prefill_scale) | 4.0 |
/// | [`tier_credit`](Self::tier_credit) of host and disk | 0.75 and 0.25 |
/// | [`temperature`](Self::temperature) | 0 |
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # use llmserve_route::{Replica, Router};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use llmserve_route::KvAware;
/// let router = Router::builder()
///     .replicas(["a", "b", "c"].map(|name| Replica::new(name, Closed)))
///     .strategy(KvAware::approximate())
///     .build()?;
/// // One after another, requests with the same beginning go to the same replica.
/// let request = |end: &str| Request::text("A long story. ".repeat(99) + end);
/// (0..9).for_each(|n| drop(router.generate(request(&n.to_string()))));
/// assert!(router.stats().replicas.iter().any(|replica| replica.dispatched == 9));
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
pub struct KvAware {
    index: PrefixIndex,
    identify: Box<dyn Identify>,
    prefill_scale: f64,
    host: f64,
    disk: f64,
    temperature: f64,
    rng: Rng,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Where sessions and prompts are at home.
    homes: Points,
    seen: Seen,
    /// By slot index.
    members: Vec<Member>,
    /// By slot index, of the decision at hand: what need not be computed, in blocks.
    credits: Vec<f64>,
    /// By slot index, of the decision at hand: blocks on the device.
    device: Vec<u32>,
    /// By slot index, of the decision at hand; infinite for those that are no candidates.
    costs: Vec<f64>,
    /// Costs of candidates, where one is drawn.
    drawn: Vec<(Slot, f64)>,
    /// Of the decision at hand.
    picked: Option<Picked>,
}

/// What a pick is to be charged with.
#[derive(Clone, Copy)]
struct Picked {
    slot: Slot,
    /// Blocks to be computed.
    uncached: u32,
    /// Blocks of the prompt.
    prompt: u32,
    /// Of them on the device there.
    device: usize,
}

/// What a replica has to do, in blocks.
#[derive(Clone, Copy, Default)]
struct Member {
    prefilling: u64,
    decoding: u64,
}

impl KvAware {
    /// With an index that is fed with events of engines whose blocks `identify` names.
    pub fn new(index: PrefixIndex, identify: impl Identify + 'static) -> Self {
        Self {
            index,
            identify: Box::new(identify),
            prefill_scale: DEFAULT_PREFILL_SCALE,
            host: DEFAULT_HOST,
            disk: DEFAULT_DISK,
            temperature: 0.0,
            rng: Rng::new(),
            state: Mutex::default(),
        }
    }

    /// By what was sent where, in chunks of text: for replicas that tell nothing.
    pub fn approximate() -> Self {
        Self::new(PrefixIndex::new(), TextBlocks::default())
    }

    /// What a block of prefill that waits weighs in a replica's load, next to 1 for a block that
    /// decodes. Higher looks more at the time to the first token, lower at that between tokens.
    pub fn prefill_scale(mut self, scale: f64) -> Self {
        self.prefill_scale = scale;
        self
    }

    /// What a block in host memory and one on disk are worth, next to 1 on the device.
    pub fn tier_credit(mut self, host: f64, disk: f64) -> Self {
        (self.host, self.disk) = (host, disk);
        self
    }

    /// 0: the least cost. Above: the chance of a candidate is proportional to `exp(−cost /
    /// temperature)`, costs being scaled to 0 for the least and 1 for the highest.
    pub fn temperature(mut self, temperature: f64) -> Self {
        self.temperature = temperature;
        self
    }

    /// The same draws for the same seed. Default: seeded by the system.
    pub fn seed(mut self, seed: u64) -> Self {
        self.rng = Rng::seeded(seed);
        self
    }

    /// The index it goes by.
    pub fn index(&self) -> &PrefixIndex {
        &self.index
    }
}

impl State {
    fn member(&mut self, slot: Slot) -> &mut Member {
        if slot.index() >= self.members.len() {
            self.members.resize(slot.index() + 1, Member::default());
        }
        &mut self.members[slot.index()]
    }
}

/// The lowest of `costs`, of which none is no number; infinity if there are none.
fn lowest(costs: &[f64]) -> f64 {
    // In lanes, because the order in which floats are compared is not for a compiler to change.
    let mut lanes = [f64::INFINITY; 8];
    let least = |a: f64, b: f64| if b < a { b } else { a };
    let mut chunks = costs.chunks_exact(lanes.len());
    for chunk in &mut chunks {
        for (lane, cost) in lanes.iter_mut().zip(chunk) {
            *lane = least(*lane, *cost);
        }
    }
    let rest = chunks.remainder().iter().copied();
    lanes.into_iter().chain(rest).fold(f64::INFINITY, least)
}

impl Strategy for KvAware {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let mut state = self.state.lock();
        let State {
            homes,
            seen,
            members,
            credits,
            device,
            costs,
            drawn,
            picked,
        } = &mut *state;
        let highest = candidates.fleet().places();
        members.resize(members.len().max(highest), Member::default());
        credits.clear();
        credits.resize(highest, 0.0);
        device.clear();
        device.resize(highest, 0);
        if !ask.blocks().is_empty() {
            self.index
                .find_each(ask.blocks(), Some(ask.now), |slot, has| {
                    if let Some(credit) = credits.get_mut(slot.index()) {
                        *credit = has.credit(self.host, self.disk);
                        device[slot.index()] = has.device as u32;
                    }
                });
        }
        // The prompt's last block may not be full, and is computed all the same.
        let prompt = ask
            .prompt_tokens
            .div_ceil(self.identify.block_tokens() as u64);
        let prompt = prompt.max(ask.blocks().len() as u64) as f64;
        let (mut prefilling, mut decoding) = (0, 0);
        candidates.each(|index, _| {
            prefilling += members[index].prefilling;
            decoding += members[index].decoding;
        });
        let load = |prefilling: u64, decoding: u64| {
            self.prefill_scale * prefilling as f64 + decoding as f64
        };
        let mean = load(prefilling, decoding) / candidates.len().max(1) as f64;
        // Where everybody has less than this request to do, load is taken as it is.
        let share = prompt / mean.max(prompt).max(1.0);
        costs.clear();
        costs.resize(highest, f64::INFINITY);
        candidates.each(|index, _| {
            let member = members[index];
            let uncached = (prompt - credits[index]).max(0.0);
            costs[index] = uncached + share * load(member.prefilling, member.decoding);
        });
        // Of those that can be asked: what the others have is out of reach.
        let mut most = 0.0;
        candidates.each(|index, _| most = f64::max(most, credits[index]));
        let again = ask.key().is_some_and(|key| seen.again(key));
        let home = ask.key().filter(|_| {
            let waiting = prefilling as f64 / candidates.len().max(1) as f64;
            let some = prompt * ENOUGH;
            !ask.blocks().is_empty()
                && waiting > CROWDED * prompt
                && (again || ask.request.routing.session.is_some())
                && most < some
        });
        let slot = if let Some(key) = home {
            homes.within(key, candidates, HOME_FACTOR, 1)?
        } else if self.temperature > 0.0 {
            drawn.clear();
            drawn.extend(candidates.iter().map(|slot| (slot, costs[slot.index()])));
            draw(drawn, self.temperature, &self.rng)?
        } else {
            let lowest = lowest(costs);
            // Of equals each is drawn with the same chance, in one pass.
            let (mut least, mut equals) = (None, 0);
            for (index, cost) in costs.iter().enumerate() {
                if *cost == lowest && candidates.set().contains(index) {
                    equals += 1;
                    if self.rng.below(equals) == 0 {
                        least = Some(index);
                    }
                }
            }
            candidates.fleet().slot(least?)
        };
        let (credit, device) = (credits[slot.index()], device[slot.index()]);
        *picked = Some(Picked {
            slot,
            uncached: (prompt - credit).max(0.0).round() as u32,
            prompt: prompt as u32,
            device: device as usize,
        });
        Some(slot)
    }

    fn prepare(&self, request: &Request) -> Prepared {
        Prepared {
            blocks: self.identify.identify(request),
            key: KeyBy::SessionOrPrompt.key(request),
            ..Prepared::default()
        }
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let mut state = self.state.lock();
        *state.member(slot) = Member::default();
        state.homes.join(slot, info);
        drop(state);
        self.index.join(slot, &info.name);
    }

    fn left(&self, slot: Slot) {
        let mut state = self.state.lock();
        *state.member(slot) = Member::default();
        state.homes.leave(slot);
        drop(state);
        self.index.leave(slot);
    }

    fn dispatched(&self, ask: &Ask<'_>, slot: Slot) -> u64 {
        let picked = {
            let mut state = self.state.lock();
            let picked = state.picked.take().filter(|picked| picked.slot == slot);
            let Some(picked) = picked else { return 0 };
            let member = state.member(slot);
            member.prefilling += u64::from(picked.uncached);
            member.decoding += u64::from(picked.prompt);
            picked
        };
        self.index
            .assume_soon(slot, ask.blocks(), picked.device, ask.now);
        u64::from(picked.uncached) << 32 | u64::from(picked.prompt)
    }

    fn answering(&self, slot: Slot, answering: &Answering) {
        let mut state = self.state.lock();
        let prefilling = &mut state.member(slot).prefilling;
        *prefilling = prefilling.saturating_sub(answering.credit >> 32);
        drop(state);
        self.index.continue_assuming();
    }

    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        let mut state = self.state.lock();
        let member = state.member(slot);
        if outcome.answering.is_none() {
            member.prefilling = member.prefilling.saturating_sub(outcome.credit >> 32);
        }
        let prompt = outcome.credit & u64::from(u32::MAX);
        member.decoding = member.decoding.saturating_sub(prompt);
        drop(state);
        self.index.continue_assuming();
    }
}

impl std::fmt::Debug for KvAware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KvAware")
            .field("index", &self.index)
            .field("prefill_scale", &self.prefill_scale)
            .field("temperature", &self.temperature)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::Tier;
    use crate::outcome::End;
    use crate::strategy::testing::Bench;
    use llmserve_core::{BlockEvent, BlockIdentity, Extras, IdentityRoot, Time};
    use std::time::Duration;

    fn root() -> IdentityRoot {
        IdentityRoot::new(1, "f32", 4)
    }

    fn aware() -> KvAware {
        let index = PrefixIndex::new();
        KvAware::new(index, crate::identify::TokenBlocks::new(root(), 4)).seed(1)
    }

    /// The identities of the blocks of `tokens`.
    fn blocks(tokens: &[u32]) -> Vec<BlockIdentity> {
        let mut chunks = tokens.chunks_exact(4);
        let first = root().first(&Extras::default(), chunks.next().expect("a block"));
        let mut chain = vec![first];
        chain.extend(chunks.scan(first, |before, tokens| {
            *before = before.next(tokens);
            Some(*before)
        }));
        chain
    }

    fn tell(strategy: &KvAware, name: &str, tier: Tier, tokens: &[u32]) {
        let events = blocks(tokens)
            .into_iter()
            .map(|identity| BlockEvent::Stored {
                identity,
                parent: None,
                tokens: Vec::new(),
            });
        let events: Vec<_> = events.collect();
        strategy.index().feed(name, tier).apply(&events);
    }

    /// Picks and dispatches; where to, and the credit.
    fn send(strategy: &KvAware, bench: &Bench, tokens: &[u32]) -> (usize, u64) {
        let request = Request::tokens(tokens);
        let prepared = strategy.prepare(&request);
        let all = (0..bench.loads.len()).collect();
        let picked = bench.pick_prepared(strategy, &request, &prepared, &all);
        let picked = picked.expect("somebody");
        let slot = Slot::new(picked as u32, 0);
        let credit = strategy.dispatched(&Ask::new(&request, &prepared), slot);
        (picked, credit)
    }

    fn outcome(credit: u64, answering: Option<Duration>) -> Outcome<'static> {
        Outcome {
            end: End::Finished,
            now: Time::ZERO,
            answering,
            duration: Duration::ZERO,
            permit: 0,
            credit,
        }
    }

    #[test]
    fn cached_blocks_draw_and_load_repels() {
        let strategy = aware();
        let bench = Bench::of(3).join(&strategy);
        let prompt: Vec<u32> = (0..40).collect();
        tell(&strategy, "r2", Tier::Device, &prompt[..24]);
        // Ten blocks, six of them there: four to compute.
        let (at, credit) = send(&strategy, &bench, &prompt);
        assert_eq!((at, credit), (2, 4 << 32 | 10));
        // Elsewhere it costs 10; there 0 to compute, 4 that wait and 10 that decode.
        let (at, other) = send(&strategy, &bench, &prompt);
        assert_ne!(at, 2);
        assert_eq!(other, 10 << 32 | 10);
        // Computed and ended: nothing weighs, and all of it is there.
        let answering = Answering {
            after: Duration::ZERO,
            now: Time::ZERO,
            credit,
        };
        strategy.answering(Slot::new(2, 0), &answering);
        strategy.ended(Slot::new(2, 0), &outcome(credit, Some(Duration::ZERO)));
        strategy.ended(Slot::new(at as u32, 0), &outcome(other, None));
        for member in &strategy.state.lock().members {
            assert_eq!((member.prefilling, member.decoding), (0, 0));
        }
        let ask = Request::tokens(&prompt[..]);
        let picks: Vec<_> = (0..20).map(|_| bench.pick_for(&strategy, &ask)).collect();
        // Both have it now, by word or by assumption; ties are drawn.
        assert!(
            picks.contains(&Some(2)) && picks.contains(&Some(at)),
            "{picks:?}"
        );
    }

    #[test]
    fn tiers_are_worth_less_the_further_away() {
        let strategy = aware();
        let bench = Bench::of(3).join(&strategy);
        let prompt: Vec<u32> = (0..40).collect();
        tell(&strategy, "r0", Tier::Disk, &prompt);
        tell(&strategy, "r1", Tier::Host, &prompt[..16]);
        tell(&strategy, "r2", Tier::Device, &prompt[..8]);
        // 0.25 x 10, 0.75 x 4 and 2.
        assert_eq!(
            bench.pick_for(&strategy, &Request::tokens(&prompt[..])),
            Some(1)
        );
        let strategy = strategy.tier_credit(0.4, 0.3);
        assert_eq!(
            bench.pick_for(&strategy, &Request::tokens(&prompt[..])),
            Some(0)
        );
    }

    #[test]
    fn without_blocks_it_balances_and_a_newcomer_has_nothing() {
        let strategy = aware();
        let bench = Bench::of(4).join(&strategy);
        // Nothing is known of text without a tokenizer.
        let text = Request::text("x".repeat(64));
        let mut of = [0; 4];
        for _ in 0..40 {
            let prepared = strategy.prepare(&text);
            assert!(prepared.blocks.is_empty());
            let at = bench.pick_for(&strategy, &text).unwrap();
            strategy.dispatched(&Ask::new(&text, &prepared), Slot::new(at as u32, 0));
            of[at] += 1;
        }
        assert_eq!(of, [10; 4]);
        let slot = Slot::new(1, 0);
        strategy.left(slot);
        assert_eq!(bench.pick_for(&strategy, &text), Some(1));
    }

    #[test]
    fn temperature_spreads() {
        let prompt: Vec<u32> = (0..40).collect();
        let picks = |temperature| {
            let strategy = aware().temperature(temperature);
            let bench = Bench::of(2).join(&strategy);
            tell(&strategy, "r0", Tier::Device, &prompt);
            let ask = Request::tokens(&prompt[..]);
            (0..1_000)
                .filter(|_| bench.pick_for(&strategy, &ask) == Some(0))
                .count()
        };
        assert_eq!(picks(0.0), 1_000);
        // exp(0) against exp(-1).
        assert!((690..770).contains(&picks(1.0)), "{}", picks(1.0));
        assert!(picks(0.1) > 990);
    }

    #[test]
    fn in_a_crowd_who_has_nothing_cached_goes_home() {
        let strategy = aware();
        let bench = Bench::of(4).join(&strategy);
        let ask = |session: &str| {
            let routing = llmserve_core::Routing::default().session(session);
            Request::tokens((0..40).collect::<Vec<u32>>()).routing(routing)
        };
        let homes = |strategy: &KvAware| {
            let home = |at: usize| bench.pick_for(strategy, &ask(&at.to_string()));
            (0..30).map(home).collect::<Vec<_>>()
        };
        // A little waits: the one that has least to do.
        strategy.state.lock().members[0].prefilling = 1;
        assert!(!homes(&strategy).contains(&Some(0)));
        for member in &mut strategy.state.lock().members {
            member.prefilling = 100;
        }
        strategy.state.lock().members[3].prefilling = 60;
        let crowd = homes(&strategy);
        assert_eq!(homes(&strategy), crowd);
        assert!((0..4).all(|at| crowd.contains(&Some(at))), "{crowd:?}");
        // Whoever has it, has it.
        tell(
            &strategy,
            "r2",
            Tier::Device,
            &(0..40).collect::<Vec<u32>>(),
        );
        assert!(homes(&strategy).iter().all(|at| *at == Some(2)));
    }
}
