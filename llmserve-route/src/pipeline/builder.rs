//! Parts put together.

use llmserve_core::Request;
use parking_lot::Mutex;

use super::{Best, Filter, Part, Pick, Score, Signal};
use crate::ask::{Ask, Prepared};
use crate::candidates::Candidates;
use crate::fleet::Slot;
use crate::identify::Identify;
use crate::outcome::{Answering, Outcome};
use crate::replica::ReplicaInfo;
use crate::strategy::{KeyBy, Strategy};

/// What is wrong with a pipeline's parts.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PipelineError {
    /// A part reads what nobody provides.
    #[error(
        "a part of the pipeline reads {signal:?}, which has no source: set {}",
        match signal { Signal::Key => "key_by()", Signal::Blocks => "identify()" }
    )]
    NoSource {
        /// What it reads.
        signal: Signal,
    },
    /// A weight is negative or no number.
    #[error("score number {index} has the weight {weight}; weights are at least 0 and finite")]
    BadWeight {
        /// Which score, from 0.
        index: usize,
        /// Its weight.
        weight: f64,
    },
}

/// Filters, scores and a pick, as one [`Strategy`].
///
/// ```
/// use llmserve_route::index::PrefixIndex;
/// use llmserve_route::pipeline::{
///     Balanced, LowCost, Pipeline, PipelineError, PrefixCached, Queue, Signal,
/// };
/// use llmserve_route::TextBlocks;
///
/// let pipeline = Pipeline::builder()
///     .filter(Balanced::default())
///     .score(2.0, Queue)
///     .score(3.0, PrefixCached::new(PrefixIndex::new()))
///     .score(1.0, LowCost)
///     .identify(TextBlocks::default())
///     .build()?;
///
/// // Who has the prompt's KV cannot be told without identities.
/// let blind = Pipeline::builder().score(1.0, PrefixCached::new(PrefixIndex::new())).build();
/// assert_eq!(blind.err(), Some(PipelineError::NoSource { signal: Signal::Blocks }));
/// # drop(pipeline);
/// # Ok::<(), PipelineError>(())
/// ```
pub struct Pipeline {
    filters: Vec<Box<dyn Filter>>,
    scores: Vec<(f64, Box<dyn Score>)>,
    pick: Box<dyn Pick>,
    key_by: Option<KeyBy>,
    identify: Option<Box<dyn Identify>>,
    room: Mutex<Room>,
}

/// Room for a decision, kept from one to the next.
#[derive(Default)]
struct Room {
    scored: Vec<(Slot, f64)>,
    scores: Vec<f64>,
}

/// The parts of a [`Pipeline`].
#[must_use = "a pipeline is made by build()"]
pub struct PipelineBuilder {
    parts: Pipeline,
}

impl Pipeline {
    /// Starts putting a pipeline together: nobody filtered, no scores, the [`Best`] picked.
    pub fn builder() -> PipelineBuilder {
        PipelineBuilder {
            parts: Pipeline {
                filters: Vec::new(),
                scores: Vec::new(),
                pick: Box::new(Best::new()),
                key_by: None,
                identify: None,
                room: Mutex::default(),
            },
        }
    }

    fn parts(&self) -> impl Iterator<Item = &dyn Part> {
        let filters = self.filters.iter().map(|filter| &**filter as &dyn Part);
        let scores = self.scores.iter().map(|(_, score)| &**score as &dyn Part);
        filters.chain(scores).chain([&*self.pick as &dyn Part])
    }
}

impl PipelineBuilder {
    /// Adds a filter. They are applied in the order in which they are added.
    pub fn filter(mut self, filter: impl Filter + 'static) -> Self {
        self.parts.filters.push(Box::new(filter));
        self
    }

    /// Adds a score, which counts `weight` times. Only the ratios of weights matter.
    pub fn score(mut self, weight: f64, score: impl Score + 'static) -> Self {
        self.parts.scores.push((weight, Box::new(score)));
        self
    }

    /// Who picks. Default: [`Best`].
    pub fn pick(mut self, pick: impl Pick + 'static) -> Self {
        self.parts.pick = Box::new(pick);
        self
    }

    /// Where keys come from. Default: nowhere.
    pub fn key_by(mut self, key_by: KeyBy) -> Self {
        self.parts.key_by = Some(key_by);
        self
    }

    /// Where the identities of a prompt's blocks come from. Default: nowhere.
    pub fn identify(mut self, identify: impl Identify + 'static) -> Self {
        self.parts.identify = Some(Box::new(identify));
        self
    }

    /// Checks the parts and puts them together.
    ///
    /// # Errors
    /// [`PipelineError`].
    pub fn build(self) -> Result<Pipeline, PipelineError> {
        let pipeline = self.parts;
        for (index, (weight, _)) in pipeline.scores.iter().enumerate() {
            if !(0.0..f64::INFINITY).contains(weight) {
                return Err(PipelineError::BadWeight {
                    index,
                    weight: *weight,
                });
            }
        }
        for signal in pipeline.parts().flat_map(Part::signals) {
            let has_source = match signal {
                Signal::Key => pipeline.key_by.is_some(),
                Signal::Blocks => pipeline.identify.is_some(),
            };
            if !has_source {
                return Err(PipelineError::NoSource { signal: *signal });
            }
        }
        Ok(pipeline)
    }
}

impl Strategy for Pipeline {
    fn pick(&self, ask: &Ask<'_>, candidates: &Candidates<'_>) -> Option<Slot> {
        let mut set = candidates.set().clone();
        for filter in &self.filters {
            let mut kept = set.clone();
            filter.filter(ask, &candidates.within(&set), &mut kept);
            kept.intersect(&set);
            if !kept.is_empty() {
                set = kept;
            }
        }
        let candidates = candidates.within(&set);
        let Room { scored, scores } = &mut *self.room.lock();
        scored.clear();
        scored.extend(candidates.iter().map(|slot| (slot, 0.0)));
        for (weight, score) in &self.scores {
            scores.clear();
            score.score(ask, &candidates, scores);
            for ((_, sum), score) in scored.iter_mut().zip(scores.iter()) {
                let score = if score.is_nan() {
                    0.0
                } else {
                    score.clamp(0.0, 1.0)
                };
                *sum += weight * score;
            }
        }
        self.pick.pick(ask, &candidates, scored)
    }

    fn prepare(&self, request: &Request) -> Prepared {
        let blocks = self.identify.as_ref().map(|of| of.identify(request));
        Prepared {
            key: self.key_by.and_then(|by| by.key(request)),
            blocks: blocks.unwrap_or_default(),
            ..Prepared::default()
        }
    }

    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        self.parts().for_each(|part| part.joined(slot, info));
    }

    fn left(&self, slot: Slot) {
        self.parts().for_each(|part| part.left(slot));
    }

    fn dispatched(&self, ask: &Ask<'_>, slot: Slot) -> u64 {
        self.parts().for_each(|part| part.dispatched(ask, slot));
        0
    }

    fn answering(&self, slot: Slot, answering: &Answering) {
        self.parts()
            .for_each(|part| part.answering(slot, answering));
    }

    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        self.parts().for_each(|part| part.ended(slot, outcome));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{LowCost, Queue};
    use crate::replica::Replica;
    use crate::set::ReplicaSet;
    use crate::strategy::testing::Bench;

    /// Gives these scores.
    struct Fixed(Vec<f64>);
    impl Part for Fixed {}
    impl Score for Fixed {
        fn score(&self, _: &Ask<'_>, _: &Candidates<'_>, scores: &mut Vec<f64>) {
            scores.extend(&self.0);
        }
    }

    /// Keeps these, whoever is there.
    struct Only(Vec<usize>);
    impl Part for Only {}
    impl Filter for Only {
        fn filter(&self, _: &Ask<'_>, _: &Candidates<'_>, set: &mut ReplicaSet) {
            *set = self.0.iter().copied().collect();
        }
    }

    fn built(builder: PipelineBuilder) -> Pipeline {
        builder.build().expect("valid parts")
    }

    #[test]
    fn scores_add_up_by_weight_and_stay_within_bounds() {
        let changes = [1.0, 3.0, 2.0].map(|cost| move |r: Replica| r.cost(cost));
        let bench = Bench::with(changes).outstanding(&[4, 0, 3]);
        let weighing = |queue, cost| {
            let pipeline = Pipeline::builder().score(queue, Queue).score(cost, LowCost);
            bench.pick(&built(pipeline))
        };
        assert_eq!(weighing(3.0, 1.0), Some(1));
        assert_eq!(weighing(1.0, 3.0), Some(0));
        // 1000 counts as 1, what is no number and what is missing as 0.
        let odd = Pipeline::builder()
            .score(1.0, Fixed(vec![f64::NAN, 1_000.0]))
            .score(1.5, Fixed(vec![0.0, 0.0, 1.0]));
        assert_eq!(bench.pick(&built(odd)), Some(2));
    }

    #[test]
    fn filters_narrow_never_widen_and_never_empty() {
        let bench = Bench::of(4);
        let set: ReplicaSet = [1, 2].into_iter().collect();
        let picked = |filters: &[&[usize]]| {
            let mut builder = Pipeline::builder().score(1.0, Queue);
            for filter in filters {
                builder = builder.filter(Only(filter.to_vec()));
            }
            let ask = Request::text("");
            bench.pick_of(&built(builder), &ask, &set)
        };
        assert_eq!(picked(&[&[0, 2, 3]]), Some(2));
        assert_eq!(picked(&[&[0, 2, 3], &[1]]), Some(2));
        assert_eq!(picked(&[&[0, 3], &[1, 3]]), Some(1));
    }

    #[test]
    fn weights_and_sources_are_checked() {
        for weight in [-1.0, f64::NAN, f64::INFINITY] {
            let bad = Pipeline::builder().score(1.0, Queue).score(weight, Queue);
            let error = bad.build().err();
            assert!(matches!(
                error,
                Some(PipelineError::BadWeight { index: 1, .. })
            ));
        }
        struct Keyed;
        impl Part for Keyed {
            fn signals(&self) -> &[Signal] {
                &[Signal::Key]
            }
        }
        impl Score for Keyed {
            fn score(&self, ask: &Ask<'_>, _: &Candidates<'_>, scores: &mut Vec<f64>) {
                scores.push(f64::from(u8::from(ask.key().is_none())));
                scores.push(f64::from(u8::from(ask.key().is_some())));
            }
        }
        let builder = || Pipeline::builder().score(1.0, Keyed);
        assert_eq!(
            builder().build().err(),
            Some(PipelineError::NoSource {
                signal: Signal::Key
            })
        );
        let keyed = built(builder().key_by(KeyBy::SessionOrPrompt));
        assert_eq!(Bench::of(2).pick_for(&keyed, &Request::text("x")), Some(1));
    }
}
