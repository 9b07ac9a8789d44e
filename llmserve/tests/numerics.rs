//! The embedded model, served with each level of kernels: what the reference says, and the same
//! however a prompt came to be computed.

mod support;

use llmserve::model::{DType, Kernels};
use llmserve::prelude::*;
use llmserve::serve;
use serde_json::Value;
use support::levels::{DTYPES, at_every_level};
use support::{bard, drained};

fn engine(kernels: Kernels, dtype: DType, budget: usize) -> Engine {
    serve(bard())
        .dtype(dtype)
        .kernels(kernels)
        .threads(2)
        .kv_blocks(256)
        .max_batched_tokens(budget)
        .build()
        .unwrap()
}

fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| 6 + (i * i * 31 + i * 7) % 2000).collect()
}

fn greedy_text_is_the_references(kernels: Kernels) {
    // Below this lead, rounding may decide.
    const MARGIN: f64 = 0.001;
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../llmserve-model/tests/goldens/bard-2m.json"
    );
    let golden: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let engine = engine(kernels, DType::F32, 48);
    let cases = golden["cases"].as_array().unwrap();
    // All at once: nobody's text may depend on the others.
    let streams: Vec<_> = cases
        .iter()
        .map(|case| {
            let count = case["greedy_ids"].as_array().unwrap().len();
            let request = match case["prompt"].as_str() {
                Some(text) => Request::text(text),
                None => Request::messages(
                    serde_json::from_value::<Vec<Message>>(case["messages"].clone()).unwrap(),
                ),
            };
            engine.generate(
                request
                    .max_tokens(count)
                    .ignore_eos(true)
                    .skip_special_tokens(false),
            )
        })
        .collect();
    for (case, stream) in cases.iter().zip(streams) {
        let response = stream.wait().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["greedy_ids"].clone()).unwrap();
        let margins = case["greedy_margins"].as_array().unwrap();
        let decided = margins.iter().position(|m| m.as_f64().unwrap() < MARGIN);
        let decided = decided.unwrap_or(ids.len());
        assert_eq!(response.ids()[..decided], ids[..decided], "{kernels}");
        if decided == ids.len() {
            assert_eq!(response.text(), case["greedy_text"].as_str().unwrap());
        }
    }
    drained(&engine);
}

fn a_cached_prefix_and_its_forks_change_nothing(kernels: Kernels) {
    for dtype in DTYPES {
        let fresh = engine(kernels, dtype, 512);
        let request = |n| {
            Request::tokens(prompt(75))
                .max_tokens(12)
                .temperature(1.0)
                .seed(5)
                .n(n)
                .ignore_eos(true)
        };
        let first = fresh.generate(request(1)).wait().unwrap();
        assert_eq!(first.choices[0].usage.cached_tokens, 0);
        let again = fresh.generate(request(3)).wait().unwrap();
        assert_eq!(
            again.choices[0].usage.cached_tokens, 64,
            "four whole blocks"
        );
        assert_eq!(again.ids(), first.ids(), "{kernels} {dtype}");
        assert_ne!(again.choices[1].ids, again.choices[2].ids);
        // Forks of a prompt that was computed in small chunks, and never cached.
        let other = engine(kernels, dtype, 8);
        let forked = other.generate(request(3)).wait().unwrap();
        for (forked, cached) in forked.choices.iter().zip(&again.choices) {
            assert_eq!(forked.ids, cached.ids, "{kernels} {dtype}");
        }
        drained(&fresh);
        drained(&other);
    }
}

fn logprobs_are_the_same_to_the_last_bit_in_any_chunks(kernels: Kernels) {
    for dtype in DTYPES {
        let told = |budget| {
            let engine = engine(kernels, dtype, budget);
            let request = Request::tokens(prompt(60))
                .max_tokens(4)
                .logprobs(3)
                .prompt_logprobs(3);
            let response = engine.generate(request).wait().unwrap();
            drained(&engine);
            let prompt = response.started.prompt_logprobs.clone().unwrap();
            let answer = response.choices[0].logprobs.clone();
            let all = prompt.iter().chain(&answer);
            all.flat_map(|entry| {
                let top = entry.top.iter().map(|&(id, x)| (id, x.to_bits()));
                [(entry.id, entry.logprob.to_bits())].into_iter().chain(top)
            })
            .collect::<Vec<_>>()
        };
        let whole = told(512);
        assert!(whole.len() > 59 * 4);
        assert_eq!(told(7), whole, "{kernels} {dtype}");
    }
}

at_every_level![
    greedy_text_is_the_references,
    a_cached_prefix_and_its_forks_change_nothing,
    logprobs_are_the_same_to_the_last_bit_in_any_chunks,
];
