//! An answer that was cut off anywhere goes on as if it had not been.

mod support;

use llmserve::prelude::*;
use llmserve::{Finished, TokenId};
use support::bard;

/// The tokens with their texts, and the end.
fn run(engine: &Engine, request: Request) -> (Vec<(TokenId, String)>, Finished) {
    let mut tokens = Vec::new();
    for event in engine.generate(request) {
        match event.unwrap() {
            Event::Token(token) => tokens.push((token.id, token.text)),
            Event::Finished(finished) => return (tokens, finished),
            _ => {}
        }
    }
    panic!("no end");
}

fn goes_on_from_anywhere(engine: &Engine, request: &Request) {
    let (whole, end) = run(engine, request.clone());
    assert!(whole.len() > 4, "{} tokens show nothing", whole.len());
    let ids: Vec<_> = whole.iter().map(|(id, _)| *id).collect();
    for cut in 1..whole.len() {
        let (rest, rest_end) = run(engine, request.clone().resume(&ids[..cut]));
        assert_eq!(rest, whole[cut..], "cut after {cut}");
        assert_eq!(rest_end.reason, end.reason, "cut after {cut}");
        assert_eq!(rest_end.text, end.text, "cut after {cut}");
        let (told, whole) = (rest_end.usage, end.usage);
        assert_eq!(
            (told.prompt_tokens, told.completion_tokens),
            (whole.prompt_tokens, whole.completion_tokens),
        );
    }
}

#[test]
fn the_rest_is_the_same_wherever_it_was_cut() {
    let engine = llmserve::serve(bard()).max_num_seqs(2).build().unwrap();
    let base = || Request::text("HAMLET:\nTo be").max_tokens(24);
    goes_on_from_anywhere(&engine, &base());
    goes_on_from_anywhere(&engine, &base().temperature(1.1).seed(5));
    let mut penalised = base().temperature(0.9).top_p(0.95).seed(6).min_tokens(12);
    penalised.sampling.repetition_penalty = 1.3;
    penalised.sampling.frequency_penalty = 0.7;
    penalised.sampling.presence_penalty = 0.4;
    goes_on_from_anywhere(&engine, &penalised);
    // A stop string that stands across a cut.
    let text = engine.generate(base()).wait().unwrap().text().to_owned();
    let stop: String = text
        .chars()
        .skip(text.chars().count() / 2)
        .take(9)
        .collect();
    goes_on_from_anywhere(&engine, &base().stop(stop));
}

#[cfg(feature = "structured")]
#[test]
fn a_grammar_goes_on_where_it_was() {
    let engine = llmserve::serve(bard()).max_num_seqs(2).build().unwrap();
    let request = Request::text("HAMLET:\n")
        .temperature(1.0)
        .seed(3)
        .regex("(To be, or not to be|That is the question): [a-z ]{6,12}[.!]")
        .max_tokens(60);
    goes_on_from_anywhere(&engine, &request);
}

#[test]
fn what_cannot_go_on_is_refused() {
    let engine = llmserve::serve(bard()).max_num_seqs(2).build().unwrap();
    let base = || Request::text("HAMLET:\n").max_tokens(8);
    let refusal = |request: Request| match engine.generate(request).wait() {
        Err(Error::InvalidRequest {
            field: "resume",
            reason,
        }) => reason,
        other => panic!("{other:?}"),
    };
    refusal(base().resume([50, 60]).n(2));
    refusal(base().resume([50, 60]).prompt_logprobs(0));
    refusal(base().resume([u32::MAX]));
    refusal(base().resume([50; 8]));
    let stopped = refusal(base().resume([50, 60, 70]).stop_token(60));
    assert!(stopped.contains("token 1"), "{stopped}");
    let limit = engine.info().max_context;
    let long = Request::text("HAMLET:\n").resume(vec![50; limit]);
    let long = engine.generate(long).wait();
    assert!(matches!(long, Err(Error::PromptTooLong { .. })), "{long:?}");
    // The engine is none the worse.
    assert!(engine.generate(base()).wait().is_ok());
}
