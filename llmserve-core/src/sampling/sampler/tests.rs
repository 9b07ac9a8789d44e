use super::*;
use crate::sampling::TokenMask;
use proptest::prelude::*;

struct Change<F>(F);

impl<F: Fn(&LogitsContext<'_>, &mut [f32]) + Send + Sync> LogitsProcessor for Change<F> {
    fn process(&self, context: &LogitsContext<'_>, logits: &mut [f32]) {
        (self.0)(context, logits);
    }
}

fn processor<F>(change: F) -> Arc<dyn LogitsProcessor>
where
    F: Fn(&LogitsContext<'_>, &mut [f32]) + Send + Sync + 'static,
{
    Arc::new(Change(change))
}

fn warm(temperature: f32) -> Sampling {
    Sampling {
        temperature,
        ..Sampling::default()
    }
}

fn pick(sampling: &Sampling, logits: &[f32]) -> Result<TokenId, Error> {
    Sampler::new(sampling, 0, 1).pick(
        &LogitsContext::new(&[0, 0, 0], 3, 0),
        &[],
        logits,
        &[],
        &mut SamplerScratch::new(),
    )
}

#[test]
fn greedy_takes_the_lowest_of_equals() {
    let mut logits = vec![-3.0f32; 500];
    logits[77] = 2.0;
    logits[78] = 2.0;
    logits[499] = 2.0;
    assert_eq!(pick(&Sampling::default(), &logits), Ok(77));
    assert_eq!(pick(&Sampling::default(), &[0.0, -0.0]), Ok(0));
    assert_eq!(pick(&Sampling::default(), &[-0.0, 0.0]), Ok(0));
}

#[test]
fn what_is_not_a_number_is_an_error_and_minus_infinity_is_not() {
    for sampling in [Sampling::default(), warm(1.0)] {
        for bad in [f32::NAN, f32::INFINITY] {
            let found = pick(&sampling, &[0.0, f32::NEG_INFINITY, bad, f32::NAN]);
            assert_eq!(
                found,
                Err(Error::NonFiniteLogits {
                    position: 2,
                    token: 2,
                    value: bad.to_string(),
                })
            );
        }
        assert_eq!(pick(&sampling, &[f32::NEG_INFINITY, -9.0]), Ok(1));
        let nothing = Err(Error::NothingToSample { position: 2 });
        assert_eq!(pick(&sampling, &[f32::NEG_INFINITY; 3]), nothing);
        assert_eq!(pick(&sampling, &[]), nothing);
    }
}

#[test]
fn processors_see_the_context_and_run_in_order() {
    let processors = [
        processor(|context, logits| logits[context.tokens[1] as usize] = 50.0),
        processor(|_, logits| logits.iter_mut().for_each(|l| *l = -*l)),
        processor(|context, logits| logits[0] += context.choice as f32 * 100.0),
    ];
    let pick = |choice| {
        Sampler::new(&Sampling::default(), choice, 1).pick(
            &LogitsContext::new(&[9, 2], 1, choice),
            &processors,
            &[3.0, 1.0, 0.0],
            &[],
            &mut SamplerScratch::new(),
        )
    };
    assert_eq!(pick(0), Ok(1));
    assert_eq!(pick(1), Ok(0));
}

#[test]
fn a_processor_that_panics_or_spoils_a_logit_is_an_error() {
    let mut scratch = SamplerScratch::new();
    let context = LogitsContext::new(&[1], 1, 0);
    let mut sampler = Sampler::new(&warm(1.0), 0, 1);
    let panics = [processor(|_, logits| {
        logits[0] = f32::NAN;
        panic!("out of {}", "luck")
    })];
    assert_eq!(
        sampler.pick(&context, &panics, &[0.0, 1.0], &[], &mut scratch),
        Err(Error::Panicked {
            part: "logits processor",
            message: "out of luck".into()
        })
    );
    let outside = [processor(|_, logits| logits[5] = 0.0)];
    assert!(matches!(
        sampler.pick(&context, &outside, &[0.0, 1.0], &[], &mut scratch),
        Err(Error::Panicked { .. })
    ));
    // Even where the token is forbidden: a broken processor is not hidden.
    for bad in [f32::NAN, f32::INFINITY] {
        let spoils = [processor(move |_, logits| logits[1] = bad)];
        assert!(matches!(
            sampler.pick(&context, &spoils, &[0.0, 1.0], &[1], &mut scratch),
            Err(Error::NonFiniteLogits { token: 1, .. })
        ));
    }
    let silences = [processor(|_, logits| logits.fill(f32::NEG_INFINITY))];
    assert_eq!(
        sampler.pick(&context, &silences, &[0.0, 1.0], &[], &mut scratch),
        Err(Error::NothingToSample { position: 0 })
    );
    // The same sampler and scratch go on as if nothing had been.
    assert_eq!(
        sampler.pick(&context, &[], &[0.0, 60.0], &[], &mut scratch),
        Ok(1)
    );
}

#[test]
fn bias_penalties_and_forbidden_come_in_order() {
    let mut sampling = Sampling {
        repetition_penalty: 2.0,
        ..Sampling::default()
    };
    sampling.logit_bias.insert(1, 4.0);
    sampling.logit_bias.insert(3, f32::NEG_INFINITY);
    sampling.logit_bias.insert(99, 1.0);
    let context = LogitsContext::new(&[1], 1, 0);
    let mut scratch = SamplerScratch::new();
    let mut sampler = Sampler::new(&sampling, 0, 0);
    // Token 1: (−1 + 4) / 2 = 1.5. Penalty before bias would give −1 · 2 + 4 = 2.
    let row = [1.75, -1.0, 1.25, 9.0];
    assert_eq!(sampler.pick(&context, &[], &row, &[], &mut scratch), Ok(0));
    assert_eq!(sampler.pick(&context, &[], &row, &[0], &mut scratch), Ok(1));
    let forbidden = [0, 1, 77];
    assert_eq!(
        sampler.pick(&context, &[], &row, &forbidden, &mut scratch),
        Ok(2)
    );
    assert_eq!(
        sampler.pick(&context, &[], &row, &[0, 1, 2], &mut scratch),
        Err(Error::NothingToSample { position: 0 })
    );
    sampling.logit_bias.insert(2, f32::MAX);
    assert_eq!(
        Sampler::new(&sampling, 0, 0).pick(&context, &[], &[0.0, 0.0, 3e38], &[], &mut scratch),
        Ok(2)
    );
}

#[test]
fn extreme_temperatures_are_greedy_or_flat_but_sound() {
    let row = [f32::MIN, f32::MAX, 0.0, f32::NEG_INFINITY];
    for temperature in [1e-45, 1e-30, 1e-3] {
        assert_eq!(pick(&warm(temperature), &row), Ok(1));
        assert_eq!(pick(&warm(temperature), &[1.0, 1.5, 1.4]), Ok(1));
        let top_p = Sampling {
            top_p: 0.5,
            min_p: 0.1,
            ..warm(temperature)
        };
        assert_eq!(pick(&top_p, &row), Ok(1));
    }
    let mut seen = [0; 4];
    for position in 0..300 {
        let tokens = vec![0; position];
        let context = LogitsContext::new(&tokens, 0, 0);
        let token = Sampler::new(&warm(f32::MAX), 0, 3).pick(
            &context,
            &[],
            &[5.0, -5.0, 0.0, f32::NEG_INFINITY],
            &[],
            &mut SamplerScratch::new(),
        );
        seen[token.unwrap() as usize] += 1;
    }
    assert!(seen[..3].iter().all(|&n| n > 60), "{seen:?}");
    assert_eq!(seen[3], 0);
}

/// Picks at positions `0..n` of one choice.
fn draws(sampling: &Sampling, choice: usize, seed: u64, logits: &[f32], n: usize) -> Vec<TokenId> {
    let mut sampler = Sampler::new(sampling, choice, seed);
    let mut scratch = SamplerScratch::new();
    let tokens = vec![0; n];
    (0..n)
        .map(|position| {
            let context = LogitsContext::new(&tokens[..position], 0, choice);
            sampler
                .pick(&context, &[], logits, &[], &mut scratch)
                .unwrap()
        })
        .collect()
}

#[test]
fn seeded_rows_are_identical_over_twenty_runs() {
    let logits: Vec<f32> = (0..10).map(|i| (i as f32 * 0.7).sin() * 2.0).collect();
    for sampling in [
        warm(1.0),
        Sampling {
            top_k: Some(7),
            top_p: 0.9,
            min_p: 0.01,
            ..warm(0.8)
        },
    ] {
        let first = draws(&sampling, 2, 42, &logits, 200);
        for _ in 0..20 {
            assert_eq!(draws(&sampling, 2, 42, &logits, 200), first);
        }
        assert_ne!(draws(&sampling, 2, 43, &logits, 200), first);
        assert_ne!(draws(&sampling, 1, 42, &logits, 200), first);
    }
}

#[test]
fn picks_converge_to_the_softmax() {
    let logits: Vec<f32> = (0..10).map(|i| (i as f32 * 1.3).cos() * 1.5).collect();
    let temperature = 0.9;
    let weights: Vec<f64> = logits
        .iter()
        .map(|&l| (f64::from(l) / temperature).exp())
        .collect();
    let sum: f64 = weights.iter().sum();
    let picks = draws(&warm(temperature as f32), 0, 5, &logits, 100_000);
    let distance = |n: usize| {
        let mut counts = [0f64; 10];
        picks[..n].iter().for_each(|&t| counts[t as usize] += 1.0);
        let error = |i: usize| (counts[i] / n as f64 - weights[i] / sum).abs();
        (0..10).map(error).sum::<f64>()
    };
    assert!(distance(10) / distance(100_000) > 20.0);

    let mut counts = [0f64; 10];
    picks.iter().for_each(|&t| counts[t as usize] += 1.0);
    let chi: f64 = (0..10)
        .map(|i| {
            let expected = 1e5 * weights[i] / sum;
            (counts[i] - expected).powi(2) / expected
        })
        .sum();
    // Nine degrees of freedom: 27.9 is exceeded once in a thousand.
    assert!(chi < 27.9, "{chi}");
}

#[test]
fn filtered_picks_converge_to_what_is_left() {
    let logits = [2.0f32, 0.0, 1.0, -1.0, 1.0];
    let sampling = Sampling {
        top_k: Some(3),
        ..warm(1.0)
    };
    let picks = draws(&sampling, 0, 8, &logits, 30_000);
    let weights = [2f64.exp(), 0.0, 1f64.exp(), 0.0, 1f64.exp()];
    let sum: f64 = weights.iter().sum();
    for (id, weight) in (0..).zip(weights) {
        let share = picks.iter().filter(|&&t| t == id).count() as f64 / 3e4;
        assert!((share - weight / sum).abs() < 0.015, "{id}: {share}");
    }
}

#[test]
fn neighbouring_picks_are_independent() {
    // Pairs of (position, position + 1) and of two choices: chi-square over 16 cells.
    let logits = [0.0f32; 4];
    let n = 40_000;
    let here = draws(&warm(1.0), 0, 1, &logits, n + 1);
    let beside = draws(&warm(1.0), 1, 1, &logits, n + 1);
    for other in [&here[1..], &beside[..n]] {
        let mut cells = [0f64; 16];
        for (&a, &b) in here.iter().zip(other) {
            cells[(a * 4 + b) as usize] += 1.0;
        }
        let expected = n as f64 / 16.0;
        let chi: f64 = cells
            .iter()
            .map(|c| (c - expected).powi(2) / expected)
            .sum();
        // Fifteen degrees of freedom: 37.7 is exceeded once in a thousand.
        assert!(chi < 37.7, "{chi}");
    }
}

#[test]
fn drafts_are_verified_as_if_they_had_been_emitted() {
    // Behaviour of a whole speculative step: picks at every drafted position equal those of a
    // fresh sampler that was never told of the drafts, and rejected ones leave no trace.
    let sampling = Sampling {
        repetition_penalty: 1.3,
        frequency_penalty: 0.7,
        presence_penalty: 0.2,
        ..warm(1.0)
    };
    let logits = [0.4f32, 0.1, 0.3, 0.2, 0.0];
    let mut scratch = SamplerScratch::new();
    let mut one = Sampler::new(&sampling, 0, 9);
    let mut tokens: Vec<TokenId> = vec![0, 1];
    for step in 0..50u32 {
        let mut drafted = tokens.clone();
        let mut expected = Vec::new();
        for i in 0..4 {
            let context = LogitsContext::new(&drafted, 2, 0);
            let got = one.pick(&context, &[], &logits, &[], &mut scratch).unwrap();
            let fresh = Sampler::new(&sampling, 0, 9)
                .pick(&context, &[], &logits, &[], &mut scratch)
                .unwrap();
            assert_eq!(got, fresh, "step {step}, draft {i}");
            expected.push(got);
            drafted.push((step * 3 + i) % 5);
        }
        let drafts = &drafted[tokens.len()..];
        let accepted = expected
            .iter()
            .zip(drafts)
            .take_while(|(pick, draft)| pick == draft)
            .count();
        tokens.extend(&expected[..(accepted + 1).min(4)]);
    }
}

proptest! {
    /// A pick is always one of the tokens a plain reading of the filters would keep.
    #[test]
    fn a_pick_is_always_allowed(
        logits in prop::collection::vec(-5.0f32..5.0, 1..200),
        temperature in 0.1f32..2.0,
        top_k in 1usize..40,
        seed: u64,
        banned in prop::collection::vec(0u32..200, 0..5),
    ) {
        let sampling = Sampling { top_k: Some(top_k), ..warm(temperature) };
        let context = LogitsContext::new(&[1, 2], 2, 0);
        let mut order: Vec<TokenId> = (0..logits.len() as TokenId)
            .filter(|t| !banned.contains(t))
            .collect();
        order.sort_by(|&a, &b| {
            logits[b as usize].partial_cmp(&logits[a as usize]).unwrap().then(a.cmp(&b))
        });
        order.truncate(top_k);
        let picked = Sampler::new(&sampling, 0, seed)
            .pick(&context, &[], &logits, &banned, &mut SamplerScratch::new());
        match picked {
            Ok(token) => prop_assert!(order.contains(&token)),
            Err(error) => {
                prop_assert!(order.is_empty());
                prop_assert_eq!(error, Error::NothingToSample { position: 1 });
            }
        }
    }

    /// A scratch that served others changes nothing.
    #[test]
    fn a_used_scratch_is_as_good_as_a_new_one(
        rows in prop::collection::vec(prop::collection::vec(-5.0f32..5.0, 1..100), 1..8),
        top_p in 0.1f32..1.0,
    ) {
        let sampling = Sampling { top_p, presence_penalty: 0.5, ..warm(1.0) };
        let mut used = SamplerScratch::new();
        let context = LogitsContext::new(&[1, 2, 3], 1, 0);
        for row in rows {
            let mut sampler = Sampler::new(&sampling, 0, 4);
            let a = sampler.pick(&context, &[], &row, &[0], &mut used);
            let b = sampler.pick(&context, &[], &row, &[0], &mut SamplerScratch::new());
            prop_assert_eq!(a, b);
        }
    }
}

proptest! {
    /// What a grammar does not allow is what is forbidden, told the other way round.
    #[test]
    fn allowed_is_what_is_not_forbidden(
        logits in prop::collection::vec(prop_oneof![
            8 => -6.0f32..6.0, 2 => (-2i8..3).prop_map(f32::from),
            1 => Just(f32::NEG_INFINITY),
        ], 1..300),
        allowed in prop::collection::vec(any::<bool>(), 300),
        sparse in any::<bool>(),
        (temperature, top_p, min_p, top_k) in (
            prop_oneof![Just(0.0f32), 0.1f32..3.0],
            prop_oneof![Just(1.0f32), 0.2f32..1.0],
            prop_oneof![Just(0.0f32), 0.0f32..0.5],
            prop::option::of(1usize..40),
        ),
        repetition in prop_oneof![Just(1.0f32), 0.8f32..1.5],
        bias in prop::collection::btree_map(0u32..300, -3.0f32..3.0, 0..4),
        flips: bool,
        seed: u64,
    ) {
        let sampling = Sampling {
            temperature, top_p, min_p, top_k,
            repetition_penalty: repetition,
            logit_bias: bias,
            ..Sampling::default()
        };
        let mut mask = TokenMask::none(logits.len());
        let mut forbidden = Vec::new();
        for token in 0..logits.len() as TokenId {
            let rare = sparse && token % 37 != 5;
            if allowed[token as usize] && !rare {
                mask.allow(token);
            } else {
                forbidden.push(token);
            }
        }
        let flip = [processor(|_, logits| logits.iter_mut().for_each(|l| *l = (-*l).min(9.0)))];
        let processors = if flips { &flip[..] } else { &[] };
        let context = LogitsContext::new(&[0, 5, 5, 42], 2, 0);
        let scratch = &mut SamplerScratch::new();
        let mut sampler = Sampler::new(&sampling, 0, seed);
        let expected = sampler.pick(&context, processors, &logits, &forbidden, scratch);
        let masked = context.allowed(Some(&mask));
        prop_assert_eq!(sampler.pick(&masked, processors, &logits, &[], scratch), expected.clone());
        if let Ok(token) = expected {
            prop_assert!(mask.allows(token));
        }
        // Both at once: what either rules out.
        let odd: Vec<_> = (0..logits.len() as TokenId).filter(|token| token % 2 == 1).collect();
        forbidden.extend(&odd);
        let expected = sampler.pick(&context, processors, &logits, &forbidden, scratch);
        prop_assert_eq!(sampler.pick(&masked, processors, &logits, &odd, scratch), expected);
    }
}

#[test]
fn a_row_that_is_no_row_is_found_whatever_is_allowed() {
    let mut mask = TokenMask::none(3);
    mask.allow(1);
    let context = LogitsContext::new(&[0], 1, 0).allowed(Some(&mask));
    for sampling in [Sampling::default(), warm(1.0)] {
        let mut sampler = Sampler::new(&sampling, 0, 1);
        let mut pick =
            |logits: &[f32]| sampler.pick(&context, &[], logits, &[], &mut SamplerScratch::new());
        assert_eq!(pick(&[9.0, 1.0, 8.0]), Ok(1));
        let bad = pick(&[f32::NAN, 1.0, 8.0]);
        assert!(matches!(bad, Err(Error::NonFiniteLogits { token: 0, .. })));
        let ruled_out = pick(&[9.0, f32::NEG_INFINITY, 8.0]);
        assert_eq!(ruled_out, Err(Error::NothingToSample { position: 0 }));
    }
}
