//! The embedded pair, bard-2m and bard-draft.

use super::*;

/// The embedded pair.
#[test]
fn the_real_pair_gives_the_targets_own_ids() {
    let draft = support::bard().with_file_name("bard-draft");
    let mut requests: Vec<Request> = Vec::new();
    for (i, text) in [
        "HAMLET",
        "Who is there?",
        "To be, or not to be",
        "ROMEO\tBut soft",
    ]
    .into_iter()
    .enumerate()
    {
        let request = Request::text(text).max_tokens(40);
        requests.push(request.clone());
        requests.push(
            request
                .clone()
                .temperature(0.8)
                .top_p(0.9)
                .seed(i as u64)
                .n(2),
        );
        let mut request = request
            .temperature(1.1)
            .min_p(0.02)
            .seed(90 + i as u64)
            .logprobs(2);
        request.sampling.repetition_penalty = 1.2;
        requests.push(request.stop("the "));
    }
    let sizes = [(600, 2048), (40, 48)];
    for (blocks, budget) in sizes {
        let build = || {
            serve(support::bard())
                .kv_blocks(blocks)
                .max_batched_tokens(budget)
                .threads(2)
        };
        let plain = build().build().unwrap();
        let expected = answers(&plain, requests.clone());
        drained(&plain);
        for (name, engine) in [
            ("draft", build().draft(&draft).spec_depth(4)),
            ("n-gram", build().ngram().spec_depth(6)),
            ("both, adaptive", build().draft(&draft).ngram()),
        ] {
            let engine = engine.build().unwrap();
            assert_eq!(answers(&engine, requests.clone()), expected, "{name}");
            let stats = engine.stats();
            if name == "draft" {
                let share = stats.spec_accepted_tokens as f64 / stats.spec_draft_tokens as f64;
                assert!(share > 0.2, "{share}");
            }
            drained(&engine);
        }
    }
}
