//! Threads that compute one step together.

mod cores;
mod disjoint;
mod sync;
mod team;
#[cfg(test)]
mod tests;

pub use cores::physical_cores;
pub(crate) use disjoint::Disjoint;
pub use team::{TaskPanicked, ThreadTeam};
