//! The same answers, whatever drafts and however deep.

use super::*;

#[test]
fn answers_are_those_of_an_engine_without_speculation() {
    let roomy = Sizes::default();
    let sizes = [
        roomy,
        Sizes {
            block_size: 1,
            blocks: 4096,
            ..roomy
        },
        Sizes {
            block_size: 3,
            blocks: 100,
            ..roomy
        },
        Sizes {
            block_size: 4,
            blocks: 40,
            max_batched_tokens: 24,
            ..roomy
        },
        Sizes {
            max_num_seqs: 4,
            max_batched_tokens: 8,
            ..roomy
        },
    ];
    for (round, sizes) in sizes.into_iter().enumerate() {
        let plain = builder(PageModel::hashing(), sizes).build().unwrap();
        let expected = answers(&plain, requests(60, round as u64));
        drained(&plain);
        for (depth, wrong) in [(1, 3), (4, 5), (7, 2), (32, 40)] {
            let engine = builder(PageModel::hashing(), sizes)
                .speculative(Speculation::new(Oracle { wrong }).depth(FixedDepth(depth)))
                .build()
                .unwrap();
            let found = answers(&engine, requests(60, round as u64));
            assert_eq!(found, expected, "{depth} drafts, round {round}");
            let stats = engine.stats();
            assert!(stats.spec_accepted_tokens > 0, "{stats:?}");
            assert!(stats.spec_accepted_tokens < stats.spec_draft_tokens);
            let by_position: u64 = stats.spec_accepted_per_pos.iter().sum();
            assert_eq!(by_position, stats.spec_accepted_tokens);
            drained(&engine);
        }
    }
}

#[test]
fn other_proposers_change_nothing_either() {
    let sizes = Sizes {
        block_size: 4,
        blocks: 60,
        ..Sizes::default()
    };
    let plain = builder(PageModel::hashing(), sizes).build().unwrap();
    let expected = answers(&plain, requests(40, 99));
    let draft = |blocks: usize| {
        let kv = llmserve::kv::PagedKv::builder()
            .blocks(blocks)
            .block_size(4)
            .root(IdentityRoot::new(2, "draft", 4));
        DraftModel::new(PageModel::hashing(), kv.build().unwrap()).max_batched_tokens(64)
    };
    let proposers: Vec<(&str, Box<dyn Proposer>)> = vec![
        ("n-gram", Box::new(NGram::new(1, 3).unwrap())),
        ("draft model", Box::new(draft(600))),
        ("draft model under pressure", Box::new(draft(40))),
        (
            "composite",
            Box::new(Composite::new(NGram::new(1, 3).unwrap(), draft(300))),
        ),
    ];
    for (name, proposer) in proposers {
        let engine = speculative(sizes, proposer).build().unwrap();
        assert_eq!(answers(&engine, requests(40, 99)), expected, "{name}");
        let stats = engine.stats();
        assert!(stats.spec_draft_tokens > 0, "{name}: {stats:?}");
        assert_eq!(stats.spec_failures, 0, "{name}");
        drained(&engine);
    }
}

/// A draft model equal to its target is right every time, sampled or not: it picks with the same
/// noise. And it reads no token twice.
#[test]
fn a_perfect_draft_model_is_always_right() {
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(200)
        .block_size(4)
        .root(IdentityRoot::new(2, "draft", 4));
    let draft = DraftModel::new(PageModel::hashing(), kv.build().unwrap());
    let engine = speculative(Sizes::default(), draft).build().unwrap();
    let request = Request::tokens(vec![3, 4, 5])
        .max_tokens(40)
        .ignore_eos(true);
    for request in [request.clone(), request.temperature(1.0).seed(4)] {
        engine.generate(request).wait().unwrap();
    }
    let stats = engine.stats();
    assert_eq!(stats.spec_accepted_tokens, stats.spec_draft_tokens);
    // A prefill, then steps of five tokens.
    assert!(stats.steps <= 2 * (1 + 8), "{stats:?}");
    drained(&engine);
}

/// Behaviour: drafts [1,2,3] against picks [1,2,3,4], [1,5,3,4], and no drafts. Behaviour: what
/// is counted.
#[test]
fn greedy_verification_takes_drafts_up_to_the_first_that_differs() {
    let recorder = Arc::new(MemoryRecorder::default());
    let run = |picks: &'static [TokenId], drafts: &'static [TokenId]| {
        let model = PageModel::greedy(move |context| match context.len().checked_sub(3) {
            None => 20,
            Some(at) => picks.get(at).copied().unwrap_or(1),
        });
        let engine = builder(model, Sizes::default())
            .recorder(recorder.clone())
            .speculative(Speculation::new(Scripted(move |ask: &mut DraftAsk<'_>| {
                if ask.known().len() == 3 {
                    drafts.iter().for_each(|draft| ask.push(*draft));
                }
            })))
            .build()
            .unwrap();
        let answer = engine
            .generate(Request::tokens(vec![30, 31]).max_tokens(5))
            .wait()
            .unwrap();
        let ids = answer.ids()[1..].to_vec();
        drained(&engine);
        let stats = engine.stats();
        (ids, stats.steps, stats)
    };
    let (ids, steps, stats) = run(&[11, 12, 13, 14], &[11, 12, 13]);
    assert_eq!((&ids[..], steps), (&[11, 12, 13, 14][..], 2));
    assert_eq!(stats.spec_accepted_per_pos[..4], [1, 1, 1, 0]);
    let (ids, _, stats) = run(&[11, 15, 13, 14], &[11, 12, 13]);
    assert_eq!(ids, [11, 15, 13, 14]);
    assert_eq!(
        (
            stats.spec_drafts,
            stats.spec_draft_tokens,
            stats.spec_accepted_tokens
        ),
        (1, 3, 1)
    );
    assert_eq!(stats.spec_accepted_per_pos[..3], [1, 0, 0]);
    let (ids, steps, stats) = run(&[11, 12, 13, 14], &[]);
    assert_eq!((ids.len(), steps, stats.spec_drafts), (4, 5, 0));
    let page = recorder.render();
    for line in [
        "llmserve_spec_decode_num_drafts_total{model=\"pages\"} 2",
        "llmserve_spec_decode_num_draft_tokens_total{model=\"pages\"} 6",
        "llmserve_spec_decode_num_accepted_tokens_total{model=\"pages\"} 4",
        "llmserve_spec_decode_num_accepted_tokens_per_pos_total{model=\"pages\",position=\"0\"} 2",
    ] {
        assert!(page.contains(line), "{line}\n{page}");
    }
}

#[test]
fn a_request_may_do_without() {
    let engine = speculative(Sizes::default(), Oracle { wrong: 50 })
        .build()
        .unwrap();
    let request = || Request::tokens(vec![5, 6]).max_tokens(20).ignore_eos(true);
    engine
        .generate(request().speculative(false))
        .wait()
        .unwrap();
    assert_eq!(engine.stats().spec_drafts, 0);
    engine.generate(request().draft_depth(2)).wait().unwrap();
    let stats = engine.stats();
    assert!(
        stats.spec_drafts > 0 && stats.spec_accepted_per_pos[2] == 0,
        "{stats:?}"
    );
}

/// Adaptive depth over real clocks: whatever it decides, answers stay.
#[test]
fn adaptive_depth_changes_nothing_but_time() {
    let plain = builder(PageModel::hashing(), Sizes::default())
        .build()
        .unwrap();
    let expected = answers(&plain, requests(60, 3));
    let speculation = Speculation::new(Oracle { wrong: 4 }).depth(AdaptiveDepth::default());
    let engine = builder(PageModel::hashing(), Sizes::default())
        .speculative(speculation)
        .build()
        .unwrap();
    assert_eq!(answers(&engine, requests(60, 3)), expected);
    drained(&engine);
}
