//! What is answered: whole, in pieces, in forms, several at once.

use std::sync::Arc;

use llmserve_core::{
    Constraint, FinishReason, Message, Prompt, RenderOptions, TokenId, Tokenizer, TokenizerError,
};
use llmserve_route::gateway::Gateway;
use serde_json::{Value, json};

use super::{CHAT, COMPLETIONS, hello};
use crate::support::{Scripted, Server, Step, eventually, finished, started, token};

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
