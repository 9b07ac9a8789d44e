//! A server elsewhere as a service.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use llmserve_core::{Error, Event, EventStream, Generate, Request};
use reqwest::header::HeaderMap;
use reqwest::{Client, Url};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::Instant;

use super::assemble::Assembler;
use super::builder::RemoteBuilder;
use super::call::{Item, Job, run};
use super::dialect::Dialect;
use super::fault::upstream;
use super::runtime::Runtime;
use super::timeouts::Timeouts;

/// Events that wait for their reader. When there are more, the connection is not read: a slow
/// reader slows the endpoint down, and costs no memory here.
const WAITING: usize = 64;

/// A server that speaks OpenAI's API, or nearly, as a [`Generate`].
///
/// Requests begin when [`generate`](Generate::generate) is called, in the background; a stream that
/// is dropped closes its connection, which cancels the request there. Cheap to clone; all clones
/// share their connections.
///
/// ```no_run
/// use llmserve_core::{Generate, Request};
/// use llmserve_route::remote::{Dialect, RemoteEndpoint};
///
/// let endpoint = RemoteEndpoint::builder("rack-1", "http://10.0.0.7:8000/v1")
///     .dialect(Dialect::Vllm)
///     .model("meta-llama/Llama-3.1-8B-Instruct")
///     .build()?;
/// let answer = endpoint.generate(Request::text("HAMLET").max_tokens(32)).wait()?;
/// println!("{}", answer.text());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct RemoteEndpoint {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) name: String,
    /// Without a slash at its end.
    pub(super) base: Url,
    pub(super) dialect: Dialect,
    pub(super) model: Option<String>,
    pub(super) headers: HeaderMap,
    pub(super) timeouts: Timeouts,
    pub(super) max_event: usize,
    pub(super) client: Client,
    pub(super) runtime: Runtime,
}

impl RemoteEndpoint {
    /// An endpoint called `name`, in errors and metrics, at `base_url`: what OpenAI's own clients
    /// take, such as `http://host:8000/v1`. Without a path `/v1` is added.
    pub fn builder(name: impl Into<String>, base_url: impl Into<String>) -> RemoteBuilder {
        RemoteBuilder::new(name.into(), base_url.into())
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    fn start(&self, request: Request) -> Result<EventStream, Error> {
        let shared = &self.shared;
        let called = Instant::now();
        let model = shared.model.as_deref().or(request.model.as_deref());
        let call = shared.dialect.call(&request, model)?;
        let url = format!(
            "{}{}",
            shared.base.as_str().trim_end_matches('/'),
            call.path
        );
        let failed = |what: &str| upstream(&shared.name, None, what, None);
        let url = Url::parse(&url).map_err(|_| failed("its address and path make no URL"))?;
        let job = Job {
            client: shared.client.clone(),
            url,
            headers: shared.headers.clone(),
            body: call.body,
            dialect: shared.dialect.clone(),
            name: shared.name.clone(),
            timeouts: shared.timeouts,
            max_event: shared.max_event,
            wanted: request.logprobs,
            called,
            deadline: request.deadline,
        };
        let (sender, receiver) = channel(WAITING);
        let task = run(job, Assembler::new(&request), sender);
        shared
            .runtime
            .spawn(task)
            .map_err(|_| failed("no thread could be started for its connections"))?;
        Ok(EventStream::new(Answer {
            receiver,
            unfinished: request.n,
            shared: shared.clone(),
        }))
    }
}

impl Generate for RemoteEndpoint {
    fn generate(&self, request: Request) -> EventStream {
        self.start(request).unwrap_or_else(EventStream::failed)
    }
}

impl std::fmt::Debug for RemoteEndpoint {
    /// Neither address nor headers: there may be secrets in them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteEndpoint")
            .field("name", &self.shared.name)
            .field("dialect", &self.shared.dialect)
            .finish_non_exhaustive()
    }
}

/// The events of one call.
struct Answer {
    receiver: Receiver<Item>,
    /// Choices that have not finished.
    unfinished: usize,
    /// Keeps the thread alive that the call runs on.
    shared: Arc<Shared>,
}

impl Stream for Answer {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        let this = &mut *self;
        if this.unfinished == 0 {
            return Poll::Ready(None);
        }
        let item = std::task::ready!(this.receiver.poll_recv(cx));
        Poll::Ready(Some(match item {
            Some(item) => {
                if let Ok(Event::Finished(_)) = &item {
                    this.unfinished -= 1;
                }
                item
            }
            // The host's runtime has been shut down, and the task with it.
            None => {
                this.unfinished = 0;
                let what = "its connections' runtime was shut down";
                Err(upstream(&this.shared.name, None, what, None))
            }
        }))
    }
}
