//! Pieces that several examples share: finding a model, the flags that shape an engine, drawings.

mod engine_args;
pub mod plot;
mod source;

pub use engine_args::EngineArgs;
pub use source::{Source, embedded_model};
