//! What each dialect sends, reads, and refuses to send.

use llmserve_core::{
    Constraint, Error, Event, FinishReason, Generate, LogitsContext, LogitsProcessor, Message,
    Request, Response,
};
use llmserve_route::remote::{Dialect, RemoteEndpoint};
use serde_json::{Value, json};

use super::support::raw::{EVENTS, Raw};

fn events(list: &[Value]) -> String {
    let events = list.iter().map(|event| format!("data: {event}\n\n"));
    format!("{EVENTS}{}data: [DONE]\n\n", events.collect::<String>())
}

fn azure() -> Dialect {
    Dialect::Azure {
        api_version: "2024-10-21".into(),
    }
}

/// What came of `request` at a server that answers with `bytes`: the answer, and the head and body
/// that it was sent.
fn exchange(dialect: Dialect, request: Request, bytes: String) -> (Response, String, Value) {
    let server = Raw::says(bytes);
    let endpoint = RemoteEndpoint::builder("far", server.url())
        .dialect(dialect)
        .model("m-1")
        .key("sk-1")
        .build()
        .expect("an endpoint");
    let response = endpoint.generate(request).wait().expect("an answer");
    let (head, body) = server.last();
    (response, head.to_ascii_lowercase(), body)
}

fn chat() -> Request {
    Request::messages([Message::system("Be brief."), Message::user("Hi")]).max_tokens(9)
}

#[test]
fn openai() {
    let stream = events(&[
        json!({"choices":[{"index":0,"delta":{"role":"assistant","content":"","refusal":null},
            "logprobs":null,"finish_reason":null}],"usage":null,"system_fingerprint":"fp"}),
        json!({"choices":[{"index":0,"delta":{"content":"He"},"finish_reason":null}]}),
        json!({"choices":[{"index":0,"delta":{"content":"llo"},"finish_reason":null}]}),
        json!({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}),
        json!({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":2,
            "prompt_tokens_details":{"cached_tokens":4}}}),
    ]);
    let request = chat()
        .model("ignored")
        .stop("x")
        .top_p(0.5)
        .json_schema(r#"{"b":1,"a":2}"#);
    let (response, head, body) = exchange(Dialect::OpenAi, request, stream);
    assert_eq!(response.text(), "Hello");
    let choice = &response.choices[0];
    assert_eq!(choice.reason, Some(FinishReason::Stop));
    assert_eq!(
        (choice.usage.prompt_tokens, choice.usage.cached_tokens),
        (9, 4)
    );
    assert_eq!((choice.usage.completion_tokens, choice.ids.len()), (2, 0));
    assert!(
        head.starts_with("post /v1/chat/completions http/1.1\r\n"),
        "{head}"
    );
    assert!(head.contains("authorization: bearer sk-1\r\n"));
    let expected = json!({
        "model": "m-1", "stream": true, "stream_options": { "include_usage": true },
        "messages": [{ "role": "system", "content": "Be brief." }, { "role": "user", "content": "Hi" }],
        "temperature": 0.0, "top_p": 0.5, "stop": ["x"], "max_tokens": 9,
        "response_format": { "type": "json_schema", "json_schema":
            { "name": "answer", "strict": true, "schema": { "b": 1, "a": 2 } } },
    });
    assert_eq!(body, expected);
}

#[test]
fn openai_in_several_choices() {
    let stream = events(&[
        json!({"choices":[{"index":1,"text":"b","finish_reason":"stop"}]}),
        json!({"choices":[{"index":0,"text":"a","finish_reason":null}]}),
        json!({"choices":[{"index":0,"text":"","finish_reason":"content_filter"}]}),
        json!({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":7}}),
    ]);
    let request = Request::text("x").n(2).max_tokens(4);
    let (response, head, body) = exchange(Dialect::OpenAi, request, stream);
    assert!(head.starts_with("post /v1/completions "), "{head}");
    assert_eq!((&body["prompt"], &body["n"]), (&json!("x"), &json!(2)));
    let texts: Vec<&str> = response
        .choices
        .iter()
        .map(|choice| choice.text.as_str())
        .collect();
    assert_eq!(texts, ["a", "b"]);
    let reason = FinishReason::Other("content_filter".into());
    assert_eq!(response.choices[0].reason, Some(reason));
    // The total is told once.
    let tokens = response
        .choices
        .iter()
        .map(|choice| choice.usage.completion_tokens);
    assert_eq!(tokens.sum::<usize>(), 7);
}

#[test]
fn vllm() {
    let stream = events(&[
        json!({"choices":[{"index":0,"text":" to","token_ids":[11],"prompt_token_ids":[5,6,7],
            "logprobs":{"tokens":["token_id:11"],"token_logprobs":[-0.5],"text_offset":[0],
                "top_logprobs":[{"token_id:12":-2.0,"token_id:11":-0.5,"token_id:9":-9.0}]},
            "finish_reason":null,"stop_reason":null}]}),
        // Several at once, and the end with the last.
        json!({"choices":[{"index":0,"text":" be","token_ids":[21,22],
            "logprobs":{"tokens":["token_id:21","token_id:22"],"token_logprobs":[-1.0,-9999.0],
                "top_logprobs":[{"token_id:21":-1.0},{"token_id:3":0.0}]},
            "finish_reason":"stop","stop_reason":22}]}),
        json!({"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":3,
            "prompt_tokens_details":null}}),
    ]);
    let request = Request::text("x")
        .tenant("ann")
        .logprobs(2)
        .top_k(5)
        .stop_token(22)
        .regex("a+");
    let (response, _, body) = exchange(Dialect::Vllm, request, stream);
    assert_eq!(
        (response.text(), response.ids()),
        (" to be", &[11, 21, 22][..])
    );
    assert_eq!(&*response.started.prompt_ids, [5, 6, 7]);
    let choice = &response.choices[0];
    assert_eq!(choice.reason, Some(FinishReason::StopToken(22)));
    let first = &choice.logprobs[0];
    assert_eq!(
        (first.id, first.top.clone()),
        (11, vec![(11, -0.5), (12, -2.0)])
    );
    assert_eq!(choice.logprobs[2].logprob, f32::NEG_INFINITY);
    for (field, value) in [
        ("max_tokens", Value::Null),
        ("return_token_ids", json!(true)),
        ("return_tokens_as_token_ids", json!(true)),
        ("cache_salt", json!("ann")),
        ("top_k", json!(5)),
        ("stop_token_ids", json!([22])),
        ("structured_outputs", json!({ "regex": "a+" })),
        ("logprobs", json!(2)),
    ] {
        assert_eq!(body[field], value, "{field}");
    }
    assert!(
        body.as_object()
            .expect("an object")
            .contains_key("max_tokens")
    );
}

#[test]
fn llama_cpp() {
    let stream = events(&[
        json!({"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}),
        json!({"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":null,"logprobs":
            {"content":[{"id":40,"token":"Hi","bytes":[72,105],"logprob":-0.25,
                "top_logprobs":[{"id":40,"token":"Hi","logprob":-0.25}]}]}}]}),
        json!({"choices":[{"index":0,"delta":{},"finish_reason":"length"}],"timings":{}}),
        json!({"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":1,"total_tokens":5}}),
    ]);
    let (response, _, body) = exchange(Dialect::LlamaCpp, chat().logprobs(1), stream);
    assert_eq!((response.text(), response.ids()), ("Hi", &[40][..]));
    assert_eq!(response.choices[0].logprobs[0].top, [(40, -0.25)]);
    // What it would cut by default is not cut.
    assert_eq!(
        (&body["top_k"], &body["min_p"], &body["top_p"]),
        (&json!(0), &json!(0.0), &json!(1.0))
    );
    assert_eq!(
        (&body["logprobs"], &body["top_logprobs"]),
        (&json!(true), &json!(1))
    );
}

#[test]
fn azure_has_its_deployment_in_the_path() {
    let stream = events(&[
        json!({"choices":[],"prompt_filter_results":[{"prompt_index":0}]}),
        json!({"choices":[{"index":0,"delta":{"content":"Hi"},"content_filter_results":{}}]}),
        json!({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}),
    ]);
    let (response, head, _) = exchange(azure(), chat(), stream);
    assert_eq!(response.text(), "Hi");
    let path = "/openai/deployments/m-1/chat/completions?api-version=2024-10-21";
    assert!(head.starts_with(&format!("post {path} ")), "{head}");
    assert!(head.contains("api-key: sk-1\r\n") && !head.contains("authorization"));
    let endpoint = RemoteEndpoint::builder("far", "http://127.0.0.1:1").dialect(azure());
    let endpoint = endpoint.build().expect("an endpoint");
    for model in ["../x", "a/b", "a?b", "", ".."] {
        let error = endpoint
            .generate(chat().model(model))
            .wait()
            .expect_err(model);
        assert_eq!(error.kind(), "invalid_request", "{model}");
    }
}

#[test]
fn anthropic() {
    let list = [
        json!({"type":"message_start","message":{"usage":{"input_tokens":5,
            "cache_read_input_tokens":20,"cache_creation_input_tokens":1,"output_tokens":1}}}),
        json!({"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}),
        json!({"type":"ping"}),
        json!({"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}),
        json!({"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}),
        json!({"type":"content_block_stop","index":0}),
        json!({"type":"message_delta","delta":{"stop_reason":"stop_sequence","stop_sequence":"x"},
            "usage":{"output_tokens":15}}),
        json!({"type":"message_stop"}),
    ];
    let stream: String = list
        .iter()
        .map(|event| {
            format!(
                "event: {}\ndata: {event}\n\n",
                event["type"].as_str().expect("text")
            )
        })
        .collect();
    let request = chat().stop("x").top_k(3);
    let (response, head, body) = exchange(Dialect::Anthropic, request, format!("{EVENTS}{stream}"));
    assert_eq!(response.text(), "Hello");
    let choice = &response.choices[0];
    assert_eq!(choice.reason, Some(FinishReason::StopString("x".into())));
    assert_eq!(
        (choice.usage.prompt_tokens, choice.usage.cached_tokens),
        (26, 20)
    );
    assert_eq!(choice.usage.completion_tokens, 15);
    assert!(head.starts_with("post /v1/messages "), "{head}");
    assert!(head.contains("x-api-key: sk-1\r\n") && head.contains("anthropic-version: "));
    let expected = json!({ "model": "m-1", "max_tokens": 9, "system": "Be brief.", "stream": true,
        "messages": [{ "role": "user", "content": "Hi" }], "temperature": 0.0, "top_k": 3,
        "stop_sequences": ["x"] });
    assert_eq!(body, expected);

    let error = json!({"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}});
    let server = Raw::says(format!("{EVENTS}event: error\ndata: {error}\n\n"));
    let endpoint = RemoteEndpoint::builder("far", server.url()).dialect(Dialect::Anthropic);
    let endpoint = endpoint.build().expect("an endpoint");
    let error = endpoint.generate(chat()).wait().expect_err("overloaded");
    let Error::Upstream {
        status, message, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((status, message.as_str()), (Some(529), "overloaded_error"));
}

struct Nothing;

impl LogitsProcessor for Nothing {
    fn process(&self, _: &LogitsContext<'_>, _: &mut [f32]) {}
}

#[test]
fn what_cannot_be_honoured_is_not_sent() {
    let text = || Request::text("x").max_tokens(4);
    let processed = text().processor(std::sync::Arc::new(Nothing));
    let mut unbounded = text();
    unbounded.sampling.temperature = f32::NAN;
    let cases = [
        (Dialect::Llmserve, processed, "processors"),
        (
            Dialect::Llmserve,
            text().prompt_logprobs(1),
            "prompt_logprobs",
        ),
        (Dialect::Llmserve, unbounded, "temperature"),
        (Dialect::Llmserve, text().n(0), "n"),
        (Dialect::Llmserve, text().n(usize::MAX), "n"),
        (Dialect::Llmserve, text().json_schema("{"), "constraint"),
        (Dialect::Vllm, text().resume([1]), "resume"),
        (Dialect::OpenAi, text().top_k(2), "top_k"),
        (Dialect::OpenAi, text().min_p(0.1), "min_p"),
        (Dialect::OpenAi, text().min_tokens(1), "min_tokens"),
        (Dialect::OpenAi, text().ignore_eos(true), "ignore_eos"),
        (Dialect::OpenAi, text().stop_token(1), "stop_tokens"),
        (
            Dialect::OpenAi,
            text().skip_special_tokens(false),
            "skip_special_tokens",
        ),
        (Dialect::OpenAi, text().logprobs(1), "logprobs"),
        (Dialect::OpenAi, text().regex("a"), "constraint"),
        (Dialect::OpenAi, Request::text("x"), "max_tokens"),
        (azure(), text(), "model"),
        (Dialect::LlamaCpp, text().n(2), "n"),
        (
            Dialect::LlamaCpp,
            text().constraint(Constraint::Choice(vec!["a".into()])),
            "constraint",
        ),
        (Dialect::Anthropic, text(), "prompt"),
        (Dialect::Anthropic, chat().seed(1), "seed"),
        (Dialect::Anthropic, chat().json_schema("{}"), "constraint"),
        (
            Dialect::Anthropic,
            Request::messages([Message::user("x")]),
            "max_tokens",
        ),
    ];
    for (dialect, request, field) in cases {
        // Whoever connects here learns that nobody listens, and says so otherwise.
        let endpoint =
            RemoteEndpoint::builder("far", "http://127.0.0.1:1").dialect(dialect.clone());
        let endpoint = endpoint.build().expect("an endpoint");
        let error = endpoint.generate(request).wait().expect_err(field);
        let Error::InvalidRequest { field: named, .. } = &error else {
            panic!("{dialect:?}, {field}: {error}");
        };
        assert_eq!(*named, field, "{dialect:?}: {error}");
    }
}

#[test]
fn the_first_event_waits_for_something_that_counts() {
    // Another endpoint can be asked as long as nothing was said.
    let role = json!({"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]});
    let server = Raw::says(format!("{EVENTS}data: {role}\n\n"));
    let endpoint = RemoteEndpoint::builder("far", server.url());
    let mut stream = endpoint.build().expect("an endpoint").generate(chat());
    assert!(matches!(
        stream.blocking_next(),
        Some(Err(Error::Upstream { .. }))
    ));
    let said = json!({"choices":[{"index":0,"delta":{"content":"x"}}]});
    let server = Raw::says(format!("{EVENTS}data: {role}\n\ndata: {said}\n\n"));
    let endpoint = RemoteEndpoint::builder("far", server.url());
    let mut stream = endpoint.build().expect("an endpoint").generate(chat());
    assert!(matches!(
        stream.blocking_next(),
        Some(Ok(Event::Started(_)))
    ));
}
