//! Servers elsewhere as replicas: a streaming client of OpenAI's API, and of its relatives.
//!
//! ```text
//!  generate(request) ─► Dialect: body ─► a task on the endpoint's thread, or the host's runtime
//!       │               or an error:         │
//!       │               nothing is sent      ├─► connection (pool) ─► POST …  "stream": true
//!       ▼                                    │                          │
//!  EventStream ◄── 64 events wait at most ◄──┴── events ◄── SseParser ◄─┘ bytes, in any pieces
//!       │
//!       └─ dropped: the task ends and closes the connection, which cancels the request there
//! ```
//!
//! * [`RemoteEndpoint`] is a [`Generate`](llmserve_core::Generate): it goes into a router, a cache
//!   or a gateway as an engine does.
//! * A [`Dialect`] says what the endpoint can honour; what it cannot is an error before anything is
//!   sent.
//! * Endpoints that name tokens give [`Event::Token`](llmserve_core::Event::Token), others
//!   [`Event::Text`](llmserve_core::Event::Text).
//! * Errors carry the endpoint's name, a status and the error's name: neither the key, nor the
//!   address, nor the prompt, nor the endpoint's own words, which may repeat it.

mod assemble;
mod builder;
mod call;
mod dialect;
pub mod discovery;
mod endpoint;
mod fault;
mod key;
mod piece;
mod retry_after;
mod runtime;
mod scrape;
mod sse;
mod timeouts;

pub use builder::{RemoteBuildError, RemoteBuilder};
pub use dialect::Dialect;
pub use endpoint::RemoteEndpoint;
pub use key::ApiKey;
pub use scrape::Scrape;
pub use sse::{SseEvent, SseParser, SseTooLong};
pub use timeouts::Timeouts;
