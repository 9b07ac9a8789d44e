//! Being woken at a time.

use std::task::{Context, Waker};

use llmserve_core::Time;

use crate::timer::{Alarm, Timer};

/// At most one alarm.
///
/// What is waited for moves with every token, and an alarm that goes off too early only makes its
/// stream look once more: so one that is set stays, unless it would be too late or wake somebody
/// else.
#[derive(Default)]
pub(super) struct Wait(Option<(Time, Waker, Alarm)>);

impl Wait {
    /// Wakes the task of `cx` at `at`, or a little earlier.
    pub(super) fn until(&mut self, at: Option<Time>, timer: &dyn Timer, cx: &mut Context<'_>) {
        let Some(at) = at else {
            self.0 = None;
            return;
        };
        let serves = |(set, waker, _): &(Time, Waker, Alarm)| {
            *set <= at && *set > timer.now() && waker.will_wake(cx.waker())
        };
        if self.0.as_ref().is_some_and(serves) {
            return;
        }
        // First the old one goes, so that it does not wake for nothing.
        self.0 = None;
        let alarm = timer.wake_at(at, cx.waker().clone());
        self.0 = Some((at, cx.waker().clone(), alarm));
    }
}
