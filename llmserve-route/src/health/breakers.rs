//! A breaker for each replica of a router.

use std::sync::Arc;
use std::time::Duration;

use llmserve_core::{Error, Gauge, GuardedRecorder, NoopRecorder, Recorder, Time};
use parking_lot::Mutex;

use super::breaker::{Breaker, BreakerState, Leave};
use super::config::{BreakerConfig, BreakerError};
use crate::availability::Availability;
use crate::fleet::Slot;
use crate::outcome::{End, Outcome};
use crate::replica::ReplicaInfo;
use crate::set::ReplicaSet;

/// A [`Breaker`] for each replica: what a router's availability is by default. Cheap to clone; all
/// clones are the same, so that a host can keep one and ask it, or tell it what it knows itself.
///
/// A replica fails where it is unreachable, too slow, shut down, or broken. That it is overloaded
/// is no illness: then others are asked, and it is asked again; but where it says itself when to
/// come again (`Retry-After`), it is left alone until then.
///
/// ```
/// use llmserve_core::{Error, EventStream, Generate, Request};
/// use llmserve_route::health::{BreakerConfig, Breakers};
/// use llmserve_route::{Replica, Router};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let breakers = Breakers::new(BreakerConfig::default().consecutive(2))?;
/// let router = Router::builder()
///     .replica(Replica::new("a", Closed))
///     .availability(breakers.clone())
///     .build()?;
/// for _ in 0..2 {
///     assert_eq!(router.generate(Request::text("Hi")).wait(), Err(Error::ShutDown));
/// }
/// let refused = router.generate(Request::text("Hi")).wait();
/// assert!(matches!(refused, Err(Error::NoReplica { retry_after: Some(_), .. })));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Breakers {
    shared: Arc<Shared>,
}

struct Shared {
    config: BreakerConfig,
    recorder: Arc<dyn Recorder>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// By slot index.
    members: Vec<Option<Member>>,
    /// Those that are not closed: all that a decision has to look at.
    suspect: ReplicaSet,
}

struct Member {
    slot: Slot,
    name: String,
    breaker: Breaker,
    open: Arc<dyn Gauge>,
}

impl Breakers {
    /// Breakers that are closed.
    ///
    /// # Errors
    /// A field that cannot be.
    pub fn new(config: BreakerConfig) -> Result<Self, BreakerError> {
        Self::recorded(config, Arc::new(NoopRecorder))
    }

    /// The same, with a gauge `llmserve_route_breaker_open{replica}` in `recorder`.
    ///
    /// # Errors
    /// A field that cannot be.
    pub fn recorded(
        config: BreakerConfig,
        recorder: Arc<dyn Recorder>,
    ) -> Result<Self, BreakerError> {
        config.check()?;
        let shared = Shared {
            config,
            recorder: Arc::new(GuardedRecorder::new(recorder)),
            state: Mutex::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Those of a router that was given none.
    pub(crate) fn standard() -> Self {
        let shared = Shared {
            config: BreakerConfig::default(),
            recorder: Arc::new(NoopRecorder),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// What a health check says of the replica named `name`; false where there is none.
    pub fn check(&self, name: &str, well: bool) -> bool {
        let mut state = self.shared.state.lock();
        let found = state.members.iter().flatten();
        let Some(slot) = found.filter(|m| m.name == name).map(|m| m.slot).next() else {
            return false;
        };
        state.with(slot, |breaker| breaker.check(well));
        true
    }

    /// The state of the replica named `name`.
    pub fn state(&self, name: &str, now: Time) -> Option<BreakerState> {
        let state = self.shared.state.lock();
        let member = state.members.iter().flatten().find(|m| m.name == name)?;
        Some(member.breaker.state(now))
    }
}

impl State {
    fn member(&self, slot: Slot) -> Option<&Member> {
        let member = self.members.get(slot.index())?.as_ref()?;
        (member.slot == slot).then_some(member)
    }

    /// Lets a breaker change.
    fn with<T>(&mut self, slot: Slot, change: impl FnOnce(&Breaker) -> T) -> Option<T> {
        let member = self.member(slot)?;
        let changed = change(&member.breaker);
        // No time is before all: closed is closed, and half open is not.
        let closed = member.breaker.state(Time::ZERO) == BreakerState::Closed;
        member.open.set(f64::from(u8::from(!closed)));
        if closed {
            self.suspect.remove(slot.index());
        } else {
            self.suspect.insert(slot.index());
        }
        Some(changed)
    }
}

impl Availability for Breakers {
    fn joined(&self, slot: Slot, info: &ReplicaInfo) {
        let Ok(breaker) = Breaker::new(self.shared.config.clone()) else {
            return;
        };
        let open = self.shared.recorder.gauge(
            "llmserve_route_breaker_open",
            "Whether a replica is not asked, or only to see whether it has recovered.",
            &[("replica", &info.name)],
        );
        let mut state = self.shared.state.lock();
        if state.members.len() <= slot.index() {
            state.members.resize_with(slot.index() + 1, || None);
        }
        state.members[slot.index()] = Some(Member {
            slot,
            name: info.name.clone(),
            breaker,
            open,
        });
        state.suspect.remove(slot.index());
    }

    fn left(&self, slot: Slot) {
        let mut state = self.shared.state.lock();
        if state.member(slot).is_some() {
            state.members[slot.index()] = None;
            state.suspect.remove(slot.index());
        }
    }

    fn retain(&self, now: Time, set: &mut ReplicaSet) {
        let state = self.shared.state.lock();
        if state.suspect.is_empty() {
            return;
        }
        for index in state.suspect.iter() {
            let member = state.members.get(index).and_then(Option::as_ref);
            if set.contains(index) && member.is_some_and(|m| !m.breaker.allows(now)) {
                set.remove(index);
            }
        }
    }

    fn retry_at(&self, slot: Slot) -> Option<Time> {
        let state = self.shared.state.lock();
        match state.member(slot)?.breaker.state(Time::ZERO) {
            BreakerState::Open { until } => until,
            _ => None,
        }
    }

    fn dispatched(&self, slot: Slot, now: Time) -> u64 {
        let mut state = self.shared.state.lock();
        let leave = state.with(slot, |breaker| breaker.leave(now)).flatten();
        leave.map_or(0, Leave::to_bits)
    }

    fn checked(&self, slot: Slot, well: bool) {
        let mut state = self.shared.state.lock();
        state.with(slot, |breaker| breaker.check(well));
    }

    fn ended(&self, slot: Slot, outcome: &Outcome<'_>) {
        let Some(leave) = Leave::from_bits(outcome.permit) else {
            return;
        };
        let now = outcome.now;
        self.shared
            .state
            .lock()
            .with(slot, |breaker| match outcome.end {
                End::Finished => breaker.succeeded(leave, now),
                // An answer that somebody walked away from was an answer.
                End::Abandoned if outcome.answering.is_some() => breaker.succeeded(leave, now),
                End::Failed(error) => match failure(error) {
                    Some(retry_after) => breaker.failed(leave, now, retry_after),
                    None => breaker.withdrew(leave),
                },
                // It works well enough to see what is wrong with a request.
                End::Refused(_) => breaker.succeeded(leave, now),
                End::Abandoned => breaker.withdrew(leave),
            });
    }
}

/// Whether an error says that the replica is ill, and when it wants to be asked again.
fn failure(error: &Error) -> Option<Option<Duration>> {
    match error {
        Error::Overloaded { .. } | Error::NoReplica { .. } => None,
        // One model of several; the others are as well as ever.
        Error::LoadFailed { .. }
        | Error::TimedOut {
            what: "loaded model",
            ..
        } => None,
        Error::Upstream {
            status: Some(429 | 503),
            retry_after,
            ..
        } => retry_after.map(Some),
        _ => Some(None),
    }
}

impl std::fmt::Debug for Breakers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.shared.state.lock();
        let members = state.members.iter().flatten();
        f.debug_map()
            .entries(members.map(|member| (&member.name, &member.breaker)))
            .finish()
    }
}
