//! Who has been asked and says nothing: a preference of the router's, long before a timeout.
//!
//! A replica that hangs takes requests as readily as ever, and each of them waits for its whole
//! timeout before it tells anybody. Meanwhile the others, who go on speaking, say that something
//! is wrong with it. So whoever has been asked and has said nothing since, for longer than a host
//! says is usual, is asked only where there is nobody else, and otherwise each time that its
//! silence has doubled, to see.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use llmserve_core::Time;

use crate::fleet::Slot;
use crate::set::ReplicaSet;

/// However long it has been silent, it is asked again after so many times as long as is usual.
const SELDOM: u32 = 16;

/// How often it is looked who is silent, in parts of what is usual: between two looks a decision
/// costs the same for any number of replicas.
const LOOKS: u32 = 8;

/// What is known of everybody's silence. It changes under the router's lock, but for the signs of
/// life.
pub(crate) struct Silence {
    /// What is not usual any more.
    after: Duration,
    /// By slot index.
    members: Vec<Member>,
    /// Those that are better not asked, as of the last look.
    avoided: ReplicaSet,
    looked: Time,
}

#[derive(Default)]
struct Member {
    heard: Sign,
    /// The first and the last time that it was asked since it was heard.
    asked: Option<(Time, Time)>,
}

/// When a replica was last heard, in nanoseconds and one more; 0 for never.
#[derive(Clone, Default)]
pub(crate) struct Sign(Arc<AtomicU64>);

impl Sign {
    pub(crate) fn heard(&self, now: Time) {
        self.0
            .store(nanos(now).saturating_add(1), Ordering::Relaxed);
    }
}

impl Member {
    /// Its silence so far, taken to begin anew if it has been heard.
    fn settle(&mut self) {
        let Some((first, last)) = self.asked else {
            return;
        };
        let heard = self.heard.0.load(Ordering::Relaxed);
        if heard > nanos(first) {
            self.asked = (nanos(last) >= heard).then_some((last, last));
        }
    }

    fn is_avoided(&self, after: Duration, now: Time) -> bool {
        let Some((first, last)) = self.asked else {
            return false;
        };
        let pause = last.saturating_sub(first).min(after.saturating_mul(SELDOM));
        now.saturating_sub(first) >= after && now < last.saturating_add(pause)
    }
}

impl Silence {
    pub(crate) fn new(after: Duration) -> Self {
        Self {
            after,
            members: Vec::new(),
            avoided: ReplicaSet::new(),
            looked: Time::ZERO,
        }
    }

    /// Somebody new is in a slot.
    pub(crate) fn joined(&mut self, slot: Slot) {
        if self.members.len() <= slot.index() {
            self.members.resize_with(slot.index() + 1, Member::default);
        }
        self.members[slot.index()] = Member::default();
        self.avoided.remove(slot.index());
    }

    /// Takes those out of `set` that are silent, unless all of them are.
    pub(crate) fn narrow(&mut self, set: &mut ReplicaSet, now: Time) {
        if now.saturating_sub(self.looked) >= self.after / LOOKS {
            self.look(now);
        }
        if self.avoided.is_empty() {
            return;
        }
        let mut rest = set.clone();
        rest.subtract(&self.avoided);
        if !rest.is_empty() {
            *set = rest;
        }
    }

    fn look(&mut self, now: Time) {
        self.looked = now;
        for (index, member) in self.members.iter_mut().enumerate() {
            member.settle();
            if member.is_avoided(self.after, now) {
                self.avoided.insert(index);
            } else {
                self.avoided.remove(index);
            }
        }
    }

    /// The one in `slot` is asked; where it shall say that it has been heard.
    pub(crate) fn dispatched(&mut self, slot: Slot, now: Time) -> Option<Sign> {
        let member = self.members.get_mut(slot.index())?;
        member.settle();
        // Asked so long ago, it was given up or never read: nobody has been waiting since.
        let long = self.after.saturating_mul(SELDOM + 1);
        let asked = member.asked;
        let waited = asked.filter(|(_, last)| now.saturating_sub(*last) <= long);
        let (first, _) = waited.unwrap_or((now, now));
        member.asked = Some((first, now));
        if member.is_avoided(self.after, now) {
            self.avoided.insert(slot.index());
        }
        Some(member.heard.clone())
    }
}

fn nanos(time: Time) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AFTER: Duration = ms(100);

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn of(members: u32) -> Silence {
        let mut silence = Silence::new(AFTER);
        (0..members).for_each(|at| silence.joined(Slot::new(at, 0)));
        silence
    }

    fn left(silence: &mut Silence, now: Time) -> Vec<usize> {
        let mut set = ReplicaSet::new();
        (0..silence.members.len()).for_each(|index| set.insert(index));
        silence.narrow(&mut set, now);
        set.iter().collect()
    }

    #[test]
    fn whoever_is_asked_and_says_nothing_is_avoided_and_asked_ever_more_seldom() {
        let mut silence = of(2);
        let hung = Slot::new(0, 0);
        let mut asked = Vec::new();
        for at in 0..10_000 {
            if left(&mut silence, ms(at)).contains(&0) {
                silence.dispatched(hung, ms(at)).unwrap();
                asked.push(at);
            }
        }
        // All that come in the time that is usual; then after twice as long, to a bound.
        assert_eq!(asked[..100], (0..100).collect::<Vec<_>>());
        let trials: Vec<_> = asked[100..].to_vec();
        assert!(trials.len() <= 12, "{trials:?}");
        let gaps: Vec<_> = trials.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps[0] < 150 && gaps[2] > 300, "{gaps:?}");
        assert!(gaps.iter().all(|gap| *gap <= 1_600 + 13), "{gaps:?}");
    }

    #[test]
    fn a_sign_of_life_ends_it() {
        let mut silence = of(2);
        let slot = Slot::new(0, 0);
        let sign = silence.dispatched(slot, ms(0)).unwrap();
        silence.dispatched(slot, ms(60)).unwrap();
        assert_eq!(left(&mut silence, ms(110)), [1]);
        sign.heard(ms(111));
        assert_eq!(left(&mut silence, ms(130)), [0, 1]);
        // Nobody waits for it: it may be silent for ever.
        assert_eq!(left(&mut silence, ms(9_999)), [0, 1]);
        // Asked after it was last heard, it is waited for again.
        silence.dispatched(slot, ms(10_000)).unwrap();
        silence.dispatched(slot, ms(10_090)).unwrap();
        assert_eq!(left(&mut silence, ms(10_120)), [1]);
    }

    #[test]
    fn one_request_alone_that_was_never_answered_keeps_nobody_away() {
        // Such as one that its reader gave up, or never read.
        let mut silence = of(2);
        silence.dispatched(Slot::new(0, 0), ms(0)).unwrap();
        assert_eq!(left(&mut silence, ms(200)), [0, 1]);
    }

    #[test]
    fn where_all_are_silent_all_are_asked() {
        let mut silence = of(2);
        for at in [0, 90] {
            silence.dispatched(Slot::new(0, 0), ms(at)).unwrap();
            silence.dispatched(Slot::new(1, 0), ms(at)).unwrap();
        }
        assert_eq!(left(&mut silence, ms(110)), [0, 1]);
        // A successor in a slot is not blamed for its predecessor.
        silence.joined(Slot::new(1, 1));
        assert_eq!(left(&mut silence, ms(112)), [1]);
    }
}
