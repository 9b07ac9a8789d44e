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

/// Decides well, until it panics where it is told to.
struct Moody {
    place: &'static str,
    /// Calls of that place that go well.
    well: usize,
}

impl Moody {
    fn at(&mut self, place: &str) {
        if place == self.place {
            self.well = self.well.checked_sub(1).expect("no more");
        }
    }
}

impl Depth for Moody {
    fn most(&self) -> usize {
        assert!(self.place != "most", "no more");
        4
    }

    fn choose(&mut self, _: usize, asks: &mut [DepthAsk]) {
        for ask in asks.iter_mut() {
            ask.depth = 4;
        }
        self.at("choose");
    }

    fn step(&mut self, _: &StepReport<'_>) {
        self.at("step");
    }

    fn proposed(&mut self, _: &ProposalReport) {
        self.at("proposed");
    }

    fn close(&mut self, _: SequenceId) {
        self.at("close");
    }
}

#[test]
fn a_depth_that_panics_ends_speculation_and_nothing_else() {
    let plain = builder(PageModel::hashing(), Sizes::default())
        .build()
        .unwrap();
    let expected = answers(&plain, requests(20, 5));
    for place in ["choose", "step", "proposed", "close"] {
        let speculation = Speculation::new(Oracle { wrong: 4 }).depth(Moody { place, well: 3 });
        let engine = builder(PageModel::hashing(), Sizes::default())
            .speculative(speculation)
            .build()
            .unwrap();
        assert_eq!(answers(&engine, requests(20, 5)), expected, "{place}");
        let stats = engine.stats();
        assert!(stats.spec_drafts > 0, "{place}: {stats:?}");
        assert_eq!(stats.spec_failures, 1, "{place}");
        // It is not asked again.
        assert_eq!(answers(&engine, requests(20, 5)), expected, "{place}");
        assert_eq!(engine.stats().spec_drafts, stats.spec_drafts, "{place}");
        drained(&engine);
    }
    let speculation = Speculation::new(Oracle { wrong: 4 }).depth(Moody {
        place: "most",
        well: 0,
    });
    let built = builder(PageModel::hashing(), Sizes::default())
        .speculative(speculation)
        .build();
    assert!(matches!(built, Err(BuildError::Speculation(why)) if why.contains("no more")));
}
