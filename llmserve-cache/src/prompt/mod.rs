//! Prompts that recur in part: what they share is computed once.
//!
//! ```text
//!  PromptTemplate    "You help …" {{question}}   what stays the same, and what does not
//!        │ request, prefix
//!        ▼
//!  PromptLayer       a Generate around a Generate
//!        │             ├─ names: templates, prefixes
//!        │             ├─ a census of what prompts begin with ─► shared by how many
//!        │             └─ the best of it ─► KeepPrefix::keep
//!        ▼                                        │
//!  Engine            prefix blocks  ◄─────────────┘ computed ahead, evicted last
//! ```
//!
//! * [`PromptTemplate`] is a prompt with slots, which knows what its prompts begin with.
//! * [`PromptLayer`] counts what prompts begin with, and has the engine keep what many share or the
//!   host has registered by name.
//! * [`CachingTokenizer`] encodes once what prompts have in common: the system prompt, the template's
//!   own text, the turns so far.
//! * [`WarmUp`] keeps prefixes with services that can only generate.
//!
//! None of it changes an answer: what is kept is found by the tokens themselves, and a text is cut
//! only where that changes none of them.

mod census;
mod layer;
mod template;
mod tokens;
mod warm;

pub use census::SharedPrefix;
pub use layer::{PromptError, PromptLayer, PromptLayerBuilder, PromptStats};
pub use template::{PromptTemplate, PromptTemplateBuilder, TemplateError};
pub use tokens::{CachingTokenizer, CachingTokenizerBuilder, TokenCacheStats};
pub use warm::WarmUp;
