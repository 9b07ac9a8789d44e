//! What must follow is not computed token by token.

use std::sync::Arc;

use llmserve::prelude::*;
use llmserve::sched::speculation::NGram;
use llmserve::{FixedDepth, Speculation};
use parking_lot::Mutex;

use super::noting::Noting;
use super::support::{PageModel, Sizes, builder, drained};
use super::texts::{Texts, letters};

#[test]
fn what_must_follow_costs_no_step() {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let model = Noting(PageModel::hashing(), steps.clone());
    let builder = builder(model, Sizes::default()).grammars(Arc::new(Texts::default()));
    let engine = builder.build().unwrap();
    let run = |request: Request| {
        steps.lock().clear();
        let response = engine.generate(request).wait().unwrap();
        let noted = std::mem::take(&mut *steps.lock());
        (
            response.choices[0].text.clone(),
            response.choices[0].reason.clone(),
            noted,
        )
    };
    let base = || Request::tokens([0, 2, 3]);
    let one = run(base().one_of(["abcdefgh"]));
    let complete = Some(FinishReason::Complete);
    assert_eq!(
        one,
        ("abcdefgh".into(), complete.clone(), vec![vec![(0, 3)]])
    );
    // a b c are forced behind a first pick that has no choice either; then d or x, and the rest.
    let two = run(base().one_of(["abcdefgh", "abcxyz"]));
    assert!(["abcdefgh", "abcxyz"].contains(&two.0.as_str()));
    assert_eq!(
        (two.1, two.2),
        (complete.clone(), vec![vec![(0, 3)], vec![(3, 3)]])
    );
    // With logprobs, or where a single token may be ruled out, each is picked.
    let steps = run(base().one_of(["abcd"]).logprobs(0)).2;
    assert_eq!(steps.len(), 4);
    let mut request = base().one_of(["abcd"]);
    request.sampling.logit_bias.insert(40, f32::NEG_INFINITY);
    assert_eq!(run(request).2.len(), 4);
    let mut request = base().one_of(["abcd"]);
    request
        .sampling
        .logit_bias
        .insert(letters("c")[0], f32::NEG_INFINITY);
    let error = engine.generate(request).wait().unwrap_err();
    assert_eq!(error, Error::NothingToSample { position: 4 });
    drained(&engine);
}

/// Everything that can be beside a run: cached prompts, choices, stop strings, drafts, a budget
/// smaller than the run. None of it makes a run cost a step for a token.
#[test]
fn a_long_run_is_one_chunk_in_any_company() {
    // Behind 33 tokens of prompt and 26 of a run, `x` and `y` are free.
    let run = "abcdefghijklmnopqrstuvwabc";
    let (one, other) = (format!("{run}xx"), format!("{run}yy"));
    let base = || {
        let prompt = std::iter::once(0).chain((0..32).map(|at| 2 + at % 7));
        Request::tokens(prompt.collect::<Vec<_>>()).one_of([&one, &other])
    };
    let serve = |sizes: Sizes, drafts: bool| {
        let steps = Arc::new(Mutex::new(Vec::new()));
        let model = Noting(PageModel::hashing(), steps.clone());
        let builder = builder(model, sizes).grammars(Arc::new(Texts::default()));
        let engine = match drafts {
            true => builder
                .speculative(Speculation::new(NGram::new(1, 3).unwrap()).depth(FixedDepth(3))),
            false => builder,
        };
        let engine = engine.build().unwrap();
        move |request: Request| {
            steps.lock().clear();
            let response = engine.generate(request).wait().unwrap();
            (response, std::mem::take(&mut *steps.lock()))
        }
    };
    for drafts in [false, true] {
        let ask = serve(Sizes::default(), drafts);
        let (response, steps) = ask(base());
        assert!([&one, &other].contains(&&response.choices[0].text));
        assert_eq!(steps, [[(0, 33)], [(33, 26)]], "drafts {drafts}");
        // Two blocks of the prompt are known now, and what the run left in a third: not to be hit
        // by a prompt that ends before it.
        let (again, steps) = ask(base());
        assert_eq!(again.choices[0].ids, response.choices[0].ids);
        assert_eq!(steps, [[(32, 1)], [(33, 26)]], "drafts {drafts}");
        // A prompt that holds the run finds its keys and values: they were prefilled as one.
        let known = again
            .started
            .prompt_ids
            .iter()
            .chain(&again.choices[0].ids[..27]);
        let known: Vec<_> = known.copied().collect();
        let (_, steps) = ask(Request::tokens(known).max_tokens(1));
        assert_eq!(steps, [[(48, 12)]], "drafts {drafts}");
        // Every choice's run begins with its first token, picked from the prompt's last row.
        let (several, steps) = ask(base().n(3).temperature(9.0).seed(5));
        assert_eq!(steps.len(), 2, "{steps:?}");
        assert_eq!(steps[1], [(33, 26); 3], "drafts {drafts}");
        for choice in &several.choices {
            assert!([&one, &other].contains(&&choice.text));
        }
        // A stop string that never comes costs nothing, one in the run ends it there.
        let (whole, steps) = ask(base().stop("zz"));
        assert_eq!((whole.choices[0].ids.len(), steps.len()), (28, 2));
        let (cut, steps) = ask(base().n(2).stop("no"));
        for choice in &cut.choices {
            assert_eq!(choice.text, "abcdefghijklm");
            assert_eq!(choice.reason, Some(FinishReason::StopString("no".into())));
        }
        assert_eq!(steps.len(), 1);
        // Logprobs are those of picks: a step for each, or several where drafts are right.
        let (told, steps) = ask(base().logprobs(0));
        assert_eq!(told.choices[0].ids, response.choices[0].ids);
        assert!(
            steps.len() <= 28 && (drafts || steps.len() == 28),
            "{steps:?}"
        );
    }
    // A budget of 16: the run comes in as many chunks as it needs.
    let small = Sizes {
        max_batched_tokens: 16,
        ..Sizes::default()
    };
    for drafts in [false, true] {
        let (_, steps) = serve(small, drafts)(base());
        let expected = [[(0, 16)], [(16, 16)], [(32, 1)], [(33, 16)], [(49, 10)]];
        assert_eq!(steps, expected, "drafts {drafts}");
    }
}

/// The children of a fork are told to the scheduler with their runs: those that a run ends never
/// come there, those that go on are preempted and resumed with it.
#[test]
fn runs_of_choices_survive_few_blocks() {
    let ids = |sizes| {
        let builder = builder(PageModel::hashing(), sizes).grammars(Arc::new(Texts::default()));
        let engine = builder.build().unwrap();
        let streams: Vec<_> = (0..12)
            .map(|seed| {
                let texts = [
                    "abcdefgijklmnopqrsuvwxya",
                    "abcdefgijklmnopqrsuvwxyb",
                    "abcdefgijklmnoppppppp",
                    "abcdefgijkzzzzzzzz",
                    "abcxxxxxxxxx",
                    "zz",
                    "zyxwvutsrqponm",
                    "zyxwvutsrqponn",
                ];
                let request = Request::tokens([0, 2, 3, 4, 5]).one_of(texts);
                engine.generate(request.n(4).temperature(9.0).seed(seed))
            })
            .collect();
        let done = streams.into_iter().map(|stream| stream.wait().unwrap());
        let ids: Vec<Vec<_>> = done
            .map(|done| done.choices.into_iter().map(|choice| choice.ids).collect())
            .collect();
        drained(&engine);
        (ids, engine.stats().preemptions)
    };
    let (plenty, none) = ids(Sizes::default());
    assert_eq!(none, 0);
    let mut preemptions = 0;
    for blocks in [9, 10, 12, 16] {
        let (few, some) = ids(Sizes {
            blocks,
            block_size: 4,
            max_num_seqs: 8,
            max_batched_tokens: 16,
        });
        assert_eq!(few, plenty, "{blocks} blocks");
        preemptions += some;
    }
    assert!(preemptions > 0, "these sizes are to be too small");
}
