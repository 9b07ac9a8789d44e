//! What is refused, and what the host has a say in.

use std::time::Duration;

use llmserve_core::Error;
use llmserve_route::gateway::Gateway;
use serde_json::{Value, json};

use super::{CHAT, COMPLETIONS, hello};
use crate::support::{Scripted, Server, Step, started, token};

#[test]
fn what_is_refused_and_by_which_name() {
    let service = hello();
    let server = Server::serve(Gateway::new(service.clone()).model("bard").max_body(4096));
    let completions = [
        ("", None),
        ("x", None),
        ("[]", None),
        ("null", None),
        (r#"{"prompt":"a","prompt":"b"}"#, None),
        (r#"{"#, None),
        ("\u{0}", None),
        (r#"{}"#, Some("prompt")),
        (r#"{"prompt":null}"#, Some("prompt")),
        (r#"{"prompt":7}"#, Some("prompt")),
        (r#"{"prompt":[]}"#, Some("prompt")),
        (r#"{"prompt":["a",1]}"#, Some("prompt")),
        (r#"{"prompt":[-1]}"#, Some("prompt")),
        (r#"{"prompt":[4294967296]}"#, Some("prompt")),
        (r#"{"prompt":"a","n":0}"#, Some("n")),
        (r#"{"prompt":"a","n":1000000000}"#, Some("n")),
        (r#"{"prompt":["a","b"],"n":128}"#, Some("prompt")),
        (r#"{"prompt":"a","max_tokens":-1}"#, Some("max_tokens")),
        (r#"{"prompt":"a","max_tokens":1.5}"#, Some("max_tokens")),
        (r#"{"prompt":"a","temperature":"hot"}"#, Some("temperature")),
        (r#"{"prompt":"a","temperature":1e999}"#, Some("temperature")),
        (r#"{"prompt":"a","top_k":-2}"#, Some("top_k")),
        (r#"{"prompt":"a","logprobs":21}"#, Some("logprobs")),
        (r#"{"prompt":"a","logprobs":true}"#, Some("logprobs")),
        (r#"{"prompt":"a","best_of":2}"#, Some("best_of")),
        (r#"{"prompt":"a","echo":true}"#, Some("echo")),
        (r#"{"prompt":"a","suffix":"z"}"#, Some("suffix")),
        (r#"{"prompt":"a","logit_bias":{"x":1}}"#, Some("logit_bias")),
        (r#"{"prompt":"a","stop":[1]}"#, Some("stop")),
        (r#"{"prompt":"a","stream":"yes"}"#, Some("stream")),
        (
            r#"{"prompt":"a","stream_options":{"x":1}}"#,
            Some("stream_options"),
        ),
        (
            r#"{"prompt":"a","use_beam_search":true}"#,
            Some("use_beam_search"),
        ),
        (
            r#"{"prompt":"a","prompt_logprobs":1}"#,
            Some("prompt_logprobs"),
        ),
        (
            r#"{"prompt":"a","response_format":{"type":"xml"}}"#,
            Some("response_format"),
        ),
        (
            r#"{"prompt":"a","response_format":{"type":"json_schema"}}"#,
            Some("response_format"),
        ),
        (
            r#"{"prompt":"a","guided_regex":"a","guided_choice":["a"]}"#,
            Some("guided_choice"),
        ),
        (
            r#"{"prompt":"a","structured_outputs":{"regex":"a","choice":["a"]}}"#,
            Some("structured_outputs"),
        ),
        (
            r#"{"prompt":"a","routing":{"region":"eu"}}"#,
            Some("routing"),
        ),
        (r#"{"prompt":"a","deadline_ms":-1}"#, Some("deadline_ms")),
        (
            r#"{"prompt":["a","b"],"resume_token_ids":[1]}"#,
            Some("resume_token_ids"),
        ),
        (
            r#"{"prompt":"a","service_tier":"flex"}"#,
            Some("service_tier"),
        ),
        (r#"{"prompt":"a","messages":[]}"#, Some("messages")),
    ];
    let chats = [
        (r#"{}"#, Some("messages")),
        (r#"{"messages":"Hi"}"#, Some("messages")),
        (r#"{"messages":[{"role":"user"}]}"#, Some("messages")),
        (r#"{"messages":[{"content":"x"}]}"#, Some("messages")),
        (
            r#"{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]}"#,
            Some("messages"),
        ),
        (
            r#"{"messages":[{"role":"tool","content":"x","tool_call_id":"y"}]}"#,
            Some("messages"),
        ),
        (
            r#"{"messages":[],"tools":[{"type":"function"}]}"#,
            Some("tools"),
        ),
        (
            r#"{"messages":[],"tool_choice":"required"}"#,
            Some("tool_choice"),
        ),
        (r#"{"messages":[],"top_logprobs":2}"#, Some("top_logprobs")),
        (r#"{"messages":[],"logprobs":2}"#, Some("logprobs")),
        (
            r#"{"messages":[],"max_tokens":1,"max_completion_tokens":2}"#,
            Some("max_tokens"),
        ),
        (
            r#"{"messages":[],"modalities":["audio"]}"#,
            Some("modalities"),
        ),
        (r#"{"messages":[],"prompt":"a"}"#, Some("prompt")),
    ];
    let all = completions.map(|case| (COMPLETIONS, case));
    let all = all.into_iter().chain(chats.map(|case| (CHAT, case)));
    for (path, (body, param)) in all {
        let reply = server.post(path, body);
        assert_eq!(reply.status, 400, "{body}: {}", reply.body);
        let error = &reply.json()["error"];
        assert_eq!(error["type"], "invalid_request_error", "{body}");
        assert_eq!(error["param"].as_str(), param, "{body}: {error}");
        assert!(!error["message"].as_str().expect("text").is_empty());
    }
    let reply = server.post(COMPLETIONS, r#"{"prompt":"a","model":"other"}"#);
    assert_eq!(reply.status, 404);
    assert_eq!(reply.json()["error"]["code"], "model_not_found");
    let long = format!(r#"{{"prompt":"{}"}}"#, "a".repeat(5000));
    assert_eq!(server.post(COMPLETIONS, long.clone()).status, 413);
    let stream = reqwest::Body::wrap_stream(Pieces(long.into_bytes()));
    let url = format!("{}{COMPLETIONS}", server.url());
    let reply = server.send(server.client().post(&url).body(stream));
    assert_eq!(reply.status, 413);
    let plain = server
        .client()
        .post(&url)
        .header("content-type", "text/plain");
    assert_eq!(server.send(plain.body("{}")).status, 415);
    let reply = server.get(COMPLETIONS);
    assert_eq!(
        (reply.status, reply.headers["allow"].to_str().ok()),
        (405, Some("POST"))
    );
    assert_eq!(server.get("/v2").status, 404);
    // Nothing of all this has reached the service.
    assert_eq!(service.seen.lock().len(), 0);
}

/// A body that does not say how long it is.
struct Pieces(Vec<u8>);

impl futures_core::Stream for Pieces {
    type Item = Result<Vec<u8>, std::io::Error>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        let rest = self.0.len().min(500);
        let piece: Vec<u8> = self.0.drain(..rest).collect();
        std::task::Poll::Ready((!piece.is_empty()).then_some(Ok(piece)))
    }
}

#[test]
fn what_openai_has_and_changes_nothing() {
    let service = hello();
    let server = Server::serve(Gateway::new(service.clone()).tenant_from_user(true));
    let body = json!({
        "messages": [{ "role": "user", "content": "x" }],
        "user": "ann", "metadata": { "a": "b" }, "store": false, "service_tier": "auto",
        "parallel_tool_calls": true, "tool_choice": "none", "tools": [], "safety_identifier": "x",
        "prompt_cache_key": "thread-7", "reasoning_effort": null, "audio": null, "seed": -3,
        "modalities": ["text"], "prediction": { "type": "content", "content": "x" }, "top_k": -1,
        "stop": "end", "logit_bias": { "5": -100 }, "max_completion_tokens": 9,
        "routing": { "regions": ["eu"], "latency_budget_ms": 250 }, "deadline_ms": 1500,
    });
    let reply = server.post(CHAT, body.to_string());
    assert_eq!(reply.status, 200, "{}", reply.body);
    let seen = service.last();
    assert_eq!(seen.tenant.as_deref(), Some("ann"));
    assert_eq!(seen.sampling.seed, Some(u64::MAX - 2));
    assert_eq!(
        (seen.stop, seen.max_tokens),
        (vec!["end".to_owned()], Some(9))
    );
    assert_eq!(seen.sampling.logit_bias.get(&5), Some(&-100.0));
    assert_eq!(seen.routing.session.as_deref(), Some("thread-7"));
    assert_eq!(seen.routing.regions, ["eu"]);
    assert_eq!(
        seen.routing.latency_budget,
        Some(Duration::from_millis(250))
    );
    assert_eq!(seen.deadline, Some(Duration::from_millis(1500)));
}

#[test]
fn errors_have_statuses_before_the_first_event_and_are_events_after_it() {
    let overloaded = Error::Overloaded {
        waiting: 1,
        limit: 1,
        unit: "requests",
        retry_after: Some(Duration::from_secs(7)),
    };
    let server = Server::of(Scripted::always(vec![Step::Yield, Step::Fail(overloaded)]));
    for stream in [false, true] {
        let body = json!({ "prompt": "x", "stream": stream });
        let reply = server.post(COMPLETIONS, body.to_string());
        assert_eq!(reply.status, 503);
        assert_eq!(reply.headers["retry-after"], "7");
    }
    let broken = [
        vec![Step::Fail(Error::ShutDown)],
        vec![Step::Panic],
        // It just ends.
        vec![],
    ];
    for end in broken {
        let mut steps = vec![started(&[1]), token(0, 1, "to")];
        steps.extend(end);
        let server = Server::of(Scripted::always(steps));
        let reply = server.post(COMPLETIONS, r#"{"prompt":"x","stream":true}"#);
        assert_eq!(reply.status, 200);
        let events = reply.events();
        assert_eq!(events.len(), 2, "{}", reply.body);
        let error: Value = serde_json::from_str(events[1]).expect("JSON");
        assert_eq!(error["error"]["type"], "server_error");
        let reply = server.post(COMPLETIONS, r#"{"prompt":"x"}"#);
        assert!(reply.status >= 500);
    }
    struct Panics;
    impl llmserve_core::Generate for Panics {
        fn generate(&self, _: llmserve_core::Request) -> llmserve_core::EventStream {
            panic!("generate, on purpose");
        }
    }
    let reply = Server::of(Panics).post(COMPLETIONS, r#"{"prompt":"x"}"#);
    assert_eq!(reply.status, 500);
}

#[test]
fn the_host_has_a_say_in_each_request() {
    let service = hello();
    let gateway = Gateway::new(service.clone()).on_request(|head, request| {
        match head.headers.get("x-tenant").map(|name| name.to_str()) {
            Some(Ok("panic")) => panic!("hook, on purpose"),
            Some(Ok(name)) => request.tenant = Some(name.to_owned()),
            _ => {
                return Err(Error::RateLimited {
                    limit: 0,
                    unit: "requests a minute",
                    retry_after: Some(Duration::from_secs(60)),
                });
            }
        }
        Ok(())
    });
    let server = Server::serve(gateway);
    let reply = server.post(COMPLETIONS, r#"{"prompt":"x"}"#);
    assert_eq!(
        (reply.status, &reply.headers["retry-after"]),
        (429, &"60".parse().expect("a value"))
    );
    let url = format!("{}{COMPLETIONS}", server.url());
    let post = |name: &str| {
        let request = server.client().post(&url).header("x-tenant", name);
        server.send(request.body(r#"{"prompt":"x"}"#)).status
    };
    assert_eq!(post("ann"), 200);
    assert_eq!(service.last().tenant.as_deref(), Some("ann"));
    assert_eq!(post("panic"), 500);
}
