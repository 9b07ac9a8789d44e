//! The routes and their handlers.

use std::future::poll_fn;
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use futures_core::Stream as _;
use llmserve_core::{Recorder, Response as Answer};
use serde_json::{Value, json};

use super::Gateway;
use super::answer::{Kind, Teller, Telling};
use super::ask::{Asked, chat, completions};
use super::gather::Gathered;
use super::refusal::Refusal;

struct Served {
    gateway: Gateway,
    ids: Ids,
    /// When the gateway was made, in seconds since 1970: the age of its models.
    since: u64,
}

type Shared = State<Arc<Served>>;

pub(super) fn router(gateway: Gateway) -> Router {
    let has_metrics = gateway.metrics.is_some();
    let served = Arc::new(Served {
        gateway,
        ids: Ids::new(),
        since: now(),
    });
    let mut router = Router::new()
        .route(
            "/v1/completions",
            only(
                "POST",
                post(|state, request| complete(Kind::Completion, state, request)),
            ),
        )
        .route(
            "/v1/chat/completions",
            only(
                "POST",
                post(|state, request| complete(Kind::Chat, state, request)),
            ),
        )
        .route("/v1/models", only("GET, HEAD", get(models)))
        .route("/v1/models/{*name}", only("GET, HEAD", get(model)))
        .route("/health", only("GET, HEAD", get(health)))
        .route("/ready", only("GET, HEAD", get(ready)));
    if has_metrics {
        router = router.route("/metrics", only("GET, HEAD", get(metrics)));
    }
    router.with_state(served)
}

/// Other methods are told which there are.
fn only(methods: &'static str, route: MethodRouter<Arc<Served>>) -> MethodRouter<Arc<Served>> {
    route.fallback(move || async move {
        let refusal = Refusal::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "invalid_request_error",
            None,
            format!("this route has {methods} only"),
        );
        ([(header::ALLOW, methods)], refusal)
    })
}

async fn complete(kind: Kind, State(served): Shared, request: Request<Body>) -> Response {
    let response = match answer(kind, &served, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    };
    if let Some(recorder) = &served.gateway.metrics {
        let status = response.status();
        let labels = [("route", kind.route()), ("status", status.as_str())];
        let help = "Completions and chats asked for.";
        recorder
            .counter("llmserve_http_requests_total", help, &labels)
            .add(1);
    }
    response
}

async fn answer(kind: Kind, served: &Served, request: Request<Body>) -> Result<Response, Refusal> {
    let gateway = &served.gateway;
    let (head, body) = request.into_parts();
    let body = read(&head.headers, body, gateway.max_body).await?;
    let rules = &gateway.rules;
    let asked = match kind {
        Kind::Completion => completions(&body, rules),
        Kind::Chat => chat(&body, rules),
    }?;
    drop(body);
    let id = served.ids.next(kind);
    let Asked { mut requests, form } = asked;
    for request in &mut requests {
        request.id = Some(id.clone());
        prepare(gateway, &head, request)?;
    }
    let prompts = requests.len();
    let stream = form.stream;
    let teller = Teller::new(kind, id, now(), form, prompts, gateway.tokenizer.clone());
    let in_flight = gateway.switch.enter();
    let mut gathered = Gathered::new(&gateway.service, requests);
    if stream {
        // An error before the first event has a status of its own.
        let first = gathered.next().await.transpose()?;
        let telling = Telling::new(teller, gathered, first, in_flight);
        let headers = [
            (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
            (header::CACHE_CONTROL, "no-cache"),
            // Proxies that collect an answer before they pass it on: not this one.
            (HeaderName::from_static("x-accel-buffering"), "no"),
        ];
        return Ok((headers, Body::from_stream(telling)).into_response());
    }
    let mut answers: Vec<Answer> = Vec::new();
    answers.resize_with(prompts, Answer::default);
    while let Some((prompt, event)) = gathered.next().await.transpose()? {
        if let Some(answer) = answers.get_mut(prompt) {
            answer.push(event);
        }
    }
    Ok(whole(teller.whole(&answers)))
}

/// The host's hook. One that panics has lost its request alone.
fn prepare(
    gateway: &Gateway,
    head: &Parts,
    request: &mut llmserve_core::Request,
) -> Result<(), Refusal> {
    let Some(hook) = &gateway.hook else {
        return Ok(());
    };
    let hook = std::panic::AssertUnwindSafe(|| hook(head, request));
    let done = std::panic::catch_unwind(hook).unwrap_or_else(|panic| {
        Err(llmserve_core::Error::Panicked {
            part: "request hook",
            message: llmserve_core::error::panic_message(&*panic),
        })
    });
    Ok(done?)
}

/// The body, if it says that it is JSON, or nothing, and is not too large.
async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Vec<u8>, Refusal> {
    let refuse =
        |status, reason: String| Refusal::new(status, "invalid_request_error", None, reason);
    let is_json = headers.get(header::CONTENT_TYPE).is_none_or(|value| {
        let essence = value.to_str().unwrap_or_default().split(';').next();
        essence.is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
    });
    if !is_json {
        let reason = "the body's Content-Type is not application/json".to_owned();
        return Err(refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
    }
    let declared = headers.get(header::CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let too_large = || {
        let reason = format!("the body is larger than {limit} bytes");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, reason)
    };
    if declared.is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large());
    }
    let mut stream = body.into_data_stream();
    let mut read = Vec::new();
    while let Some(piece) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        let piece = piece.map_err(|_| Refusal::body("the body broke off"))?;
        if read.len() + piece.len() > limit {
            return Err(too_large());
        }
        read.extend_from_slice(&piece);
    }
    Ok(read)
}

fn whole(body: Vec<u8>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn models(State(served): Shared) -> Response {
    let models = served.gateway.rules.models.iter();
    let data: Vec<Value> = models.map(|name| described(name, served.since)).collect();
    whole(json!({ "object": "list", "data": data }).to_string().into())
}

async fn model(State(served): Shared, Path(name): Path<String>) -> Response {
    let known = &served.gateway.rules.models;
    if known.contains(&name) {
        whole(described(&name, served.since).to_string().into())
    } else {
        Refusal::unknown_model(&name, &known.join(", ")).into_response()
    }
}

fn described(name: &str, since: u64) -> Value {
    json!({ "id": name, "object": "model", "created": since, "owned_by": "llmserve" })
}

async fn health() -> &'static str {
    "ok\n"
}

async fn ready(State(served): Shared) -> (StatusCode, &'static str) {
    if served.gateway.switch.is_draining() {
        (StatusCode::SERVICE_UNAVAILABLE, "draining\n")
    } else {
        (StatusCode::OK, "ready\n")
    }
}

async fn metrics(State(served): Shared) -> Response {
    if let Some(hook) = &served.gateway.scrape {
        // One that panics leaves what was there before.
        let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| hook()));
    }
    let text = served
        .gateway
        .metrics
        .as_ref()
        .map(|recorder| recorder.render());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], text.unwrap_or_default()).into_response()
}

/// Names for answers, different in every process.
struct Ids {
    keys: RandomState,
    next: AtomicU64,
}

impl Ids {
    fn new() -> Self {
        Self {
            keys: RandomState::new(),
            next: AtomicU64::new(0),
        }
    }

    fn next(&self, kind: Kind) -> String {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let prefix = match kind {
            Kind::Completion => "cmpl",
            Kind::Chat => "chatcmpl",
        };
        let (high, low) = (
            self.keys.hash_one((number, 'a')),
            self.keys.hash_one((number, 'b')),
        );
        format!("{prefix}-{high:016x}{low:016x}")
    }
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
