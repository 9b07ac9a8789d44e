//! A server to route to: OpenAI's API over any [`Generate`].
//!
//! [`Gateway`] makes an [`axum::Router`] that a host serves or nests into its own. It starts no
//! thread, opens no port and knows no keys.
//!
//! ```text
//!  POST /v1/completions ──────┐                          ┌─► whole: one JSON object
//!  POST /v1/chat/completions ─┴─► ask ─► Generate ─► tell┤
//!  GET  /v1/models               body    (engine,        └─► stream: server-sent events
//!  GET  /health /ready           to      router,
//!  GET  /metrics                 request remote …)           the client goes: the stream is
//!                                                            dropped, and so is the request
//! ```
//!
//! * **Nothing is ignored in silence.** What changes an answer is honoured or refused with 400 and
//!   the field's name; so is a field nobody knows. What OpenAI defines and changes no answer is
//!   accepted.
//! * **An error before the first event has a status**: 400, 404, 413, 429, 502, 503, 504 or 500, in
//!   OpenAI's shape, with `Retry-After` where it helps. Later it is the stream's last event, and no
//!   `[DONE]` follows.
//! * **A slow reader** holds up itself alone: events are taken from the service as the connection
//!   takes them.
//!
//! ```
//! use llmserve_core::{Error, EventStream, Generate, Request};
//! use llmserve_route::gateway::Gateway;
//!
//! struct Closed;
//! impl Generate for Closed {
//!     fn generate(&self, _request: Request) -> EventStream {
//!         EventStream::failed(Error::ShutDown)
//!     }
//! }
//!
//! let gateway = Gateway::new(Closed).model("bard");
//! let switch = gateway.switch();
//! let app: axum::Router = gateway.into_router();
//! // axum::serve(listener, app).await …
//! switch.drain();
//! # drop(app);
//! ```

mod answer;
mod ask;
mod fields;
mod gather;
mod refusal;
mod routes;
mod switch;

use std::sync::Arc;

use axum::http::request::Parts;
use llmserve_core::{Error, Generate, MemoryRecorder, Request, Tokenizer};

use ask::Rules;

pub use switch::Switch;

/// The largest body unless said otherwise: a prompt of a million tokens, more or less.
const MAX_BODY: usize = 4 << 20;

/// Tokens of a completion whose request does not say, unless said otherwise: OpenAI's.
const DEFAULT_MAX_TOKENS: usize = 16;

type Hook = dyn Fn(&Parts, &mut Request) -> Result<(), Error> + Send + Sync;

/// OpenAI's API over a service: see the [module](self).
pub struct Gateway {
    service: Arc<dyn Generate>,
    rules: Rules,
    tokenizer: Option<Arc<dyn Tokenizer>>,
    metrics: Option<Arc<MemoryRecorder>>,
    max_body: usize,
    hook: Option<Arc<Hook>>,
    scrape: Option<Arc<dyn Fn() + Send + Sync>>,
    switch: Switch,
}

impl Gateway {
    /// A gateway over `service`: an engine, a router, whatever generates.
    pub fn new(service: impl Generate + 'static) -> Self {
        Self {
            service: Arc::new(service),
            rules: Rules {
                models: Vec::new(),
                tenant_from_user: false,
                default_max_tokens: DEFAULT_MAX_TOKENS,
            },
            tokenizer: None,
            metrics: None,
            max_body: MAX_BODY,
            hook: None,
            scrape: None,
            switch: Switch::default(),
        }
    }

    /// Adds a model to those that are listed and can be asked for. Requests that name none get the
    /// first. Without any, every name is passed on to the service.
    pub fn model(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        if !self.rules.models.contains(&name) {
            self.rules.models.push(name);
        }
        self
    }

    /// What names tokens in logprobs. Without it they are called by their ids, `token_id:17`.
    pub fn tokenizer(mut self, tokenizer: Arc<dyn Tokenizer>) -> Self {
        self.tokenizer = Some(tokenizer);
        self
    }

    /// What `/metrics` shows; without it there is no such route. The gateway adds
    /// `llmserve_http_requests_total`, by route and status.
    pub fn metrics(mut self, recorder: Arc<MemoryRecorder>) -> Self {
        self.metrics = Some(recorder);
        self
    }

    /// Called before `/metrics` is shown, on a thread of the server's: the place to set what nobody
    /// sets by itself, such as [`SignalGauges`](crate::scale::SignalGauges) to what a
    /// [`Meter`](crate::scale::Meter) tells. Must not block.
    pub fn on_scrape(mut self, hook: impl Fn() + Send + Sync + 'static) -> Self {
        self.scrape = Some(Arc::new(hook));
        self
    }

    /// Whether the field `user` becomes [`Request::tenant`], which keeps KV apart; no by default,
    /// since anybody may write any name there.
    pub fn tenant_from_user(mut self, yes: bool) -> Self {
        self.rules.tenant_from_user = yes;
        self
    }

    /// Most tokens of a completion that does not say; 16 by default, as at OpenAI. A chat that does
    /// not say goes on until its context is full.
    pub fn default_max_tokens(mut self, tokens: usize) -> Self {
        self.rules.default_max_tokens = tokens;
        self
    }

    /// The largest body that is read, in bytes; 4 MiB by default. A larger one is refused with 413.
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = bytes;
        self
    }

    /// Called with each request before it is sent, and with the head of the HTTP request it came
    /// in: the place to set a tenant, a priority or a limit by who asks. Its error is the answer.
    pub fn on_request(
        mut self,
        hook: impl Fn(&Parts, &mut Request) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Self {
        self.hook = Some(Arc::new(hook));
        self
    }

    /// The switch that drains it.
    pub fn switch(&self) -> Switch {
        self.switch.clone()
    }

    /// The routes: to serve, or to nest into others.
    pub fn into_router(self) -> axum::Router {
        routes::router(self)
    }
}
