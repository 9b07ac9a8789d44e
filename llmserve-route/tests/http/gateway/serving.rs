//! The server around it: metrics, clients that go or are slow, scraping, and bodies of any kind.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use llmserve_core::{Error, FinishReason, Generate, MemoryRecorder, Recorder, Request};
use llmserve_route::gateway::Gateway;
use llmserve_route::health::{BreakerConfig, BreakerState, Breakers, HealthChecks};
use llmserve_route::remote::RemoteEndpoint;
use llmserve_route::{Replica, Router};
use proptest::prelude::{ProptestConfig, any, prop_assert, proptest};
use serde_json::json;

use super::{CHAT, COMPLETIONS, hello};
use crate::support::{Scripted, Server, Step, eventually, finished, says, started, token};

#[test]
fn models_health_readiness_and_metrics() {
    let recorder = Arc::new(MemoryRecorder::default());
    recorder.gauge("running", "Now.", &[]).set(3.0);
    let gateway = Gateway::new(hello())
        .model("bard")
        .model("meta/llama")
        .metrics(recorder);
    let switch = gateway.switch();
    let server = Server::serve(gateway);
    let list = server.get("/v1/models").json();
    assert_eq!(list["object"], "list");
    assert_eq!(list["data"][1]["id"], "meta/llama");
    assert_eq!(
        server.get("/v1/models/meta/llama").json()["object"],
        "model"
    );
    assert_eq!(server.get("/v1/models/none").status, 404);
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/ready").status, 200);
    switch.drain();
    assert_eq!(server.get("/ready").status, 503);
    assert_eq!(server.get("/health").status, 200);
    // What comes nevertheless is answered.
    assert_eq!(server.post(COMPLETIONS, r#"{"prompt":"x"}"#).status, 200);
    assert_eq!(server.post(COMPLETIONS, "{}").status, 400);
    switch.undrain();
    assert_eq!(server.get("/ready").status, 200);
    let metrics = server.get("/metrics").body;
    for line in [
        "running 3\n",
        "llmserve_http_requests_total{route=\"/v1/completions\",status=\"200\"} 1\n",
        "llmserve_http_requests_total{route=\"/v1/completions\",status=\"400\"} 1\n",
    ] {
        assert!(metrics.contains(line), "{metrics}");
    }
    assert_eq!(Server::of(hello()).get("/metrics").status, 404);
    assert_eq!(switch.in_flight(), 0);
}

/// Sends a body by hand, and leaves the connection to the caller.
fn open(server: &Server, body: &str) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).expect("a connection");
    let length = body.len();
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream
}

#[test]
fn a_client_that_goes_cancels() {
    let waiting = vec![Step::Hang];
    let speaking = vec![started(&[1]), token(0, 1, "to"), Step::Hang];
    for (steps, stream, reads) in [
        (waiting.clone(), false, false),
        (waiting, true, false),
        (speaking.clone(), false, false),
        (speaking, true, true),
    ] {
        let service = Scripted::always(steps);
        let gateway = Gateway::new(service.clone());
        let switch = gateway.switch();
        let server = Server::serve(gateway);
        let body = json!({ "prompt": "x", "stream": stream }).to_string();
        let mut connection = open(&server, &body);
        eventually(|| service.live() == 1);
        assert_eq!(switch.in_flight(), 1);
        if reads {
            let mut some = [0; 16];
            assert!(connection.read(&mut some).expect("a head") > 0);
        }
        drop(connection);
        eventually(|| service.live() == 0 && switch.in_flight() == 0);
    }
}

#[test]
fn a_slow_reader_holds_up_itself_alone() {
    // More than the buffers of two sockets hold.
    let words = vec!["0123456789abcdef".repeat(64); 32_000];
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let total = words.len();
    let mut steps = vec![started(&[1])];
    steps.extend(words.iter().map(|word| token(0, 1, word)));
    steps.push(finished(0, FinishReason::Length, total));
    let service = Scripted::always(steps);
    let server = Server::of(service.clone());
    let mut slow = open(&server, r#"{"prompt":"x","stream":true}"#);
    // It stops taking events, long before the end.
    let mut before = usize::MAX;
    eventually(|| service.taken() > 0);
    while service.taken() != before {
        before = service.taken();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(before < total, "{before}");
    // Meanwhile others are served.
    assert_eq!(server.get("/health").status, 200);
    // And whoever reads at last has it all.
    let mut all = Vec::new();
    let mut buffer = vec![0; 1 << 20];
    while !all.ends_with(b"0\r\n\r\n") {
        let count = slow.read(&mut buffer).expect("more");
        assert!(count > 0);
        all.extend_from_slice(&buffer[..count]);
    }
    assert!(String::from_utf8_lossy(&all).contains("data: [DONE]\n\n"));
    assert_eq!(service.live(), 0);
}

#[test]
fn endpoints_are_scraped_and_probed_and_connected_to_by_address() {
    let recorder = Arc::new(MemoryRecorder::default());
    let gauge = |name| recorder.gauge(name, "", &[("model", "bard")]);
    gauge("llmserve_num_requests_running").set(3.0);
    gauge("llmserve_num_requests_waiting").set(5.0);
    gauge("llmserve_kv_cache_usage_ratio").set(0.25);
    let server = Server::serve(Gateway::new(hello()).metrics(recorder.clone()));
    // A name that nobody resolves.
    let endpoint = RemoteEndpoint::builder("far", "http://rack-1.invalid:8000/v1")
        .address(server.address)
        .build()
        .expect("an endpoint");
    let limit = Duration::from_secs(30);
    let scrape = server.block_on(endpoint.scrape(limit)).expect("metrics");
    assert_eq!(
        (scrape.running, scrape.waiting, scrape.kv_usage),
        (Some(3.0), Some(5.0), Some(0.25))
    );
    assert_eq!(server.block_on(endpoint.probe("/health", limit)), Ok(()));
    let error = server
        .block_on(endpoint.probe("/none", limit))
        .expect_err("none");
    assert!(
        matches!(
            error,
            Error::Upstream {
                status: Some(404),
                ..
            }
        ),
        "{error}"
    );
    let silent = crate::support::raw::Raw::new(|stream| {
        let _ = stream.read(&mut [0]);
    });
    let endpoint = RemoteEndpoint::builder("far", silent.url());
    let endpoint = endpoint.build().expect("an endpoint");
    let limit = Duration::from_millis(30);
    let error = server
        .block_on(endpoint.probe("/health", limit))
        .expect_err("silence");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

#[test]
fn health_checks_find_a_gateway_that_drains() {
    let steady = Scripted::always(says(&["steady"]));
    let drained = hello();
    let gateway = Gateway::new(drained.clone());
    let switch = gateway.switch();
    let (first, second) = (Server::serve(gateway), Server::of(steady.clone()));
    let replica = |name: &str, endpoint: RemoteEndpoint| {
        let probe = endpoint.health_at("/ready");
        Replica::new(name, endpoint).probe(probe)
    };
    let breakers = Breakers::new(BreakerConfig::default()).expect("breakers");
    let router = Router::builder()
        .replica(replica("first", first.endpoint(|builder| builder)))
        .replica(replica("second", second.endpoint(|builder| builder)))
        .availability(breakers.clone())
        .health_checks(
            HealthChecks::default()
                .interval(Duration::from_millis(20))
                .timeout(Duration::from_secs(20)),
        )
        .build()
        .expect("a router");
    let closed = |name: &str| breakers.state(name, Duration::ZERO) == Some(BreakerState::Closed);
    assert!(closed("first") && closed("second"));
    switch.drain();
    eventually(|| !closed("first"));
    for _ in 0..8 {
        let answer = router
            .generate(Request::text("x").max_tokens(4))
            .wait()
            .expect("one");
        assert_eq!(answer.text(), "steady");
    }
    assert_eq!(
        (drained.seen.lock().len(), steady.seen.lock().len()),
        (0, 8)
    );
    assert!(
        router
            .stats()
            .replicas
            .iter()
            .all(|replica| replica.failed == 0)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]
    #[test]
    fn no_body_breaks_it(
        at in any::<proptest::sample::Index>(),
        with in proptest::collection::vec(any::<u8>(), 0..4),
        without in 0usize..6,
        chat in any::<bool>(),
    ) {
        static SERVER: LazyLock<Server> = LazyLock::new(|| Server::of(Scripted::always(vec![
            Step::Fail(Error::ShutDown),
        ])));
        let body: &[u8] = if chat {
            br#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"}]}],"n":2,"stop":"x","logit_bias":{"5":-1e2},"response_format":{"type":"json_schema","json_schema":{"schema":{}}}}"#
        } else {
            br#"{"prompt":[[1,2],[3]],"max_tokens":null,"seed":-1,"top_k":5,"logprobs":1,"stream":true,"routing":{"regions":["eu"],"max_cost":1.5},"resume_token_ids":null,"deadline_ms":0.5}"#
        };
        let mut bytes = body.to_vec();
        let at = at.index(bytes.len());
        let end = bytes.len().min(at + without);
        bytes.splice(at..end, with);
        let reply = SERVER.post(if chat { CHAT } else { COMPLETIONS }, bytes);
        prop_assert!(matches!(reply.status, 400 | 503), "{}: {}", reply.status, reply.body);
        prop_assert!(reply.json()["error"]["message"].is_string());
    }
}
