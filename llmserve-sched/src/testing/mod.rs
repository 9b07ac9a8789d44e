//! What the crate's tests stand on: a small honest KV manager, a rig to step by hand, and a
//! simulated host.

mod fake_kv;
mod rig;
pub(crate) mod simulator;
pub(crate) mod workload;

pub(crate) use fake_kv::{Call, FakeKv};
pub(crate) use rig::{Rig, id, with};
