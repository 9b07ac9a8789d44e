//! The health of one replica, as its probes tell it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use llmserve_core::Time;

use super::{Board, Note};
use crate::fleet::Slot;
use crate::health::checks::HealthChecks;
use crate::health::probe::{Probe, Probing};
use crate::random::Rng;
use crate::timer::{Alarm, Timer};

pub(super) struct Check {
    probe: Arc<dyn Probe>,
    nudge: Arc<Nudge>,
    waker: Waker,
    stage: Stage,
    /// What the probes say; none before the first.
    well: Option<bool>,
    /// Probes in a row that say otherwise.
    against: u32,
}

enum Stage {
    Resting {
        until: Time,
        _alarm: Alarm,
    },
    Asking {
        answer: Probing,
        began: Time,
        _alarm: Alarm,
    },
}

/// Puts its member's name on the board, once until it is taken off.
struct Nudge {
    slot: Slot,
    board: Arc<Board>,
    noted: AtomicBool,
}

impl Wake for Nudge {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.noted.swap(true, Ordering::AcqRel) {
            self.board.note(Note::Woken(self.slot));
        }
    }
}

impl Check {
    /// One whose first probe is due.
    pub(super) fn new(slot: Slot, probe: Arc<dyn Probe>, board: Arc<Board>) -> Self {
        let nudge = Arc::new(Nudge {
            slot,
            board,
            noted: AtomicBool::new(false),
        });
        Self {
            probe,
            waker: Waker::from(nudge.clone()),
            nudge,
            stage: Stage::Resting {
                until: Time::ZERO,
                _alarm: Alarm::past(),
            },
            well: None,
            against: 0,
        }
    }

    /// Goes on as far as it can; where a probe has ended, whether the replica is now held to be
    /// well.
    pub(super) fn advance(
        &mut self,
        config: &HealthChecks,
        timer: &dyn Timer,
        random: &Rng,
    ) -> Option<bool> {
        self.nudge.noted.store(false, Ordering::Release);
        let now = timer.now();
        if let Stage::Resting { until, .. } = self.stage {
            if now < until {
                return None;
            }
            let probe = &self.probe;
            let begun = catch_unwind(AssertUnwindSafe(|| probe.probe(config.timeout)));
            let Ok(answer) = begun else {
                return self.ended(false, now, config, timer, random);
            };
            self.stage = Stage::Asking {
                answer,
                began: now,
                _alarm: timer.wake_at(now.saturating_add(config.timeout), self.waker.clone()),
            };
        }
        let Stage::Asking { answer, began, .. } = &mut self.stage else {
            return None;
        };
        let began = *began;
        let cx = &mut Context::from_waker(&self.waker);
        let answered = catch_unwind(AssertUnwindSafe(|| answer.as_mut().poll(cx)));
        let well = match answered {
            Ok(Poll::Ready(answer)) => answer.is_ok(),
            Ok(Poll::Pending) if now < began.saturating_add(config.timeout) => return None,
            Ok(Poll::Pending) | Err(_) => false,
        };
        self.ended(well, began, config, timer, random)
    }

    /// A probe that began at `began` has ended.
    fn ended(
        &mut self,
        well: bool,
        began: Time,
        config: &HealthChecks,
        timer: &dyn Timer,
        random: &Rng,
    ) -> Option<bool> {
        let stretch = 1.0 + config.jitter * (2.0 * random.unit() - 1.0);
        let pause = Duration::try_from_secs_f64(config.interval.as_secs_f64() * stretch);
        let pause = pause.unwrap_or(Duration::MAX);
        let until = began.saturating_add(pause).max(timer.now());
        let resting = Stage::Resting {
            until,
            _alarm: timer.wake_at(until, self.waker.clone()),
        };
        let before = std::mem::replace(&mut self.stage, resting);
        // What a probe does when it is dropped is the host's.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(before)));
        self.judge(well, config)
    }

    /// What is held of the replica after a probe that said `well`. Told each time, and not only
    /// when it changes: whoever is told may have heard otherwise from somebody else.
    fn judge(&mut self, well: bool, config: &HealthChecks) -> Option<bool> {
        let Some(held) = self.well else {
            self.well = Some(well);
            return Some(well);
        };
        if held == well {
            self.against = 0;
            return Some(held);
        }
        self.against += 1;
        let needed = match well {
            true => config.healthy_threshold,
            false => config.unhealthy_threshold,
        };
        if self.against < needed {
            // In doubt nobody is told anything.
            return None;
        }
        self.against = 0;
        self.well = Some(well);
        Some(well)
    }
}
