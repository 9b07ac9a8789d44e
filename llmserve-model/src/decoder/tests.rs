//! The whole forward pass: against goldens, against another implementation, and against itself.

mod driver;
mod golden;
mod invariance;
mod packed;
mod reference;
mod refusals;
mod residency;
