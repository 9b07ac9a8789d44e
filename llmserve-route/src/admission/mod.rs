//! Who may run now, and who waits: so many requests at once, shared between classes.
//!
//! ```text
//!                    ┌────────────────── Admission ───────────────────┐
//!                    │  queue of each class        places             │
//!  generate(request) │  interactive  ■ ■ ──┐    ┌─► ▣ ▣ ▣ ▢ ▢ ────────┼─► inner.generate()
//!   ─► class ────────┼► normal   ■ ■ ■ ■ ──┼─DRR┘   of them reserved   │
//!                    │  batch  ■ ■ ■ ■ ■ ──┘        for a class         │
//!                    │     │                                           │
//!                    └─────┼───────────────────────────────────────────┘
//!                          ▼ full: Error::Overloaded with a time to wait
//! ```
//!
//! * A free place goes to the classes in turn, by deficit round robin over
//!   [`estimated_tokens`](crate::estimated_tokens) (Shreedhar and Varghese, 1995): in the long run
//!   each class that waits gets tokens in proportion to its weight, whatever its requests' sizes.
//! * Places may be reserved for a class: others leave so many free for it.
//! * Whoever has waited for [`promote_after`](AdmissionBuilder::promote_after) is next, whatever
//!   the weights say: nobody starves.
//! * A place is free again when the work is done, though the answer may not have been read.

mod builder;
mod class;
mod layer;
mod rate;
mod shares;
mod state;
#[cfg(test)]
mod tests;
mod ticket;

pub use builder::{AdmissionBuilder, AdmissionError};
pub use class::Class;
pub use layer::{Admission, AdmissionStats, ClassStats};
