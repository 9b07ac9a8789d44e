//! Speculation gives what the engine gives without it, sooner.

mod support;

use std::sync::{Arc, Mutex};

use llmserve::prelude::*;
use llmserve::sampling::SamplerScratch;
use llmserve::sched::speculation::{AdaptiveDepth, Composite, DraftModel, NGram};
use llmserve::{
    BlockEvent, BuildError, DraftAsk, EngineBuilder, FixedDepth, IdentityRoot, LogitsContext,
    LogitsProcessor, MemoryRecorder, Model, ModelInfo, Proposer, ProposerLimits, SequenceId,
    Speculation, Survey, TokenId, Verification,
};
use support::{PageModel, Sizes, VOCAB, builder, drained, hash_logits};

/// Picks from the target's own logits, now and then disturbed: right most of the time.
struct Oracle {
    /// One context in so many is disturbed.
    wrong: u64,
}

impl Proposer for Oracle {
    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        let (mut survey, mut scratch) = (Survey::default(), SamplerScratch::new());
        for ask in asks {
            while ask.wanted() > 0 {
                let mut logits = vec![0.0; VOCAB];
                hash_logits(ask.context(), &mut logits);
                let sum: u64 = ask.context().iter().map(|token| u64::from(*token)).sum();
                if sum.is_multiple_of(self.wrong) {
                    logits.reverse();
                }
                survey.take(&logits);
                ask.pick(&logits, &survey, &mut scratch)?;
            }
        }
        Ok(())
    }

    fn close(&mut self, _: SequenceId) {}
}

/// Says what it was told to.
struct Scripted<F>(F);

impl<F: FnMut(&mut DraftAsk<'_>) + Send> Proposer for Scripted<F> {
    fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
        asks.iter_mut().for_each(&mut self.0);
        Ok(())
    }

    fn close(&mut self, _: SequenceId) {}
}

fn speculative(sizes: Sizes, proposer: impl Proposer + 'static) -> EngineBuilder {
    builder(PageModel::hashing(), sizes).speculative(Speculation::new(proposer))
}

/// Refuses what was said two tokens ago, and checks that it is told the truth about what was.
struct NoStutter;

impl LogitsProcessor for NoStutter {
    fn process(&self, context: &LogitsContext<'_>, logits: &mut [f32]) {
        if let Some(at) = context.tokens.len().checked_sub(2) {
            logits[context.tokens[at] as usize] = f32::NEG_INFINITY;
        }
    }
}

/// Requests of every kind.
fn requests(count: u64, salt: u64) -> Vec<Request> {
    let mut state = salt;
    let mut next = move |bound: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % bound
    };
    (0..count)
        .map(|i| {
            let prompt: Vec<TokenId> = (0..1 + next(40)).map(|_| 2 + next(26) as u32).collect();
            let mut request = Request::tokens(prompt).max_tokens(1 + next(40) as usize);
            if next(2) == 0 {
                request = request.temperature(0.3 + next(10) as f32 / 10.0).seed(i);
                request.sampling.top_p = 1.0 - next(3) as f32 / 10.0;
                request.sampling.min_p = next(3) as f32 / 20.0;
            }
            if next(3) == 0 {
                request.sampling.repetition_penalty = 1.3;
                request.sampling.frequency_penalty = 0.4;
                request.sampling.presence_penalty = 0.2;
            }
            if next(4) == 0 {
                request.sampling.logit_bias.insert(5, 2.0);
            }
            match next(6) {
                0 => request = request.n(2 + next(2) as usize),
                1 => request = request.logprobs(3),
                2 => request = request.stop("e").stop("ab"),
                3 => request = request.stop_token(9).min_tokens(next(8) as usize),
                4 => request = request.processor(Arc::new(NoStutter)),
                _ => request = request.prompt_logprobs(1),
            }
            if next(5) == 0 {
                request = request.draft_depth(next(3) as usize);
            }
            request
        })
        .collect()
}

/// What of an answer must not change.
fn answers(engine: &Engine, requests: Vec<Request>) -> Vec<String> {
    let streams: Vec<_> = requests
        .into_iter()
        .map(|request| engine.generate(request))
        .collect();
    let say = |stream: EventStream| match stream.wait() {
        Ok(response) => {
            let choices = response.choices.iter();
            let told = choices.map(|c| {
                (
                    &c.ids,
                    &c.text,
                    &c.reason,
                    &c.logprobs,
                    c.usage.completion_tokens,
                )
            });
            format!(
                "{:?} {:?}",
                response.started.prompt_logprobs,
                told.collect::<Vec<_>>()
            )
        }
        Err(error) => format!("{error}"),
    };
    streams.into_iter().map(say).collect()
}

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

/// Behaviour: drafts are never put in the prefix cache.
#[test]
fn what_can_be_hit_was_said() {
    let stored = Arc::new(Mutex::new(Vec::new()));
    let seen = stored.clone();
    let sizes = Sizes {
        block_size: 2,
        blocks: 300,
        ..Sizes::default()
    };
    let engine = speculative(sizes, Oracle { wrong: 2 }).on_block_events(move |events| {
        for event in events {
            if let BlockEvent::Stored { tokens, .. } = event {
                seen.lock().unwrap().push(tokens.clone());
            }
        }
    });
    // Events are kept only by a manager built to.
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(sizes.blocks)
        .block_size(2)
        .root(IdentityRoot::new(1, "tokens", 2))
        .events(true);
    let engine = engine.kv(kv.build().unwrap()).build().unwrap();
    let mut said = Vec::new();
    for seed in 0..6u32 {
        let prompt = vec![2 + seed, 9, 4];
        let request = Request::tokens(prompt.clone())
            .max_tokens(30)
            .ignore_eos(true);
        let answer = engine
            .generate(request.temperature(0.8).seed(u64::from(seed)))
            .wait()
            .unwrap();
        said.push([prompt, answer.ids().to_vec()].concat());
    }
    assert!(engine.stats().spec_draft_tokens > engine.stats().spec_accepted_tokens);
    drained(&engine);
    let stored = stored.lock().unwrap();
    assert!(stored.len() > 60, "{}", stored.len());
    for block in &*stored {
        let known = said
            .iter()
            .any(|said| said.chunks_exact(2).any(|pair| pair == block));
        assert!(known, "{block:?} was never said");
    }
}

#[test]
fn cancelling_under_speculation_frees_everything() {
    let sizes = Sizes {
        block_size: 4,
        blocks: 80,
        ..Sizes::default()
    };
    let engine = speculative(sizes, Oracle { wrong: 4 }).build().unwrap();
    let mut streams: Vec<_> = requests(30, 8)
        .into_iter()
        .map(|request| engine.generate(request.max_tokens(60)))
        .collect();
    for stream in streams.iter_mut().step_by(2) {
        stream.blocking_next();
        stream.blocking_next();
    }
    let mut kept = Vec::new();
    for (i, stream) in streams.into_iter().enumerate() {
        if i % 2 == 1 {
            kept.push(stream);
        }
    }
    for stream in kept {
        stream.wait().unwrap();
    }
    drained(&engine);
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

/// Log-odds that depend on the last token alone.
fn chain_logits(last: TokenId, logits: &mut [f32]) {
    hash_logits(&[last], logits);
    for (token, logit) in logits.iter_mut().enumerate() {
        *logit = match token {
            2..10 => *logit * 0.4,
            _ => f32::NEG_INFINITY,
        };
    }
}

/// Chi-square of how often `next` followed each token, speculated by rejection sampling from
/// drafts of another distribution, against the target's own probabilities.
#[test]
fn rejection_sampling_keeps_the_distribution() {
    struct Other;
    impl Proposer for Other {
        fn propose(&mut self, asks: &mut [DraftAsk<'_>]) -> Result<(), Error> {
            let (mut survey, mut scratch) = (Survey::default(), SamplerScratch::new());
            for ask in asks {
                while ask.wanted() > 0 {
                    let mut logits = vec![0.0; VOCAB];
                    let last = ask.context().last().copied().unwrap_or(0);
                    chain_logits(last, &mut logits);
                    // Flatter, and wrong about two tokens.
                    logits.iter_mut().for_each(|logit| *logit *= 0.5);
                    logits[2] += 0.8;
                    logits[7] = f32::NEG_INFINITY;
                    survey.take(&logits);
                    ask.pick(&logits, &survey, &mut scratch)?;
                }
            }
            Ok(())
        }
        fn close(&mut self, _: SequenceId) {}
    }
    for (temperature, top_p, min_p) in [(1.0f32, 1.0f32, 0.0f32), (0.7, 0.9, 0.0), (1.3, 1.0, 0.05)]
    {
        let model = PageModel::new(Arc::new(|context: &[TokenId], logits: &mut [f32]| {
            chain_logits(context.last().copied().unwrap_or(0), logits);
            Ok(())
        }));
        let engine = builder(model, Sizes::default())
            .speculative(
                Speculation::new(Other)
                    .depth(FixedDepth(3))
                    .verification(Verification::Rejection),
            )
            .build()
            .unwrap();
        let streams: Vec<_> = (0..400)
            .map(|seed| {
                let request = Request::tokens(vec![2 + seed as u32 % 8])
                    .max_tokens(60)
                    .temperature(temperature)
                    .top_p(top_p)
                    .min_p(min_p)
                    .seed(seed);
                engine.generate(request)
            })
            .collect();
        let mut counts = vec![[0f64; VOCAB]; VOCAB];
        for (seed, stream) in streams.into_iter().enumerate() {
            let mut last = 2 + seed as u32 % 8;
            for &id in stream.wait().unwrap().ids() {
                counts[last as usize][id as usize] += 1.0;
                last = id;
            }
        }
        let stats = engine.stats();
        let share = stats.spec_accepted_tokens as f64 / stats.spec_draft_tokens as f64;
        assert!((0.3..0.99).contains(&share), "{share}");
        let (mut chi, mut freedom) = (0.0, 0.0);
        for last in 2..10 {
            let expected = exact(last, temperature, top_p, min_p);
            let total: f64 = counts[last as usize].iter().sum();
            let mut cells = 0.0;
            for (token, share) in expected.iter().enumerate() {
                let seen = counts[last as usize][token];
                if *share == 0.0 {
                    assert_eq!(seen, 0.0, "{last} {token} is filtered out");
                    continue;
                }
                cells += 1.0;
                chi += (seen - total * share).powi(2) / (total * share);
            }
            freedom += cells - 1.0;
        }
        // Wilson and Hilferty: p > 0.01.
        let z = ((chi / freedom).cbrt() - (1.0 - 2.0 / (9.0 * freedom)))
            / (2.0 / (9.0 * freedom)).sqrt();
        assert!(
            z < 2.326,
            "chi-square {chi} of {freedom} degrees of freedom"
        );
        drained(&engine);
    }
}

/// The target's distribution after `last`, computed the plain way.
fn exact(last: TokenId, temperature: f32, top_p: f32, min_p: f32) -> Vec<f64> {
    let mut logits = vec![0.0; VOCAB];
    chain_logits(last, &mut logits);
    let weights = logits
        .iter()
        .map(|logit| (f64::from(*logit) / f64::from(temperature)).exp());
    let mut ranked: Vec<(usize, f64)> = weights.enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let best = ranked[0].1;
    ranked.retain(|(_, weight)| *weight >= f64::from(min_p) * best && *weight > 0.0);
    let total: f64 = ranked.iter().map(|(_, weight)| weight).sum();
    let mut mass = 0.0;
    ranked.retain(|(_, weight)| {
        let before = mass;
        mass += weight / total;
        before < f64::from(top_p) - 1e-9
    });
    let total: f64 = ranked.iter().map(|(_, weight)| weight).sum();
    let mut out = vec![0.0; VOCAB];
    for (token, weight) in ranked {
        out[token] = weight / total;
    }
    out
}

/// What names the parts in the tests above.
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

#[test]
fn options_of_speculation_that_contradict_are_refused() {
    use llmserve::ServeError;
    let depth_alone = serve(support::bard()).spec_depth(3).build();
    assert!(matches!(depth_alone, Err(ServeError::Speculation(_))));
    let too_deep = serve(support::bard()).ngram().spec_depth(33).build();
    assert!(matches!(too_deep, Err(ServeError::Speculation(_))));
}
