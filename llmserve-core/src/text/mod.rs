//! Tokens to text as they come: incremental detokenisation and stop strings.
//!
//! ```text
//!  token ─► IncrementalDecoder ─► text that is certain ─► StopStrings ─► text for the host
//!             holds back bytes                              holds back what may
//!             of half a character                           begin a stop string
//! ```
//!
//! Both do a bounded amount of work for each token, however long the text has become.

mod decode;
mod stop;

pub use decode::IncrementalDecoder;
pub use stop::{Scan, StopStrings};
