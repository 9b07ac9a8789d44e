//! A scripted service, a server around it, and servers that do what no server should.

pub(crate) mod raw;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread;
use std::time::{Duration, Instant};

use futures_core::Stream;
use llmserve_core::{
    Error, Event, EventStream, FinishReason, Finished, Generate, Request, Started, Timings,
    TokenEvent, Usage,
};
use llmserve_route::gateway::Gateway;
use llmserve_route::remote::{RemoteBuilder, RemoteEndpoint};
use parking_lot::Mutex;
use tokio::runtime::Runtime;

/// What a scripted stream does when it is polled.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Emit(Event),
    Fail(Error),
    /// Pending once; wakes at once.
    Yield,
    /// Pending for ever.
    Hang,
    Panic,
}

type Author = dyn Fn(&Request) -> Vec<Step> + Send + Sync;

/// A service that answers by script, and remembers.
pub(crate) struct Scripted {
    author: Box<Author>,
    pub(crate) seen: Mutex<Vec<Request>>,
    /// Streams that live.
    live: Arc<AtomicUsize>,
    /// Events taken from all streams.
    taken: Arc<AtomicUsize>,
}

impl Scripted {
    pub(crate) fn new(author: impl Fn(&Request) -> Vec<Step> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            author: Box::new(author),
            seen: Mutex::default(),
            live: Arc::default(),
            taken: Arc::default(),
        })
    }

    pub(crate) fn always(steps: Vec<Step>) -> Arc<Self> {
        Self::new(move |_| steps.clone())
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Ordering::SeqCst)
    }

    pub(crate) fn last(&self) -> Request {
        self.seen.lock().last().expect("a request came").clone()
    }
}

impl Generate for Scripted {
    fn generate(&self, request: Request) -> EventStream {
        let steps = (self.author)(&request);
        self.seen.lock().push(request);
        self.live.fetch_add(1, Ordering::SeqCst);
        EventStream::new(Playing {
            steps: steps.into(),
            live: self.live.clone(),
            taken: self.taken.clone(),
        })
    }
}

struct Playing {
    steps: VecDeque<Step>,
    live: Arc<AtomicUsize>,
    taken: Arc<AtomicUsize>,
}

impl Stream for Playing {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.taken.fetch_add(1, Ordering::SeqCst);
        match self.steps.pop_front() {
            Some(Step::Emit(event)) => Poll::Ready(Some(Ok(event))),
            Some(Step::Fail(error)) => Poll::Ready(Some(Err(error))),
            Some(Step::Panic) => panic!("poll, on purpose"),
            Some(Step::Yield) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Some(Step::Hang) => {
                self.steps.push_front(Step::Hang);
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    }
}

impl Drop for Playing {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

pub(crate) fn started(prompt: &[u32]) -> Step {
    Step::Emit(Event::Started(Started {
        prompt_ids: prompt.into(),
        prompt_logprobs: None,
    }))
}

pub(crate) fn token(index: usize, id: u32, text: &str) -> Step {
    Step::Emit(Event::Token(TokenEvent {
        index,
        id,
        text: text.into(),
        logprobs: None,
    }))
}

pub(crate) fn finished(index: usize, reason: FinishReason, completion_tokens: usize) -> Step {
    Step::Emit(Event::Finished(Finished {
        index,
        reason,
        text: String::new(),
        usage: Usage {
            prompt_tokens: 2,
            cached_tokens: 1,
            completion_tokens,
        },
        timings: Timings::default(),
    }))
}

/// A whole answer of a token for each word.
pub(crate) fn says(words: &[&str]) -> Vec<Step> {
    let mut steps = vec![started(&[7, 8])];
    for (id, word) in words.iter().enumerate() {
        steps.push(Step::Yield);
        steps.push(token(0, id as u32, word));
    }
    steps.push(finished(0, FinishReason::Length, words.len()));
    steps
}

/// What a client has of an answer.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) body: String,
}

impl Reply {
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The events of a stream.
    pub(crate) fn events(&self) -> Vec<&str> {
        let lines = self.body.split("\n\n").filter(|event| !event.is_empty());
        lines
            .map(|event| event.strip_prefix("data: ").expect("data alone"))
            .collect()
    }
}

/// A gateway that is served.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    runtime: Runtime,
    client: reqwest::Client,
}

impl Server {
    pub(crate) fn of(service: impl Generate + 'static) -> Self {
        Self::serve(Gateway::new(service))
    }

    pub(crate) fn serve(gateway: Gateway) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let app = gateway.into_router();
        runtime.spawn(async move { axum::serve(listener, app).await });
        Self {
            address,
            runtime,
            client: reqwest::Client::new(),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An endpoint that calls it.
    pub(crate) fn endpoint(
        &self,
        with: impl FnOnce(RemoteBuilder) -> RemoteBuilder,
    ) -> RemoteEndpoint {
        with(RemoteEndpoint::builder("near", self.url()))
            .build()
            .expect("an endpoint")
    }

    pub(crate) fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Reply {
        let request = self
            .client
            .post(format!("{}{path}", self.url()))
            .header("content-type", "application/json")
            .body(body.into());
        self.send(request)
    }

    pub(crate) fn get(&self, path: &str) -> Reply {
        self.send(self.client.get(format!("{}{path}", self.url())))
    }

    pub(crate) fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        self.runtime.block_on(async {
            let response = request.send().await.expect("an answer");
            Reply {
                status: response.status().as_u16(),
                headers: response.headers().clone(),
                body: response.text().await.expect("a body"),
            }
        })
    }

    pub(crate) fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }

    pub(crate) fn client(&self) -> &reqwest::Client {
        &self.client
    }
}

/// Waits until `condition` holds.
#[track_caller]
pub(crate) fn eventually(condition: impl Fn() -> bool) {
    let began = Instant::now();
    while !condition() {
        assert!(began.elapsed() < Duration::from_secs(20), "not in time");
        thread::sleep(Duration::from_millis(2));
    }
}
