//! What the answers are, and how they end.

use llmserve::prelude::*;

use super::support::{EOS, Sizes, drained};
use super::texts::{letters, text};
use super::{WORDS, engine, engine_with, words};

#[test]
fn every_answer_is_one_of_the_texts() {
    let engine = engine(Sizes::default());
    let streams = (0..200)
        .map(|seed| engine.generate(words().seed(seed)))
        .collect::<Vec<_>>();
    let mut seen = std::collections::BTreeSet::new();
    for stream in streams {
        let response = stream.wait().unwrap();
        let choice = &response.choices[0];
        assert!(WORDS.contains(&choice.text.as_str()), "{:?}", choice.text);
        assert_eq!(text(&choice.ids), choice.text);
        // One that could go on ends with an end token; one that could not needs none.
        let expected = match choice.text.as_str() {
            "ab" | "z" => FinishReason::Eos(EOS),
            _ => FinishReason::Complete,
        };
        assert_eq!(choice.reason, Some(expected));
        assert_eq!(choice.usage.completion_tokens, choice.ids.len());
        seen.insert(choice.text.clone());
    }
    assert_eq!(seen.len(), WORDS.len());
    drained(&engine);
    let stats = engine.stats();
    assert!(stats.forced_tokens > 500 && stats.forced_tokens < stats.generation_tokens);
}

/// The same ids whoever else is there, whatever the chunks, the cache, the threads, and whether
/// logprobs make every token a picked one.
#[test]
fn ids_do_not_depend_on_company() {
    let request = |seed: u64| {
        let prompt: Vec<u32> = (0..8 + seed as u32 % 20)
            .map(|i| 2 + (i * i) % 40)
            .collect();
        let mut request = Request::tokens(prompt)
            .one_of(WORDS)
            .temperature(1.5)
            .seed(seed);
        request.sampling.repetition_penalty = 1.3;
        request.sampling.min_p = 0.01;
        request
    };
    let ids = |response: &Response| {
        let choices = response.choices.iter();
        choices
            .map(|c| (c.ids.clone(), c.reason.clone()))
            .collect::<Vec<_>>()
    };
    let alone: Vec<_> = (0..40)
        .map(|seed| {
            let engine = engine(Sizes::default());
            let response = engine.generate(request(seed)).wait().unwrap();
            drained(&engine);
            ids(&response)
        })
        .collect();
    let small = Sizes {
        blocks: 14,
        block_size: 4,
        max_num_seqs: 8,
        max_batched_tokens: 16,
    };
    for (sizes, threads) in [(Sizes::default(), 0), (Sizes::default(), 3), (small, 1)] {
        let engine = engine_with(sizes, threads);
        let requests = (0..40).map(|seed| match seed % 4 {
            0 => request(seed).logprobs(2),
            _ => request(seed),
        });
        let streams: Vec<_> = requests.map(|request| engine.generate(request)).collect();
        for (seed, stream) in streams.into_iter().enumerate() {
            let response = stream.wait().unwrap();
            assert_eq!(
                ids(&response),
                alone[seed],
                "seed {seed}, {} blocks",
                sizes.blocks
            );
            let told = &response.choices[0].logprobs;
            assert_eq!(
                told.len(),
                if seed % 4 == 0 {
                    response.ids().len()
                } else {
                    0
                }
            );
        }
        drained(&engine);
        if sizes.blocks == 14 {
            assert!(
                engine.stats().preemptions > 0,
                "this size is to be too small"
            );
        }
    }
}

/// Choices of one request are those of its fork, valid each, and repeat themselves.
#[test]
fn choices_share_a_prefill_and_not_a_grammar() {
    let run = |sizes| {
        let engine = engine(sizes);
        let response = engine.generate(words().n(6).seed(3)).wait().unwrap();
        drained(&engine);
        response
            .choices
            .iter()
            .map(|c| c.ids.clone())
            .collect::<Vec<_>>()
    };
    let choices = run(Sizes::default());
    for ids in &choices {
        assert!(WORDS.contains(&text(ids).as_str()), "{ids:?}");
    }
    assert!(choices.iter().any(|ids| *ids != choices[0]));
    let small = Sizes {
        blocks: 10,
        block_size: 4,
        max_num_seqs: 6,
        max_batched_tokens: 6,
    };
    assert_eq!(run(small), choices);
}

#[test]
fn ends_and_their_order() {
    let engine = engine(Sizes::default());
    let run = |request: Request| {
        let response = engine.generate(request).wait().unwrap();
        let choice = &response.choices[0];
        (
            choice.text.clone(),
            choice.reason.clone().unwrap(),
            choice.ids.len(),
        )
    };
    let base = || Request::tokens([0, 2, 3]);
    // Cut short within a run that is forced, and complete with its last token.
    let cut = run(base().one_of(["abcdef"]).max_tokens(4));
    assert_eq!(cut, ("abcd".into(), FinishReason::Length, 4));
    let exact = run(base().one_of(["abcd"]).max_tokens(4));
    assert_eq!(exact, ("abcd".into(), FinishReason::Complete, 4));
    // Stop strings and stop tokens cut, in forced text as well; nothing does before min_tokens.
    let stop = |request: Request| run(request.one_of(["abcdefab"]));
    assert_eq!(
        stop(base().stop("cd")),
        ("ab".into(), FinishReason::StopString("cd".into()), 4)
    );
    let b = letters("b")[0];
    assert_eq!(
        stop(base().stop_token(b)),
        ("a".into(), FinishReason::StopToken(b), 2)
    );
    let error = engine.generate(base().one_of(["ab"]).stop_token(b).min_tokens(4));
    assert_eq!(
        error.wait().unwrap_err(),
        Error::NothingToSample { position: 3 }
    );
    // An answer that cannot go on ends, whatever its least length; one that can goes on.
    let short = run(base().one_of(["ab"]).min_tokens(5));
    assert_eq!(short, ("ab".into(), FinishReason::Complete, 2));
    for seed in 0..10 {
        let request = base().one_of(["a", "abc"]).temperature(3.0).seed(seed);
        assert_eq!(run(request.clone().min_tokens(2)).0, "abc");
        assert_eq!(run(request.ignore_eos(true)).0, "abc");
    }
    drained(&engine);
}
