//! From a row of logits to a token.
//!
//! ```text
//!  raw logits ── checked: no NaN, no +∞ ──────────────────────────────► logprobs
//!      │
//!      ├─► processors ─► bias ─► penalties ─► forbidden      what may follow, and how gladly
//!      │                                         │
//!      │                        temperature 0 ───┴──► best logit, ties to the lowest id
//!      │                                         │
//!      └─► temperature ─► min-p ─► top-k ─► top-p ──► Gumbel-max pick
//! ```
//!
//! The order is fixed:
//!
//! 1. **processors**, in the request's order, on a copy of the raw row;
//! 2. **bias**: added; −∞ rules a token out;
//! 3. **penalties**: repetition over prompt and output (divides a positive logit, multiplies a
//!    negative one), then frequency and presence over the output alone (subtracted);
//! 4. **forbidden** tokens: end and stop tokens while the least number of tokens is not reached, and
//!    all that a grammar does not allow;
//! 5. **temperature**: the distance from the best logit is divided by it;
//! 6. **min-p**: keeps tokens at least `min_p` times as probable as the best;
//! 7. **top-k**: keeps the `k` most probable;
//! 8. **top-p**: keeps the smallest most probable set that holds `p` of the mass left so far;
//! 9. **pick**.
//!
//! Equal logits are ordered by id, the lower first, wherever an order matters.
//!
//! The pick is the Gumbel-max trick with noise that is a pure function of (seed, choice,
//! position, token): a sampled token depends on nothing else, so a request gives the same ids
//! alone, in any batch, after a preemption, and under speculation, where a draft is accepted
//! exactly when it equals the pick.
//!
//! No step sorts the vocabulary, and nothing is allocated once a [`SamplerScratch`] has grown to
//! the vocabulary's size. Exponentials and logarithms are computed with additions,
//! multiplications and divisions alone, so that the same logits give the same token on every
//! platform.

mod filter;
mod logprobs;
mod mask;
mod mass;
mod math;
mod noise;
mod params;
mod penalties;
mod race;
mod rejection;
mod sampler;
mod select;
mod survey;

pub use logprobs::{logprobs, logprobs_surveyed};
pub use mask::TokenMask;
pub use params::{LogitsContext, LogitsProcessor, Sampling};
pub use sampler::{Sampler, SamplerScratch};
pub use survey::Survey;
pub(crate) use survey::contradiction;
