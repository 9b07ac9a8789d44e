//! The one that answers soonest.

use std::collections::HashMap;
use std::time::Duration;

use llmserve_core::Time;
use parking_lot::Mutex;

use super::{Strategy, turns::Turns};
use crate::ask::Ask;
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::load::Load;
use crate::outcome::Answering;

/// Weight of the newest time in an average.
const DEFAULT_WEIGHT: f64 = 0.3;

/// Requests at once that double the time expected of a replica without a capacity.
const DEFAULT_CAPACITY: f64 = 32.0;

/// An average not renewed for this long is no longer believed.
const DEFAULT_STALE: Duration = Duration::from_secs(30);

/// Models told apart; those beyond share one average. Names come from requests, so that their
/// number is not to be trusted.
const MOST_MODELS: usize = 256;

/// The candidate with the least `average × (1 + outstanding / capacity)`: the average time to the
/// first event of the model there, and what waits before it.
///
/// Follows replicas that differ in speed, and one that slows down, which counts of requests show
/// late. Averages are exponentially weighted, for each model and replica. What is missing has a
/// meaning: without an average, or with a stale one, a replica counts as the mean of those
/// candidates that have one, so that it is tried soon but not with everything at once; where nobody
/// has one, load alone decides. Without a [capacity](crate::ReplicaInfo::capacity) it counts as
/// 32. A request that fails tells nothing of how fast the replica is.
///
/// | setting | default |
/// | --- | --- |
/// | [`weight`](Self::weight) | 0.3 |
/// | [`stale_after`](Self::stale_after) | 30 s |
#[derive(Debug)]
pub struct LatencyAware {
    weight: f64,
    stale: Duration,
    turns: Turns,
    averages: Mutex<Averages>,
}

#[derive(Debug, Default)]
struct Averages {
    /// Where in `of` a model's averages are.
    models: HashMap<String, usize>,
    /// By model, by slot index.
    of: Vec<Vec<Average>>,
}

/// An average, or the lack of one.
#[derive(Clone, Copy, Debug, Default)]
struct Average {
    seconds: f64,
    /// When it is no longer believed, in nanoseconds; 0 if there never was one.
    until: u64,
}

impl Average {
    /// Whether it is believed.
    fn fresh(self, now: u64) -> bool {
        now < self.until
    }
}

/// How much longer it takes for what waits there.
fn queue(load: &Load) -> f64 {
    let outstanding = f64::from(load.outstanding);
    match load.capacity {
        u32::MAX => outstanding * (1.0 / DEFAULT_CAPACITY),
        capacity => outstanding / f64::from(capacity),
    }
}

/// A time in nanoseconds, of which there are enough for five centuries.
fn nanos(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl LatencyAware {
    /// With the defaults.
    pub fn new() -> Self {
        Self {
            weight: DEFAULT_WEIGHT,
            stale: DEFAULT_STALE,
            turns: Turns::default(),
            averages: Mutex::default(),
        }
    }

    /// The weight of the newest time in an average, above 0 and at most 1; others are taken as the
    /// nearest of that.
    pub fn weight(mut self, weight: f64) -> Self {
        self.weight = weight.clamp(0.001, 1.0);
        self
    }

    /// How long an average is believed without being renewed.
    pub fn stale_after(mut self, stale: Duration) -> Self {
        self.stale = stale;
        self
    }
}

impl Default for LatencyAware {
    fn default() -> Self {
        Self::new()
    }
}

impl Averages {
    /// Where the averages of `model` are.
    fn model(&mut self, model: Option<&str>) -> usize {
        let name = model.unwrap_or_default();
        if let Some(at) = self.models.get(name) {
            return *at;
        }
        if self.of.len() >= MOST_MODELS {
            return MOST_MODELS - 1;
        }
        self.of.push(Vec::new());
        self.models.insert(name.to_owned(), self.of.len() - 1);
        self.of.len() - 1
    }
}

impl Strategy for LatencyAware {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let mut averages = self.averages.lock();
        let at = averages.model(ask.model);
        let places = candidates.fleet().places();
        let of = &mut averages.of[at];
        if of.len() < places {
            of.resize(places, Average::default());
        }
        let (of, now) = (&of[..], nanos(ask.now));
        // Of times, none of which is negative, the bits are in order.
        let expected = |seconds: f64, load: &Load| (seconds * (1.0 + queue(load))).to_bits();
        let mut first_stale = u64::MAX;
        candidates.each(|index, _| first_stale = first_stale.min(of[index].until));
        if now < first_stale {
            return self
                .turns
                .least(candidates, |index, load| expected(of[index].seconds, load));
        }
        let (mut sum, mut known) = (0.0, 0.0);
        candidates.each(|index, _| {
            if of[index].fresh(now) {
                sum += of[index].seconds;
                known += 1.0;
            }
        });
        let presumed = if known > 0.0 { sum / known } else { 1.0 };
        self.turns.least(candidates, |index, load| {
            let average = of[index];
            let fresh = average.fresh(now);
            expected(if fresh { average.seconds } else { presumed }, load)
        })
    }

    fn left(&self, slot: Slot) {
        self.turns.forget(slot);
        for model in &mut self.averages.lock().of {
            if let Some(average) = model.get_mut(slot.index()) {
                *average = Average::default();
            }
        }
    }

    fn dispatched(&self, ask: &Ask<'_>, _slot: Slot) -> u64 {
        self.averages.lock().model(ask.model) as u64
    }

    fn answering(&self, slot: Slot, answering: &Answering) {
        let mut averages = self.averages.lock();
        let Some(model) = averages.of.get_mut(answering.credit as usize) else {
            return;
        };
        if slot.index() >= model.len() {
            model.resize(slot.index() + 1, Average::default());
        }
        let seconds = answering.after.as_secs_f64();
        let average = &mut model[slot.index()];
        // What is no longer believed is not averaged with either.
        average.seconds = if average.fresh(nanos(answering.now)) {
            average.seconds + self.weight * (seconds - average.seconds)
        } else {
            seconds
        };
        let until = nanos(answering.now.saturating_add(self.stale));
        average.until = until.saturating_add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ask::Prepared;
    use crate::replica::Replica;
    use crate::strategy::testing::Bench;
    use llmserve_core::Request;

    /// Has `strategy` see a first event of `model` after `millis`, at `now` seconds.
    fn seen(strategy: &LatencyAware, model: &str, at: u32, millis: u64, now: u64) {
        let (request, prepared) = (Request::text("").model(model), Prepared::default());
        let slot = Slot::new(at, 0);
        let credit = strategy.dispatched(&Ask::new(&request, &prepared), slot);
        let answering = Answering {
            after: Duration::from_millis(millis),
            now: Duration::from_secs(now),
            credit,
        };
        strategy.answering(slot, &answering);
    }

    fn asked(bench: &Bench, strategy: &LatencyAware, model: &str) -> Option<usize> {
        bench.pick_for(strategy, &Request::text("").model(model))
    }

    #[test]
    fn speed_and_queue_multiply_for_each_model() {
        let strategy = LatencyAware::new();
        let bench = Bench::with([|r: Replica| r.capacity(4); 2]).outstanding(&[2, 0]);
        seen(&strategy, "m", 0, 100, 0);
        seen(&strategy, "m", 1, 160, 0);
        seen(&strategy, "n", 0, 100, 0);
        seen(&strategy, "n", 1, 140, 0);
        // 100 x 1.5 against 160 and 140.
        assert_eq!(asked(&bench, &strategy, "m"), Some(0));
        assert_eq!(asked(&bench, &strategy, "n"), Some(1));
        // The average moves by three tenths: 100 to 130, and 195 is more than 160.
        seen(&strategy, "m", 0, 200, 0);
        assert_eq!(asked(&bench, &strategy, "m"), Some(1));
    }

    #[test]
    fn what_is_missing_is_the_mean() {
        let strategy = LatencyAware::new().stale_after(Duration::from_secs(5));
        let bench = Bench::of(3);
        // Nobody is known: load alone.
        let loaded = Bench::of(3).outstanding(&[2, 1, 3]);
        assert_eq!(asked(&loaded, &strategy, "m"), Some(1));
        seen(&strategy, "m", 0, 100, 0);
        seen(&strategy, "m", 1, 300, 0);
        // The third counts as 200: worse than the first, better than the second.
        assert_eq!(asked(&bench, &strategy, "m"), Some(0));
        let busy = Bench::of(3).outstanding(&[60, 0, 0]);
        assert_eq!(asked(&busy, &strategy, "m"), Some(2));
        // The first one's good time is long ago at 9 s: it counts as the mean of the others.
        seen(&strategy, "m", 1, 50, 9);
        seen(&strategy, "m", 2, 90, 9);
        let (request, prepared) = (Request::text("").model("m"), Prepared::default());
        let mut ask = Ask::new(&request, &prepared);
        ask.now = Duration::from_secs(9);
        let all = (0..3).collect();
        let candidates = Candidates::new(&bench.fleet, &bench.loads, &all);
        let picked = strategy.pick(&ask, &candidates).map(Slot::index);
        assert_eq!(picked, Some(1));
        // A newcomer in its slot has no past: it counts as the third, which had a turn before.
        strategy.left(Slot::new(1, 0));
        let picked = strategy.pick(&ask, &candidates).map(Slot::index);
        assert_eq!(picked, Some(1));
        assert!(!strategy.averages.lock().of[0][1].fresh(0));
    }

    #[test]
    fn names_of_models_do_not_fill_memory() {
        let strategy = LatencyAware::new();
        for name in 0..2 * MOST_MODELS {
            seen(&strategy, &name.to_string(), 0, 1, 0);
        }
        let averages = strategy.averages.lock();
        assert_eq!((averages.of.len(), averages.models.len()), (256, 256));
    }
}
