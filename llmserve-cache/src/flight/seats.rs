//! Who listens, and how they are woken.

use std::task::Waker;

use llmserve_core::error::guarded;

/// Listeners by number. One is the rule, and takes no memory of its own.
#[derive(Default)]
pub(super) struct Seats {
    first: Seat,
    more: Vec<Seat>,
    taken: usize,
}

#[derive(Default)]
struct Seat {
    taken: bool,
    waker: Option<Waker>,
}

/// To be woken without the lock.
pub(super) struct Wakers(Option<Waker>, Vec<Waker>);

impl Seats {
    pub(super) fn take(&mut self) -> usize {
        self.taken += 1;
        if !self.first.taken {
            self.first.taken = true;
            return 0;
        }
        let free = self.more.iter().position(|seat| !seat.taken);
        let number = free.unwrap_or_else(|| {
            self.more.push(Seat::default());
            self.more.len() - 1
        });
        self.more[number].taken = true;
        number + 1
    }

    /// Gives back the waker, which may be the last hold of whatever waited, and is to be dropped
    /// without the lock.
    #[must_use]
    pub(super) fn leave(&mut self, number: usize) -> Option<Waker> {
        let left = std::mem::take(self.seat(number)?);
        self.taken -= 1;
        left.waker
    }

    pub(super) fn is_empty(&self) -> bool {
        self.taken == 0
    }

    /// Whom to wake for a seat. Gives back who was woken before, as [`leave`](Self::leave) does.
    #[must_use]
    pub(super) fn set(&mut self, number: usize, waker: &Waker) -> Option<Waker> {
        let seat = self.seat(number)?;
        match &seat.waker {
            Some(before) if before.will_wake(waker) => None,
            _ => seat.waker.replace(waker.clone()),
        }
    }

    /// Everybody who waits; they do no more.
    pub(super) fn wakers(&mut self) -> Wakers {
        let more = self.more.iter_mut().filter_map(|seat| seat.waker.take());
        Wakers(self.first.waker.take(), more.collect())
    }

    fn seat(&mut self, number: usize) -> Option<&mut Seat> {
        match number.checked_sub(1) {
            None => Some(&mut self.first),
            Some(number) => self.more.get_mut(number),
        }
    }
}

impl Wakers {
    pub(super) fn wake(self) {
        for waker in self.0.into_iter().chain(self.1) {
            // A waker is the code of whoever waits, and nobody else's trouble.
            let _ = guarded(|| waker.wake());
        }
    }
}
