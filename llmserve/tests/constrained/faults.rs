//! What goes wrong goes wrong for one request.

use std::sync::Arc;

use llmserve::prelude::*;
use llmserve::{
    DraftAsk, FixedDepth, GrammarError, Proposer, SequenceId, Speculation, TokenId, Verification,
};
use parking_lot::Mutex;

use super::noting::Noting;
use super::support::{self, Gate, PageModel, Sizes, builder, drained};
use super::texts::{Texts, letters};
use super::{WORDS, engine, words};

/// A grammar that fails to compile ends its request alone with an error; the next one is scheduled
/// in the same step.
#[test]
fn failures_reach_one_request() {
    let steps = Arc::new(Mutex::new(Vec::new()));
    let gate = Gate::default();
    let waiting = gate.clone();
    let model = PageModel::new(Arc::new(move |context, logits| {
        waiting.wait();
        support::hash_logits(context, logits);
        Ok(())
    }));
    let engine = builder(Noting(model, steps.clone()), Sizes::default())
        .grammars(Arc::new(Texts::default()))
        .build()
        .unwrap();
    let base = || Request::tokens([0, 2, 3, 4, 5]).max_tokens(20).seed(1);
    let first = engine.generate(base().ignore_eos(true));
    while steps.lock().is_empty() {
        std::thread::yield_now();
    }
    // All of these come while the first step runs.
    let broken = |error: &Error| matches!(error, Error::Grammar(GrammarError::Broken(_)));
    let panicked = |error: &Error| {
        matches!(
            error,
            Error::Panicked {
                part: "grammar",
                ..
            }
        )
    };
    let compile = Error::Grammar(GrammarError::Compile("as asked".into()));
    let is_compile = |error: &Error| *error == compile;
    let too_complex = |error: &Error| matches!(error, Error::Grammar(GrammarError::TooComplex(_)));
    let nothing = |error: &Error| matches!(error, Error::NothingToSample { .. });
    type Fault<'a> = (&'a str, &'a dyn Fn(&Error) -> bool);
    let faults: [Fault<'_>; 8] = [
        ("compile", &is_compile),
        ("compile panics", &panicked),
        ("matcher", &too_complex),
        ("mask", &broken),
        ("mask panics", &panicked),
        ("accept panics", &panicked),
        ("forced panics", &panicked),
        ("nothing", &nothing),
    ];
    let sick: Vec<_> = faults
        .iter()
        // Every token picked, but where the fault is in what must follow.
        .map(|(fault, _)| match *fault {
            "forced panics" => base().regex(*fault),
            _ => base().regex(*fault).logprobs(0),
        })
        .map(|request| engine.generate(request))
        .collect();
    let next = engine.generate(base().one_of(WORDS));
    let free = engine.generate(base());
    // New constraints pass one after the other: behind the last of them, all others have.
    let mut refused = sick.into_iter().zip(faults);
    let early: Vec<_> = refused.by_ref().take(2).collect();
    for (stream, (fault, expected)) in early {
        let error = stream.wait().unwrap_err();
        assert!(expected(&error), "{fault}: {error}");
    }
    let last = engine.generate(base().lark("one more"));
    assert!(matches!(last.wait().unwrap_err(), Error::Grammar(_)));
    gate.open();
    for (stream, (fault, expected)) in refused {
        let error = stream.wait().unwrap_err();
        assert!(expected(&error), "{fault}: {error}");
    }
    let response = next.wait().unwrap();
    assert!(WORDS.contains(&response.choices[0].text.as_str()));
    assert!(free.wait().is_ok() && first.wait().is_ok());
    // The step after the first had the prompts of the next two, and of those that fail later.
    assert_eq!(
        steps.lock()[1]
            .iter()
            .filter(|(start, _)| *start == 0)
            .count(),
        8
    );
    drained(&engine);
    assert_eq!(engine.stats().failed_requests, 6);
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let plain = support::engine(PageModel::hashing(), Sizes::default());
    let engine = engine(Sizes::default());
    let base = || Request::tokens([0, 2]);
    let long = "a".repeat((1 << 20) + 1);
    for (engine, request) in [
        (&plain, base().one_of(["ab"])),
        (&plain, base().json_schema("{}")),
        (&engine, base().one_of::<&str>([])),
        (&engine, base().one_of(["a", ""])),
        (&engine, base().lark(long)),
    ] {
        let error = engine.generate(request).wait().unwrap_err();
        assert!(
            matches!(
                error,
                Error::InvalidRequest {
                    field: "constraint",
                    ..
                }
            ),
            "{error}"
        );
    }
    drained(&plain);
    drained(&engine);
}

#[test]
fn a_dropped_stream_takes_its_grammar_along() {
    let engine = engine(Sizes::default());
    for seed in 0..30 {
        let mut stream = engine.generate(words().seed(seed).n(2).logprobs(0));
        for _ in 0..seed % 5 {
            let _ = stream.blocking_next();
        }
    }
    let alive = engine.generate(words().seed(1)).wait().unwrap();
    assert!(WORDS.contains(&alive.choices[0].text.as_str()));
    drained(&engine);
}

/// A matcher that has had enough because of drafts that came to nothing is no reason to end an
/// answer: without drafts it would have been given.
#[test]
fn a_matcher_wearied_by_drafts_goes_on_without() {
    struct Fixed(TokenId);

    impl Proposer for Fixed {
        fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
            for ask in asks {
                while ask.wanted() > 0 {
                    ask.push(self.0);
                }
            }
            Ok(())
        }

        fn close(&mut self, _: SequenceId) {}
    }

    let answers = |draft: Option<(TokenId, usize)>, verification| {
        let builder = builder(PageModel::hashing(), Sizes::default());
        let builder = builder.grammars(Arc::new(Texts::default()));
        let engine = match draft {
            None => builder,
            Some((token, depth)) => {
                let speculation = Speculation::new(Fixed(token)).depth(FixedDepth(depth));
                builder.speculative(speculation.verification(verification))
            }
        };
        let engine = engine.build().unwrap();
        let streams: Vec<_> = (0..40)
            .map(|seed| {
                let request = Request::tokens([0, 2, 3]).regex("weary").n(2);
                engine.generate(request.temperature(1.0 + seed as f32).seed(seed))
            })
            .collect();
        let texts: Vec<_> = streams
            .into_iter()
            .flat_map(|stream| stream.wait().unwrap().choices)
            .map(|choice| choice.text)
            .collect();
        drained(&engine);
        (texts, engine.stats())
    };
    let (plain, _) = answers(None, Verification::Coupled);
    assert!(plain.iter().all(|text| text.len() == 8));
    // It is too much for `accept`, for `mask` and for `valid_prefix`, whichever comes thirteenth.
    for depth in [6, 4, 3] {
        for letter in letters("ab") {
            let (drafted, stats) = answers(Some((letter, depth)), Verification::Coupled);
            assert_eq!(drafted, plain);
            assert!(
                stats.spec_drafts >= 80 && stats.spec_accepted_tokens > 40,
                "{stats:?}"
            );
        }
        let (rejected, _) = answers(Some((letters("b")[0], depth)), Verification::Rejection);
        assert!(rejected.iter().all(|text| text.len() == 8));
    }
}
