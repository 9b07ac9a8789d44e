//! The same 64 mixed requests give the same ids however they are served: alone, together, in
//! small chunks, preempted, and with neighbours cancelled midway.

mod support;

use llmserve::model::DType;
use llmserve::prelude::*;
use llmserve::serve;
use support::bard;

/// Prompts of 1 to 500 tokens, half of them sharing one of two prefixes; greedy and seeded.
fn requests() -> Vec<Request> {
    let mut state = 0x5eed_u64;
    let mut next = move |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    let prefixes: Vec<Vec<u32>> = (0..2)
        .map(|_| (0..120).map(|_| 6 + next(2000) as u32).collect())
        .collect();
    (0..64)
        .map(|i| {
            // Length 1 and 500 are there for certain.
            let len = match i {
                0 => 1,
                1 => 500,
                _ => 1 + next(500) as usize,
            };
            let mut prompt: Vec<u32> = match i % 4 {
                0 | 1 => Vec::new(),
                other => prefixes[other - 2].clone(),
            };
            prompt.truncate(len);
            while prompt.len() < len {
                prompt.push(6 + next(2000) as u32);
            }
            let request = Request::tokens(prompt)
                .max_tokens(4 + next(28) as usize)
                .ignore_eos(true);
            match i % 3 {
                0 => request,
                1 => request.temperature(0.9).top_p(0.95).seed(i as u64),
                _ => {
                    let mut request = request
                        .temperature(1.2)
                        .top_k(50)
                        .min_p(0.01)
                        .seed(i as u64);
                    request.sampling.repetition_penalty = 1.1;
                    request.sampling.frequency_penalty = 0.2;
                    request
                }
            }
        })
        .collect()
}

fn together(engine: &Engine) -> Vec<Vec<u32>> {
    let streams: Vec<_> = requests()
        .into_iter()
        .map(|request| engine.generate(request))
        .collect();
    streams
        .into_iter()
        .map(|stream| stream.wait().unwrap().ids().to_vec())
        .collect()
}

fn check(dtype: DType) {
    let build = |kv_blocks: usize, budget: usize, threads: usize| {
        serve(bard())
            .dtype(dtype)
            .kv_blocks(kv_blocks)
            .max_num_seqs(64)
            .max_batched_tokens(budget)
            .threads(threads)
            .build()
            .unwrap()
    };
    let engine = build(2048, 2048, 2);
    let alone: Vec<Vec<u32>> = requests()
        .into_iter()
        .map(|request| engine.generate(request).wait().unwrap().ids().to_vec())
        .collect();
    support::drained(&engine);

    let engine = build(2048, 2048, 2);
    assert_eq!(together(&engine), alone, "all together");
    support::drained(&engine);

    let engine = build(2048, 32, 1);
    assert_eq!(together(&engine), alone, "in chunks of 32, on one thread");
    support::drained(&engine);

    let engine = build(60, 512, 2);
    assert_eq!(together(&engine), alone, "with 60 KV blocks");
    assert!(
        engine.stats().preemptions > 0,
        "60 blocks were meant to be too few"
    );
    support::drained(&engine);

    let engine = build(2048, 256, 2);
    let mut streams: Vec<_> = requests()
        .into_iter()
        .map(|request| Some(engine.generate(request)))
        .collect();
    // Every third goes away after its first token or two, while the others run.
    for i in (0..64).step_by(3) {
        if let Some(stream) = &mut streams[i] {
            for _ in 0..1 + i % 3 {
                stream.blocking_next().unwrap().unwrap();
            }
        }
        streams[i] = None;
    }
    for (i, stream) in streams.into_iter().enumerate() {
        if let Some(stream) = stream {
            assert_eq!(
                stream.wait().unwrap().ids(),
                alone[i],
                "request {i}, others cancelled"
            );
        }
    }
    support::drained(&engine);
}

#[test]
fn ids_do_not_depend_on_company_in_f32() {
    check(DType::F32);
}

#[test]
fn ids_do_not_depend_on_company_in_bf16() {
    check(DType::BF16);
}
