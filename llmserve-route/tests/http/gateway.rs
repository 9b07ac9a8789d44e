//! The gateway, as clients see it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use llmserve_core::{
    Constraint, Error, FinishReason, MemoryRecorder, Message, Prompt, Recorder, TokenizerError,
};
use llmserve_core::{RenderOptions, TokenId, Tokenizer};
use llmserve_route::gateway::Gateway;
use llmserve_route::remote::RemoteEndpoint;
use proptest::prelude::{ProptestConfig, any, prop_assert, proptest};
use serde_json::{Value, json};

use super::support::{Scripted, Server, Step, eventually, finished, says, started, token};

const COMPLETIONS: &str = "/v1/completions";
const CHAT: &str = "/v1/chat/completions";

fn hello() -> Arc<Scripted> {
    Scripted::always(says(&["to", " be"]))
}

#[test]
fn a_completion_whole() {
    let service = hello();
    let server = Server::serve(Gateway::new(service.clone()).model("bard"));
    let reply = server.post(COMPLETIONS, r#"{"model":"bard","prompt":"x"}"#);
    assert_eq!(reply.status, 200);
    let mut answer = reply.json();
    let id = answer["id"].take();
    assert!(id.as_str().expect("an id").starts_with("cmpl-"));
    assert!(answer["created"].take().as_u64() > Some(1_600_000_000));
    let expected = json!({
        "id": null, "object": "text_completion", "created": null, "model": "bard",
        "choices": [{ "index": 0, "text": "to be", "logprobs": null, "finish_reason": "length",
            "stop_reason": null }],
        "usage": { "prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4,
            "prompt_tokens_details": { "cached_tokens": 1 } },
    });
    assert_eq!(answer, expected);
    let seen = service.last();
    assert_eq!(seen.prompt, Prompt::Text("x".into()));
    assert_eq!(
        (seen.max_tokens, seen.sampling.temperature),
        (Some(16), 1.0)
    );
    assert_eq!(seen.id.as_deref(), id.as_str());
}

#[test]
fn a_chat_whole_and_in_pieces() {
    let server = Server::of(hello());
    let body = json!({ "messages": [
        { "role": "developer", "content": "Be brief." },
        { "role": "user", "content": [{ "type": "text", "text": "Hi" }, { "type": "text", "text": "!" }] },
        { "role": "assistant", "content": "Hm", "refusal": null, "tool_calls": [] },
    ]});
    let answer = server.post(CHAT, body.to_string()).json();
    assert_eq!(answer["object"], "chat.completion");
    let message = json!({ "role": "assistant", "content": "to be", "refusal": null });
    assert_eq!(answer["choices"][0]["message"], message);

    let mut body = body;
    body["stream"] = json!(true);
    body["stream_options"] = json!({ "include_usage": true });
    let reply = server.post(CHAT, body.to_string());
    let kind = reply.headers["content-type"].to_str().expect("text");
    assert!(kind.starts_with("text/event-stream"));
    let events = reply.events();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> = events[..events.len() - 1]
        .iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect();
    let deltas: Vec<&Value> = chunks[..4]
        .iter()
        .map(|chunk| &chunk["choices"][0]["delta"])
        .collect();
    let expected = [
        json!({ "role": "assistant", "content": "" }),
        json!({ "content": "to" }),
        json!({ "content": " be" }),
        json!({}),
    ];
    assert_eq!(deltas, expected.iter().collect::<Vec<_>>());
    assert_eq!(chunks[3]["choices"][0]["finish_reason"], "length");
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    assert_eq!(chunks[3]["usage"], Value::Null);
    assert_eq!(chunks[4]["choices"], json!([]));
    assert_eq!(chunks[4]["usage"]["total_tokens"], 4);
    assert_eq!(chunks.len(), 5);
}

#[test]
fn several_prompts_of_several_choices() {
    let service = Scripted::new(|request| {
        let Prompt::Text(text) = &request.prompt else {
            return vec![Step::Panic];
        };
        vec![
            started(&[1]),
            token(1, 5, &format!("{text}1")),
            finished(1, FinishReason::Stop, 1),
            Step::Yield,
            token(0, 4, &format!("{text}0")),
            finished(0, FinishReason::Length, 1),
        ]
    });
    let server = Server::of(service.clone());
    let reply = server.post(COMPLETIONS, r#"{"prompt":["a","b"],"n":2}"#);
    let answer = reply.json();
    let choices = answer["choices"].as_array().expect("a list");
    let told: Vec<_> = choices
        .iter()
        .map(|choice| (choice["index"].as_u64(), choice["text"].as_str()))
        .collect();
    let expected = [(0, "a0"), (1, "a1"), (2, "b0"), (3, "b1")];
    assert_eq!(told, expected.map(|(at, text)| (Some(at), Some(text))));
    // Each prompt counts once, each choice's tokens too.
    assert_eq!(answer["usage"]["prompt_tokens"], 4);
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    // One that fails fails all, and what is left of the others is cancelled.
    let reply = server.post(COMPLETIONS, r#"{"prompt":[[1],[2]]}"#);
    assert_eq!(reply.status, 500);
    eventually(|| service.live() == 0);
}

/// Tokens are letters.
struct Letters;

impl Tokenizer for Letters {
    fn encode(&self, _: &str, _: bool) -> Result<Vec<TokenId>, TokenizerError> {
        Err(TokenizerError::NoTemplate)
    }

    fn decode(&self, ids: &[TokenId], _: bool) -> Result<String, TokenizerError> {
        Ok(ids.iter().filter_map(|id| char::from_u32(*id)).collect())
    }

    fn render(&self, _: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
        Err(TokenizerError::NoTemplate)
    }
}

#[test]
fn logprobs_by_text_and_by_id() {
    let with = |id: u32, logprob| {
        Step::Emit(llmserve_core::Event::Token(llmserve_core::TokenEvent {
            index: 0,
            id,
            text: char::from_u32(id).expect("a character").into(),
            logprobs: Some(llmserve_core::TokenLogprobs {
                id,
                logprob,
                top: vec![(98, -0.25), (id, logprob)],
            }),
        }))
    };
    let steps = vec![
        started(&[1]),
        with(233, -1.5),
        with(97, f32::NEG_INFINITY),
        finished(0, FinishReason::Stop, 2),
    ];
    let service = Scripted::always(steps);
    let server = Server::serve(Gateway::new(service.clone()).tokenizer(Arc::new(Letters)));
    let answer = server
        .post(COMPLETIONS, r#"{"prompt":"x","logprobs":2}"#)
        .json();
    let expected = json!({
        "tokens": ["é", "a"], "token_logprobs": [-1.5, -9999.0],
        "top_logprobs": [{ "b": -0.25, "é": -1.5 }, { "b": -0.25, "a": -9999.0 }],
        "text_offset": [0, 1],
    });
    assert_eq!(answer["choices"][0]["logprobs"], expected);
    assert_eq!(service.last().logprobs, Some(2));
    let chat = r#"{"messages":[{"role":"user","content":"x"}],"logprobs":true,"top_logprobs":2}"#;
    let answer = server.post(CHAT, chat).json();
    let first = &answer["choices"][0]["logprobs"]["content"][0];
    assert_eq!(first["token"], "é");
    assert_eq!(first["bytes"], json!([0xc3, 0xa9]));
    assert_eq!(first["top_logprobs"][0]["token"], "b");
    let body = r#"{"prompt":"x","logprobs":2,"return_tokens_as_token_ids":true,"stream":true}"#;
    let reply = server.post(COMPLETIONS, body);
    let second: Value = serde_json::from_str(reply.events()[1]).expect("JSON");
    let logprobs = &second["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["token_id:97"]));
    assert_eq!(logprobs["text_offset"], json!([1]));
}

#[test]
fn forms_of_answers() {
    let service = hello();
    let server = Server::of(service.clone());
    let schema = r#"{"b": 1, "a": 2}"#;
    let json_schema = |text: &str| Some(Constraint::JsonSchema(text.into()));
    let cases = [
        (
            format!(
                r#""response_format":{{"type":"json_schema","json_schema":{{"name":"x","strict":true,"schema":{schema}}}}}"#
            ),
            json_schema(schema),
        ),
        (
            r#""response_format":{"type":"json_object"}"#.into(),
            json_schema(r#"{"type":"object"}"#),
        ),
        (r#""response_format":{"type":"text"}"#.into(), None),
        (format!(r#""guided_json":{schema}"#), json_schema(schema)),
        (
            r#""guided_json":"{\"a\": 1}""#.into(),
            json_schema(r#"{"a": 1}"#),
        ),
        (
            r#""guided_regex":"a+""#.into(),
            Some(Constraint::Regex("a+".into())),
        ),
        (
            r#""guided_choice":["a","b"]"#.into(),
            Some(Constraint::Choice(vec!["a".into(), "b".into()])),
        ),
        (
            r#""structured_outputs":{"regex":"a+"}"#.into(),
            Some(Constraint::Regex("a+".into())),
        ),
        (
            r#""structured_outputs":{"grammar":"start: /a/"}"#.into(),
            Some(Constraint::Lark("start: /a/".into())),
        ),
        (r#""structured_outputs":null"#.into(), None),
    ];
    for (field, constraint) in cases {
        let reply = server.post(COMPLETIONS, format!(r#"{{"prompt":"x",{field}}}"#));
        assert_eq!(reply.status, 200, "{field}: {}", reply.body);
        assert_eq!(service.last().constraint, constraint, "{field}");
    }
}

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
    let silent = super::support::raw::Raw::new(|stream| {
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
