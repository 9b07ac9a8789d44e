//! The same mixed requests give the same ids however they are served: alone, together, in small
//! chunks, preempted, and with neighbours cancelled midway.

mod support;

use llmserve::model::{DType, Kernels};
use llmserve::prelude::*;
use llmserve::serve;
use support::bard;
use support::levels::at_every_level;

/// How much a level is given to do.
#[derive(Clone, Copy)]
struct Load {
    requests: usize,
    /// Tokens of the longest prompt.
    longest: usize,
    /// KV blocks that are too few for all requests at once.
    tight: usize,
}

impl Load {
    /// All of it at the best level; less where a test would take minutes.
    fn of(kernels: Kernels) -> Self {
        let (requests, longest, tight) = match kernels {
            best if best == Kernels::detect() => (64, 500, 60),
            Kernels::Portable => (16, 100, 24),
            _ => (16, 500, 60),
        };
        Self {
            requests,
            longest,
            tight,
        }
    }
}

/// Prompts of one token to the longest, half of them sharing one of two prefixes; greedy and seeded.
fn requests(load: Load) -> Vec<Request> {
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
    (0..load.requests)
        .map(|i| {
            // The shortest and the longest are there for certain.
            let len = match i {
                0 => 1,
                1 => load.longest,
                _ => 1 + next(load.longest as u64) as usize,
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

fn together(engine: &Engine, load: Load) -> Vec<Vec<u32>> {
    let streams: Vec<_> = requests(load)
        .into_iter()
        .map(|request| engine.generate(request))
        .collect();
    streams
        .into_iter()
        .map(|stream| stream.wait().unwrap().ids().to_vec())
        .collect()
}

fn check(kernels: Kernels, dtype: DType) {
    let load = Load::of(kernels);
    let build = |kv_blocks: usize, budget: usize, threads: usize| {
        serve(bard())
            .dtype(dtype)
            .kernels(kernels)
            .kv_blocks(kv_blocks)
            .max_num_seqs(64)
            .scheduler(|scheduler| scheduler.reservation(None))
            .max_batched_tokens(budget)
            .threads(threads)
            .build()
            .unwrap()
    };
    let engine = build(2048, 2048, 2);
    let alone: Vec<Vec<u32>> = requests(load)
        .into_iter()
        .map(|request| engine.generate(request).wait().unwrap().ids().to_vec())
        .collect();
    support::drained(&engine);

    let engine = build(2048, 2048, 2);
    assert_eq!(together(&engine, load), alone, "all together");
    support::drained(&engine);

    let engine = build(2048, 32, 1);
    assert_eq!(
        together(&engine, load),
        alone,
        "in chunks of 32, on one thread"
    );
    support::drained(&engine);

    let engine = build(load.tight, 512, 2);
    assert_eq!(together(&engine, load), alone, "with few KV blocks");
    assert!(
        engine.stats().preemptions > 0,
        "{} blocks were meant to be too few",
        load.tight
    );
    support::drained(&engine);

    let engine = build(2048, 256, 2);
    let mut streams: Vec<_> = requests(load)
        .into_iter()
        .map(|request| Some(engine.generate(request)))
        .collect();
    // Every third goes away after its first token or two, while the others run.
    for i in (0..load.requests).step_by(3) {
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

fn ids_do_not_depend_on_company_in_f32(kernels: Kernels) {
    check(kernels, DType::F32);
}

fn ids_do_not_depend_on_company_in_bf16(kernels: Kernels) {
    check(kernels, DType::BF16);
}

fn ids_do_not_depend_on_company_in_int8(kernels: Kernels) {
    check(kernels, DType::Int8);
}

fn ids_do_not_depend_on_company_in_int4(kernels: Kernels) {
    check(kernels, DType::Int4);
}

at_every_level![
    ids_do_not_depend_on_company_in_f32,
    ids_do_not_depend_on_company_in_bf16,
    ids_do_not_depend_on_company_in_int8,
    ids_do_not_depend_on_company_in_int4,
];
