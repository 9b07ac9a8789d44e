//! What the team shares and waits with. `tests/interleavings.rs` compiles the team with other
//! things of these names, which a model checker drives.

use std::time::{Duration, Instant};

pub(super) use parking_lot::Mutex;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};
pub(super) use std::thread;

/// How long a thread looks at the state before it goes to sleep: longer than the gaps inside a
/// forward pass, and too short to show in a process monitor. A time and not a number of looks,
/// because the pause between two takes from some ten to some hundred cycles, depending on the CPU.
pub(super) const SPIN: Duration = Duration::from_micros(200);

/// Looks between two looks at the clock.
const LOOKS: u32 = 32;

/// Pauses between looks at the state, until [`SPIN`] is over.
#[derive(Default)]
pub(super) struct Patience {
    looks: u32,
    began: Option<Instant>,
}

impl Patience {
    /// Pauses; whether to look again.
    pub(super) fn lasts(&mut self) -> bool {
        std::hint::spin_loop();
        self.looks += 1;
        if !self.looks.is_multiple_of(LOOKS) {
            return true;
        }
        self.began.get_or_insert_with(Instant::now).elapsed() < SPIN
    }
}
