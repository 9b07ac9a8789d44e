//! Proposers and depths that are wrong, or do not fit.

use super::*;

#[test]
fn a_proposer_that_lies_errs_or_panics_costs_its_drafts_only() {
    type Say = fn(&mut DraftAsk<'_>);
    let sayings: [(&str, Say); 4] = [
        ("beyond the vocabulary", |ask| {
            ask.push(7);
            ask.push(VOCAB as TokenId + 3);
        }),
        ("too many", |ask| (0..100).for_each(|_| ask.push(4))),
        ("always wrong", |ask| (0..4).for_each(|_| ask.push(63))),
        ("a panic in the middle", |ask| {
            ask.push(7);
            assert!(!ask.known().len().is_multiple_of(3), "three");
        }),
    ];
    let plain = builder(PageModel::hashing(), Sizes::default())
        .build()
        .unwrap();
    let expected = answers(&plain, requests(20, 5));
    for (name, say) in sayings {
        let engine = speculative(Sizes::default(), Scripted(say))
            .build()
            .unwrap();
        assert_eq!(answers(&engine, requests(20, 5)), expected, "{name}");
        drained(&engine);
    }
    /// Fails each time, and is given up.
    struct Broken(Arc<Mutex<(usize, usize)>>);
    impl Proposer for Broken {
        fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
            self.0.lock().unwrap().0 += 1;
            asks[0].push(3);
            Err(Error::ShutDown)
        }
        fn close(&mut self, _: SequenceId) {
            self.0.lock().unwrap().1 += 1;
        }
    }
    let calls = Arc::new(Mutex::new((0, 0)));
    let engine = speculative(Sizes::default(), Broken(calls.clone()))
        .build()
        .unwrap();
    assert_eq!(answers(&engine, requests(20, 5)), expected);
    let (asked, closed) = *calls.lock().unwrap();
    assert!(asked < 20 && closed >= asked, "{asked} {closed}");
    assert_eq!(engine.stats().spec_draft_tokens, 0);
    assert_eq!(engine.stats().spec_failures, asked as u64);
    drained(&engine);
}

#[test]
fn an_engine_that_cannot_speculate_is_not_built() {
    struct Unfit;
    impl Proposer for Unfit {
        fn prepare(&mut self, target: &ModelInfo, _: ProposerLimits) -> Result<(), String> {
            Err(format!("no drafts for {}", target.name))
        }
        fn propose(&mut self, _: &mut [DraftAsk<'_>]) -> Result<(), Error> {
            Ok(())
        }
        fn close(&mut self, _: SequenceId) {}
    }
    let built = speculative(Sizes::default(), Unfit).build();
    assert!(matches!(built, Err(BuildError::Speculation(why)) if why == "no drafts for pages"));
}

#[test]
fn the_draft_model_says_what_does_not_fit() {
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(8)
        .block_size(4)
        .root(IdentityRoot::new(2, "draft", 4));
    let mut draft = DraftModel::new(PageModel::hashing(), kv.build().unwrap());
    let mut target = PageModel::hashing().info().clone();
    target.vocab_size = 1000;
    let limits = ProposerLimits {
        sequences: 4,
        max_len: 64,
        depth: 4,
    };
    let why = draft.prepare(&target, limits).unwrap_err();
    assert!(
        why.contains("vocabulary of 64") && why.contains("1000"),
        "{why}"
    );
}

#[test]
fn options_of_speculation_that_contradict_are_refused() {
    use llmserve::ServeError;
    let depth_alone = serve(support::bard()).spec_depth(3).build();
    assert!(matches!(depth_alone, Err(ServeError::Speculation(_))));
    let too_deep = serve(support::bard()).ngram().spec_depth(33).build();
    assert!(matches!(too_deep, Err(ServeError::Speculation(_))));
}
