//! Traffic, request by request.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::Time;

use super::arrivals::Moments;
use super::random::Random;
use super::request::{SharedPrefix, SimulatedRequest};
use super::traffic::Traffic;

/// The requests of all traffics of a [`Simulation`](super::Simulation), in the order they come;
/// made one by one, so that a million take no more memory than ten.
#[derive(Clone, Debug)]
pub struct Requests {
    sources: Vec<Source>,
    /// When each source's next request comes, soonest first, then by the source's number.
    next: BinaryHeap<Reverse<(Time, usize)>>,
}

/// One traffic, and how far it has come.
#[derive(Clone, Debug)]
struct Source {
    traffic: Traffic,
    tenant: Option<Arc<str>>,
    /// The number of its first prefix.
    first_prefix: u32,
    /// Requests whose arrival was not drawn yet.
    left: u64,
    moments: Moments,
    /// Arrivals have a stream of their own: what else is drawn does not move them.
    arriving: Random,
    random: Random,
}

impl Requests {
    pub(super) fn new(traffics: &[Traffic], seed: u64) -> Self {
        let mut first_prefix = 0u32;
        let mut sources = Vec::with_capacity(traffics.len());
        let mut next = BinaryHeap::new();
        for (number, traffic) in traffics.iter().enumerate() {
            let mut source = Source {
                tenant: traffic.tenant.as_deref().map(Arc::from),
                first_prefix,
                left: traffic.requests,
                moments: Moments::new(traffic.arrivals),
                arriving: Random::stream(seed, 2 * number as u64),
                random: Random::stream(seed, 2 * number as u64 + 1),
                traffic: traffic.clone(),
            };
            let count = traffic.prefixes.map_or(0, |prefixes| prefixes.count);
            first_prefix = first_prefix.wrapping_add(count);
            next.extend(source.arrival().map(|at| Reverse((at, number))));
            sources.push(source);
        }
        Self { sources, next }
    }
}

impl Iterator for Requests {
    type Item = SimulatedRequest;

    fn next(&mut self) -> Option<SimulatedRequest> {
        let mut front = self.next.peek_mut()?;
        let Reverse((arrival, number)) = *front;
        let source = &mut self.sources[number];
        let request = source.draw(arrival);
        match source.arrival() {
            Some(at) => *front = Reverse((at, number)),
            None => _ = std::collections::binary_heap::PeekMut::pop(front),
        }
        Some(request)
    }
}

impl Source {
    fn arrival(&mut self) -> Option<Time> {
        self.left = self.left.checked_sub(1)?;
        let moment = self.moments.next(&mut self.arriving);
        Some(self.traffic.start.saturating_add(moment))
    }

    fn draw(&mut self, arrival: Time) -> SimulatedRequest {
        let (traffic, random) = (&self.traffic, &mut self.random);
        let own = traffic.prompt.draw(random);
        let output_tokens = traffic.output.draw(random);
        let prefix = traffic.prefixes.and_then(|prefixes| {
            let has_one = random.unit() < prefixes.share;
            let which = random.below(prefixes.count as usize) as u32;
            has_one.then_some(SharedPrefix {
                id: self.first_prefix.wrapping_add(which),
                tokens: prefixes.tokens,
            })
        });
        let cancel = traffic.cancels.and_then(|cancels| {
            let gives_up = random.unit() < cancels.share;
            let after = random.exponential(cancels.after.as_secs_f64());
            let after = Duration::try_from_secs_f64(after).unwrap_or(Duration::MAX);
            gives_up.then_some(after)
        });
        SimulatedRequest {
            arrival,
            prompt_tokens: own + prefix.map_or(0, |prefix| prefix.tokens),
            output_tokens,
            max_tokens: traffic.max_tokens,
            tenant: self.tenant.clone(),
            priority: traffic.priority,
            deadline: traffic.deadline,
            cancel,
            prefix,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulation::{Arrivals, Cancels, Prefixes};

    fn traffics() -> Vec<Traffic> {
        let named = |name: &str, per_second, count| Traffic {
            requests: 4000,
            tenant: Some(name.to_owned()),
            arrivals: Arrivals::Poisson { per_second },
            prefixes: Some(Prefixes {
                count,
                tokens: 64,
                share: 0.5,
            }),
            cancels: Some(Cancels {
                share: 0.25,
                after: Duration::from_secs(2),
            }),
            ..Traffic::default()
        };
        vec![named("a", 40.0, 3), named("b", 10.0, 2)]
    }

    #[test]
    fn traffics_are_merged_in_order_and_repeat_with_their_seed() {
        let requests: Vec<_> = Requests::new(&traffics(), 1).collect();
        assert_eq!(requests.len(), 8000);
        assert!(requests.is_sorted_by_key(|request| request.arrival));
        assert!(
            requests
                .iter()
                .eq(Requests::new(&traffics(), 1).collect::<Vec<_>>().iter())
        );
        let other: Vec<_> = Requests::new(&traffics(), 2).collect();
        assert_ne!(requests, other);
    }

    #[test]
    fn shares_are_kept_and_prefixes_stay_with_their_traffic() {
        let requests: Vec<_> = Requests::new(&traffics(), 1).collect();
        let share = |of: &dyn Fn(&SimulatedRequest) -> bool| {
            requests.iter().filter(|r| of(r)).count() as f64 / requests.len() as f64
        };
        assert!((share(&|r| r.prefix.is_some()) - 0.5).abs() < 0.03);
        assert!((share(&|r| r.cancel.is_some()) - 0.25).abs() < 0.03);
        for request in &requests {
            let Some(prefix) = request.prefix else {
                continue;
            };
            assert!(request.prompt_tokens > prefix.tokens);
            assert_eq!(request.tenant.as_deref() == Some("a"), prefix.id < 3);
        }
    }

    #[test]
    fn arrivals_do_not_move_with_what_else_is_drawn() {
        let plain: Vec<Traffic> = traffics()
            .into_iter()
            .map(|t| Traffic {
                prefixes: None,
                cancels: None,
                ..t
            })
            .collect();
        let arrivals = |traffics: &[Traffic]| -> Vec<Time> {
            Requests::new(traffics, 9).map(|r| r.arrival).collect()
        };
        assert_eq!(arrivals(&plain), arrivals(&traffics()));
    }
}
