//! Whatever a stranger posts, the gateway answers with a status of OpenAI's shape, and does not
//! panic.
#![no_main]

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use axum::body::Body;
use axum::http::Request;
use libfuzzer_sys::fuzz_target;
use llmserve_core::{Error, EventStream, Generate};
use llmserve_route::gateway::Gateway;
use tower::Service;

struct Refuses;

impl Generate for Refuses {
    fn generate(&self, _: llmserve_core::Request) -> EventStream {
        EventStream::failed(Error::ShutDown)
    }
}

fuzz_target!(|body: &[u8]| {
    let mut router = Gateway::new(Refuses).into_router();
    for path in ["/v1/completions", "/v1/chat/completions"] {
        let request = Request::post(path)
            .body(Body::from(body.to_vec()))
            .expect("a request");
        let mut answer = pin!(router.call(request));
        // Nothing waits: the body is there, and the service answers at once.
        let mut cx = Context::from_waker(Waker::noop());
        match answer.as_mut().poll(&mut cx) {
            Poll::Ready(Ok(response)) => {
                let status = response.status().as_u16();
                assert!(matches!(status, 400 | 413 | 503), "{status}");
            }
            Poll::Ready(Err(never)) => match never {},
            Poll::Pending => panic!("it waits"),
        }
    }
});
