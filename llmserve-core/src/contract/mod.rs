//! The traits the parts of llmserve speak to each other.
//!
//! Read top-down: the service ([`generate`]), the parts of an engine ([`model`], [`kv`],
//! [`scheduler`], [`proposer`], [`tokenizer`]), what turns texts into vectors ([`embedder`]) and
//! models' names into services ([`loader`]), who keeps what prompts begin with ([`prefix`]), and what is injected into all of them ([`clock`];
//! metrics live in [`crate::metrics`]).

pub mod clock;
pub mod embedder;
pub mod generate;
pub mod grammar;
pub mod kv;
pub mod loader;
pub mod merge;
pub mod model;
pub mod prefix;
pub mod proposer;
pub mod scheduler;
pub mod tokenizer;
