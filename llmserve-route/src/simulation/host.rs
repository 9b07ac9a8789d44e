//! The loop around router and replicas.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{BlockIdentity, Clock, Error, EventStream, Extras, Generate, Request, Routing};

use super::clients::Clients;
use super::hardware::ReplicaModel;
use super::policy::{Policy, root};
use super::replica::{Job, Progress, SimReplica};
use super::report::{Finished, Meters};
use super::request::SimulatedRequest;
use super::{Report, SimulationError};
use crate::index::{Feed, Tier};
use crate::outcome::End;
use crate::replica::Replica;
use crate::router::{Assigned, Router};
use crate::timer::ManualTimer;

/// What stands in a router for a simulated replica, and is never asked.
struct Simulated;

impl Generate for Simulated {
    fn generate(&self, _request: Request) -> EventStream {
        EventStream::failed(Error::ShutDown)
    }
}

/// Where requests come from.
pub(super) enum Source<I: Iterator> {
    Clients(Clients),
    Trace(std::iter::Peekable<I>),
}

/// What happens next; at the same moment in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A replica's step ends.
    Stepped(usize),
    /// A client sends its next message.
    Sends(usize),
    /// The next request of the trace comes.
    Arrives,
}

/// A request under way.
struct Flight {
    assigned: Assigned,
    client: Option<usize>,
    finished: Finished,
}

pub(super) struct Host<I: Iterator> {
    router: Router,
    timer: Arc<ManualTimer>,
    model: ReplicaModel,
    replicas: Vec<SimReplica<Flight>>,
    feeds: Vec<Feed>,
    /// By replica, requests it has.
    loads: Vec<usize>,
    source: Source<I>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    /// Events ever, for an order among those of one moment.
    numbers: u64,
    meters: Meters,
    block_events: Vec<llmserve_core::BlockEvent>,
}

impl<I: Iterator<Item = SimulatedRequest>> Host<I> {
    pub(super) fn new(
        replicas: usize,
        model: ReplicaModel,
        policy: Policy,
        source: Source<I>,
        warm_up: u64,
    ) -> Result<Self, SimulationError> {
        let timer = Arc::new(ManualTimer::default());
        let name = |at: usize| format!("replica-{at}");
        let feeds = policy
            .index
            .iter()
            .flat_map(|index| (0..replicas).map(|at| index.feed(&name(at), Tier::Device)));
        let feeds = feeds.collect();
        let router = Router::builder()
            .replicas((0..replicas).map(|at| Replica::new(name(at), Simulated)))
            .strategy(policy.strategy)
            .timer(timer.clone())
            .build()?;
        Ok(Self {
            router,
            timer,
            model,
            replicas: (0..replicas).map(|_| SimReplica::new(model)).collect(),
            feeds,
            loads: vec![0; replicas],
            source,
            events: BinaryHeap::new(),
            numbers: 0,
            meters: Meters::new(warm_up, replicas),
            block_events: Vec::new(),
        })
    }

    /// Runs until `requests` have finished and been counted, or nothing happens any more.
    pub(super) fn run(mut self, requests: u64) -> Result<Report, SimulationError> {
        match &mut self.source {
            Source::Clients(clients) => {
                let begin: Vec<_> = (0..clients.len()).map(|at| clients.begin(at)).collect();
                for (client, at) in begin.into_iter().enumerate() {
                    self.later(at, Event::Sends(client));
                }
            }
            Source::Trace(_) => self.expect_arrival(Duration::ZERO, 0)?,
        }
        let mut arrived = 0;
        while self.meters.counted() < requests
            && let Some(Reverse((at, _, event))) = self.events.pop()
        {
            self.timer.advance(at.saturating_sub(self.timer.now()));
            match event {
                Event::Stepped(replica) => self.stepped(replica, at),
                Event::Sends(client) => {
                    if let Source::Clients(clients) = &mut self.source {
                        let request = clients.next(client, at);
                        self.send(&request, Some(client))?;
                    }
                }
                Event::Arrives => {
                    if let Source::Trace(trace) = &mut self.source
                        && let Some(request) = trace.next()
                    {
                        arrived += 1;
                        self.send(&request, None)?;
                        self.expect_arrival(at, arrived)?;
                    }
                }
            }
        }
        Ok(self.meters.report())
    }

    fn later(&mut self, at: Duration, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((at, self.numbers, event)));
    }

    fn expect_arrival(&mut self, now: Duration, index: usize) -> Result<(), SimulationError> {
        let Source::Trace(trace) = &mut self.source else {
            return Ok(());
        };
        let Some(arrival) = trace.peek().map(|request| request.arrival) else {
            return Ok(());
        };
        if arrival < now {
            return Err(SimulationError::OutOfOrder { index });
        }
        self.later(arrival, Event::Arrives);
        Ok(())
    }

    /// A client goes on, after an answer or a refusal.
    fn thinks(&mut self, client: Option<usize>, now: Duration) {
        if let (Source::Clients(clients), Some(client)) = (&mut self.source, client) {
            let at = now.saturating_add(clients.think(client));
            self.later(at, Event::Sends(client));
        }
    }

    fn refuse(&mut self, client: Option<usize>, now: Duration) {
        self.meters.refused += 1;
        self.thinks(client, now);
    }

    fn send(
        &mut self,
        request: &SimulatedRequest,
        client: Option<usize>,
    ) -> Result<(), SimulationError> {
        let now = self.timer.now();
        let (prompt, answer) = (request.prompt_tokens(), request.answer.tokens.max(1));
        // Before its tokens are written: a line of a file may ask for any number of them.
        if !self
            .replicas
            .iter()
            .all(|replica| replica.takes(prompt, answer))
        {
            self.refuse(client, now);
            return Ok(());
        }
        let tokens = request.tokens();
        let chain = chain(&tokens, self.model.block_tokens);
        let mut asked = Request::tokens(&tokens[..prompt]).max_tokens(answer);
        if let Some(session) = &request.session {
            asked = asked.routing(Routing::default().session(session.as_str()));
        }
        let prepared = self.router.prepare(&asked)?;
        let assigned = match self.router.assign(&asked, &prepared, &[]) {
            Ok(assigned) => assigned,
            Err(Error::Overloaded { .. }) => {
                self.refuse(client, now);
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let replica = assigned.slot().index();
        self.loads[replica] += 1;
        self.meters.dispatched(&self.loads);
        self.replicas[replica].push(Job {
            chain,
            prompt,
            answer,
            host: Flight {
                assigned,
                client,
                finished: Finished {
                    at: now,
                    ttft: Duration::ZERO,
                    prompt,
                    cached: 0,
                    replica,
                },
            },
        });
        self.begin(replica, now);
        Ok(())
    }

    /// Begins a replica's next step, if there is one to begin.
    fn begin(&mut self, replica: usize, now: Duration) {
        if let Some(step) = self.replicas[replica].begin() {
            self.later(now.saturating_add(step), Event::Stepped(replica));
        }
        self.tell(replica);
    }

    fn stepped(&mut self, replica: usize, now: Duration) {
        let mut ended = Vec::new();
        self.replicas[replica].end(|progress| match progress {
            Progress::First(flight, cached) => {
                flight.finished.cached = cached;
                flight.finished.ttft = now.saturating_sub(flight.finished.at);
                flight.assigned.answering();
            }
            Progress::Last(flight) => ended.push(flight),
        });
        for mut flight in ended {
            flight.assigned.end(End::Finished);
            flight.finished.at = now;
            self.loads[replica] -= 1;
            self.meters.finished(flight.finished);
            self.thinks(flight.client, now);
        }
        self.tell(replica);
        self.begin(replica, now);
    }

    /// Passes a replica's block events on.
    fn tell(&mut self, replica: usize) {
        self.replicas[replica].events(&mut self.block_events);
        if let Some(feed) = self.feeds.get(replica) {
            feed.apply(&self.block_events);
        }
        self.block_events.clear();
    }
}

/// The identities of all full blocks of `tokens`, as [`TokenBlocks`](crate::TokenBlocks) has them.
fn chain(tokens: &[u32], block: usize) -> Vec<BlockIdentity> {
    let mut before: Option<BlockIdentity> = None;
    let blocks = tokens.chunks_exact(block).map(|tokens| {
        let identity = match before {
            Some(before) => before.next(tokens),
            None => root(block).first(&Extras::default(), tokens),
        };
        before = Some(identity);
        identity
    });
    blocks.collect()
}
