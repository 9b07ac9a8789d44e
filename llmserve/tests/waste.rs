//! PagedAttention's measure: slots without a token in held blocks stay under 4 %.

mod support;

use llmserve::prelude::*;
use support::{PageModel, Sizes, drained, engine};

#[test]
fn kv_waste_stays_under_four_percent() {
    let sizes = Sizes {
        blocks: 4096,
        max_num_seqs: 64,
        max_batched_tokens: 2048,
        ..Sizes::default()
    };
    // The next token is all that counts here, not what it is.
    let engine = engine(
        PageModel::greedy(|context| 2 + context.len() as u32 % 50),
        sizes,
    );
    let mut state = 1u64;
    let mut next = move |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33) % bound
    };
    let streams: Vec<_> = (0..1000u32)
        .map(|i| {
            // 100 to 600 tokens in all, part of them generated; distinct prompts.
            let total = 100 + next(501) as usize;
            let output = 1 + next(40) as usize;
            let prompt: Vec<u32> = (0..total - output)
                .map(|j| 2 + ((i + 7) * (j as u32 + 3)) % 61)
                .collect();
            engine.generate(Request::tokens(prompt).max_tokens(output).ignore_eos(true))
        })
        .collect();
    for stream in streams {
        stream.wait().unwrap();
    }
    let stats = engine.stats();
    assert!(stats.kv_waste_mean < 0.04, "{stats:?}");
    assert!(
        stats.kv_waste_mean > 0.0,
        "a last block is rarely full: {stats:?}"
    );
    drained(&engine);
}
