//! Pieces that several examples share: finding a model, and the flags that shape an engine.

mod engine_args;
mod source;

pub use engine_args::EngineArgs;
pub use source::{Source, embedded_model};
