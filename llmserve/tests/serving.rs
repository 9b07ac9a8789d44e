//! What a host may rely on when it serves: the engine over the real scheduler and KV manager, with
//! a model whose output depends on every slot of its pages.

mod support;

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use llmserve::prelude::*;
use llmserve::{
    FinishReason, LogitsContext, LogitsProcessor, ManualClock, MemoryRecorder, ModelError,
};
use support::{EOS, Gate, Letters, PageModel, Sizes, VOCAB, builder, drained, engine, hash_logits};

fn cycle(context: &[u32]) -> u32 {
    2 + (context.len() as u32 % 26)
}

#[test]
fn streams_tokens_then_finishes() {
    let engine = engine(PageModel::greedy(cycle), Sizes::default());
    let events: Vec<Event> = engine
        .generate(Request::text("hi").max_tokens(4))
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert!(matches!(&events[0], Event::Started(s) if *s.prompt_ids == [0, 9, 10]));
    let ids: Vec<u32> = events
        .iter()
        .filter_map(|e| {
            if let Event::Token(t) = e {
                Some(t.id)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(ids, [5, 6, 7, 8]);
    let Some(Event::Finished(end)) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!(end.reason, FinishReason::Length);
    assert_eq!(
        (end.usage.prompt_tokens, end.usage.completion_tokens),
        (3, 4)
    );
    assert_eq!(events.iter().map(Event::text).collect::<String>(), "defg");
    drained(&engine);
}

#[test]
fn stop_conditions_in_their_order() {
    // 42 with outputs [10, 42, 12]: the stop token ends it and is part of the ids.
    let script = |outputs: &'static [u32]| {
        PageModel::greedy(move |context| outputs[(context.len() - 2).min(outputs.len() - 1)])
    };
    let run = |outputs, request: Request| {
        let engine = engine(script(outputs), Sizes::default());
        let response = engine.generate(request).wait().unwrap();
        drained(&engine);
        (
            response.ids().to_vec(),
            response.choices[0].reason.clone().unwrap(),
        )
    };
    let prompt = || Request::tokens([0, 2]).max_tokens(10);
    assert_eq!(
        run(&[10, 42, 12], prompt().stop_token(42)),
        (vec![10, 42], FinishReason::StopToken(42))
    );
    assert_eq!(
        run(&[10, 11, 12], prompt().max_tokens(2)),
        (vec![10, 11], FinishReason::Length)
    );
    assert_eq!(
        run(&[10, EOS, 12], prompt()),
        (vec![10, EOS], FinishReason::Eos(EOS))
    );
    let all = prompt().max_tokens(4).ignore_eos(true);
    assert_eq!(
        run(&[10, EOS, 12], all),
        (vec![10, EOS, 12, 12], FinishReason::Length)
    );
    // min_tokens 5: an end token picked as the 3rd does not end it, one picked as the 9th does.
    let outputs = &[10, 11, EOS, 12, 13, 14, 15, 16, EOS, 17];
    let (ids, reason) = run(outputs, prompt().min_tokens(5));
    assert_eq!((ids.len(), reason), (9, FinishReason::Eos(EOS)));
    assert_ne!(
        ids[2], EOS,
        "an end token is not even picked before min_tokens"
    );
    // Stop strings: "cd" is never seen in the text.
    let (ids, reason) = run(&[3, 4, 5, 6], prompt().stop("cd").stop("zz"));
    assert_eq!(
        (ids, reason),
        (vec![3, 4, 5], FinishReason::StopString("cd".into()))
    );
}

#[test]
fn stop_strings_and_half_characters_never_leak() {
    // b c é(2 tokens) d, then "stop" is "cé".
    let outputs = [3u32, 4, 31, 32, 5];
    let model = move || PageModel::greedy(move |context| outputs[(context.len() - 2).min(4)]);
    let first = engine(model(), Sizes::default());
    let mut texts = Vec::new();
    for event in first.generate(Request::tokens([0, 2]).max_tokens(5).stop("cé")) {
        texts.push(event.unwrap().text().to_owned());
    }
    assert_eq!(texts.concat(), "b");
    let plain = engine(model(), Sizes::default());
    for event in plain.generate(Request::tokens([0, 2]).max_tokens(5)) {
        let text = event.unwrap().text().to_owned();
        assert!(!text.contains('\u{fffd}'), "half a character in {text:?}");
    }
    let cut = plain
        .generate(Request::tokens([0, 2]).max_tokens(3))
        .wait()
        .unwrap();
    assert_eq!(cut.text(), "bc", "the first half of é is not text");
    // Held back as the possible start of a stop string, released at the end.
    let held = plain
        .generate(Request::tokens([0, 2]).max_tokens(2).stop("cx"))
        .wait()
        .unwrap();
    assert_eq!(held.text(), "bc");
}

#[test]
fn choices_fork_from_one_prefill_and_differ_only_by_noise() {
    let engine = engine(
        PageModel::hashing(),
        Sizes {
            block_size: 4,
            ..Sizes::default()
        },
    );
    let prompt: Vec<u32> = (0..30).map(|i| 2 + i % 20).collect();
    let request = |n| {
        Request::tokens(prompt.clone())
            .max_tokens(24)
            .temperature(1.0)
            .seed(11)
            .n(n)
            .ignore_eos(true)
    };
    let many = engine.generate(request(6)).wait().unwrap();
    assert_eq!(many.choices.len(), 6);
    let alone = engine.generate(request(1)).wait().unwrap();
    assert_eq!(many.choices[0].ids, alone.choices[0].ids);
    for i in 0..6 {
        assert_eq!(many.choices[i].ids.len(), 24);
        for j in 0..i {
            assert_ne!(
                many.choices[i].ids, many.choices[j].ids,
                "choices {i} and {j}"
            );
        }
    }
    let again = engine.generate(request(6)).wait().unwrap();
    let ids = |r: &Response| r.choices.iter().map(|c| c.ids.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&many));
    drained(&engine);
}

#[test]
fn logprobs_are_the_models_own() {
    let engine = engine(PageModel::hashing(), Sizes::default());
    let prompt: Vec<u32> = (0..100).map(|i| 2 + (i * 7) % 50).collect();
    let request = Request::tokens(prompt.clone())
        .max_tokens(3)
        .logprobs(4)
        .prompt_logprobs(2);
    // Twice: the second could hit the cache, but must compute its prompt to know its logprobs.
    for _ in 0..2 {
        let response = engine.generate(request.clone()).wait().unwrap();
        let told = response.started.prompt_logprobs.clone().unwrap();
        assert_eq!(told.len(), prompt.len() - 1);
        assert_eq!(response.choices[0].usage.cached_tokens, 0);
        let expect = |context: &[u32], token: u32| {
            let mut logits = vec![0.0; VOCAB];
            hash_logits(context, &mut logits);
            let sum: f64 = logits.iter().map(|l| f64::from(*l).exp()).sum();
            f64::from(logits[token as usize]) - sum.ln()
        };
        for (i, entry) in told.iter().enumerate() {
            assert_eq!(entry.id, prompt[i + 1]);
            assert_eq!(entry.top.len(), 2);
            let expected = expect(&prompt[..=i], prompt[i + 1]);
            assert!((f64::from(entry.logprob) - expected).abs() < 1e-4);
        }
        let mut context = prompt.clone();
        for entry in &response.choices[0].logprobs {
            assert_eq!(entry.top[0].0, entry.id, "greedy picks the best");
            assert!((f64::from(entry.logprob) - expect(&context, entry.id)).abs() < 1e-4);
            context.push(entry.id);
        }
    }
    drained(&engine);
}

#[test]
fn a_shared_prefix_is_computed_once_even_in_one_step() {
    let sizes = Sizes {
        max_num_seqs: 256,
        max_batched_tokens: 2048,
        ..Sizes::default()
    };
    let engine = engine(
        PageModel::hashing(),
        Sizes {
            blocks: 4096,
            ..sizes
        },
    );
    let prefix: Vec<u32> = (0..256).map(|i| 2 + (i * 5) % 60).collect();
    let streams = (0..200u32).map(|i| {
        let own = (0..16).map(|j| 2 + (i * 31 + j * 17 + j * i) % 60);
        engine.generate(
            Request::tokens(prefix.iter().copied().chain(own).collect::<Vec<_>>())
                .max_tokens(4)
                .ignore_eos(true),
        )
    });
    let streams: Vec<_> = streams.collect();
    let cached: Vec<usize> = streams
        .into_iter()
        .map(|stream| stream.wait().unwrap().choices[0].usage.cached_tokens)
        .collect();
    let hits: usize = cached[1..].iter().sum();
    assert!(hits >= 199 * 256 * 9 / 10, "{hits} of {}", 199 * 256);
    assert_eq!(engine.stats().prefix_hit_tokens as usize, hits + cached[0]);
    drained(&engine);
}

#[test]
fn block_events_tell_what_can_be_hit_and_a_reset_forgets_it() {
    use llmserve::BlockEvent;
    let told = Arc::new(Mutex::new(Vec::new()));
    let listener = told.clone();
    let root = llmserve::IdentityRoot::new(1, "tokens", 16);
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(64)
        .block_size(16)
        .root(root)
        .events(true);
    let scheduler = llmserve::sched::ContinuousScheduler::builder()
        .build()
        .unwrap();
    let engine = Engine::builder(PageModel::hashing())
        .kv(kv.build().unwrap())
        .scheduler(scheduler)
        .on_block_events(move |events| listener.lock().unwrap().extend_from_slice(events))
        .build()
        .unwrap();
    let prompt: Vec<u32> = (0..40).map(|i| 2 + i % 60).collect();
    let ask = || {
        engine
            .generate(Request::tokens(prompt.clone()).max_tokens(1))
            .wait()
            .unwrap()
    };
    ask();
    {
        let told = told.lock().unwrap();
        let [
            BlockEvent::Stored {
                identity,
                parent: None,
                tokens,
            },
            BlockEvent::Stored {
                parent: Some(parent),
                ..
            },
        ] = &told[..]
        else {
            panic!("{told:?}")
        };
        assert_eq!((parent, &tokens[..]), (identity, &prompt[..16]));
    }
    assert_eq!(ask().choices[0].usage.cached_tokens, 32);
    engine.reset_prefix_cache().unwrap();
    assert_eq!(told.lock().unwrap().last(), Some(&BlockEvent::Cleared));
    assert_eq!(ask().choices[0].usage.cached_tokens, 0);
    drained(&engine);
    assert_eq!(engine.reset_prefix_cache(), Err(Error::ShutDown));
}

#[test]
fn tenants_share_nothing() {
    let engine = engine(PageModel::hashing(), Sizes::default());
    let ask = |tenant: Option<&str>| {
        let mut request =
            Request::tokens((0..64).map(|i| 2 + i % 60).collect::<Vec<_>>()).max_tokens(1);
        request.tenant = tenant.map(Into::into);
        engine.generate(request).wait().unwrap().choices[0]
            .usage
            .cached_tokens
    };
    assert_eq!([ask(Some("a")), ask(Some("b")), ask(None)], [0, 0, 0]);
    assert_eq!([ask(Some("a")), ask(Some("b")), ask(None)], [48, 48, 48]);
}

#[test]
fn dropping_a_stream_cancels_and_frees() {
    let slow = PageModel::new(Arc::new(|context, logits| {
        thread::sleep(Duration::from_millis(1));
        hash_logits(context, logits);
        logits[EOS as usize] = f32::NEG_INFINITY;
        Ok(())
    }));
    let engine = engine(
        slow,
        Sizes {
            max_num_seqs: 4,
            ..Sizes::default()
        },
    );
    let mut streams: Vec<_> = (0..12)
        .map(|i| engine.generate(Request::tokens([0, 2 + i]).max_tokens(900)))
        .collect();
    let kept = streams.pop().unwrap();
    // Some run, some wait; all but one go away.
    assert!(streams[0].blocking_next().unwrap().is_ok());
    drop(streams);
    drop(kept.into_iter().take(3).collect::<Vec<_>>());
    // A cancelled one's slot and blocks serve others.
    let other = engine
        .generate(Request::tokens([0, 9]).max_tokens(3))
        .wait()
        .unwrap();
    assert_eq!(other.ids().len(), 3);
    drained(&engine);
    assert_eq!(engine.stats().cancelled_requests, 12);
}

#[test]
fn a_reader_that_never_reads_disturbs_nobody() {
    let engine = engine(
        PageModel::greedy(cycle),
        Sizes {
            max_num_seqs: 2,
            ..Sizes::default()
        },
    );
    let unread = engine.generate(Request::text("a").max_tokens(500));
    for _ in 0..20 {
        assert_eq!(
            engine
                .generate(Request::text("b").max_tokens(20))
                .wait()
                .unwrap()
                .ids()
                .len(),
            20
        );
    }
    // All of it is still there.
    assert_eq!(unread.wait().unwrap().ids().len(), 500);
    drained(&engine);
}

#[test]
fn deadlines_end_running_and_waiting_requests() {
    let clock = Arc::new(ManualClock::default());
    let ticking = clock.clone();
    let gate = Gate::default();
    let held = gate.clone();
    let model = PageModel::new(Arc::new(move |context, logits| {
        held.wait();
        ticking.advance(Duration::from_millis(1));
        logits.fill(0.0);
        logits[cycle(context) as usize] = 10.0;
        Ok(())
    }));
    let engine = builder(
        model,
        Sizes {
            max_num_seqs: 1,
            ..Sizes::default()
        },
    )
    .clock(clock)
    .build()
    .unwrap();
    let deadline = Duration::from_millis(10);
    let running = engine.generate(Request::text("a").max_tokens(500).deadline(deadline));
    let waiting = engine.generate(Request::text("b").max_tokens(5).deadline(deadline).n(1));
    let patient = engine.generate(Request::text("c").max_tokens(5));
    gate.open();
    let running = running.wait().unwrap();
    assert_eq!(running.choices[0].reason, Some(FinishReason::Deadline));
    let tokens = running.ids().len();
    assert!(
        (5..=20).contains(&tokens),
        "{tokens} tokens in 10 ms of 1 ms steps"
    );
    assert_eq!(running.text().len(), tokens);
    let waiting = waiting.wait().unwrap();
    assert_eq!(
        (waiting.ids().len(), &waiting.choices[0].reason),
        (0, &Some(FinishReason::Deadline))
    );
    assert_eq!(patient.wait().unwrap().ids().len(), 5);
    drained(&engine);
}

#[test]
fn drain_finishes_shutdown_ends_and_both_refuse_afterwards() {
    let first = engine(PageModel::greedy(cycle), Sizes::default());
    let accepted = first.generate(Request::text("a").max_tokens(300));
    first.drain();
    assert_eq!(accepted.wait().unwrap().ids().len(), 300);
    assert_eq!(
        first.generate(Request::text("a")).wait().unwrap_err(),
        Error::ShutDown
    );
    first.drain();
    first.shutdown();

    let slow = PageModel::new(Arc::new(|_, logits| {
        thread::sleep(Duration::from_millis(2));
        logits.fill(0.0);
        logits[5] = 1.0;
        Ok(())
    }));
    let second = engine(
        slow,
        Sizes {
            max_num_seqs: 2,
            ..Sizes::default()
        },
    );
    let streams: Vec<_> = (0..6)
        .map(|_| second.generate(Request::text("a").max_tokens(900)))
        .collect();
    second.shutdown();
    for stream in streams {
        assert_eq!(stream.wait().unwrap_err(), Error::ShutDown);
    }
    assert_eq!(
        second.generate(Request::text("a")).wait().unwrap_err(),
        Error::ShutDown
    );
}

#[test]
fn dropping_the_engine_lets_its_streams_finish() {
    let stream = {
        let engine = engine(PageModel::greedy(cycle), Sizes::default());
        engine.generate(Request::text("a").max_tokens(100))
    };
    assert_eq!(stream.wait().unwrap().ids().len(), 100);
}

#[test]
fn a_failing_step_fails_its_requests_alone_and_leaves_nothing_cached() {
    // The model fails whenever a context holds the token 60.
    let model = PageModel::new(Arc::new(|context, logits| {
        if context.contains(&60) {
            return Err(ModelError::Backend("sixty".into()));
        }
        hash_logits(context, logits);
        logits[60] = f32::NEG_INFINITY;
        Ok(())
    }));
    let engine = engine(model, Sizes::default());
    let poison: Vec<u32> = (0..40)
        .map(|i| if i == 35 { 60 } else { 2 + i % 50 })
        .collect();
    let error = engine.generate(Request::tokens(poison)).wait().unwrap_err();
    assert!(
        matches!(&error, Error::Model(ModelError::Backend(text)) if text == "sixty"),
        "{error}"
    );
    // The same first blocks without the poison: nothing of the failed step may be hit.
    let clean: Vec<u32> = (0..40).map(|i| 2 + i % 50).collect();
    let response = engine
        .generate(Request::tokens(clean).max_tokens(4))
        .wait()
        .unwrap();
    assert_eq!(response.choices[0].usage.cached_tokens, 0);
    drained(&engine);
    assert_eq!(engine.stats().failed_requests, 1);
}

#[test]
fn nan_logits_fail_their_request_alone() {
    let model = PageModel::new(Arc::new(|context, logits| {
        hash_logits(context, logits);
        logits[EOS as usize] = f32::NEG_INFINITY;
        if context[0] == 61 && context.len() > 5 {
            logits[3] = f32::NAN;
        }
        Ok(())
    }));
    let engine = engine(model, Sizes::default());
    let healthy = engine.generate(Request::tokens([5, 6, 7]).max_tokens(50));
    let sick = engine.generate(Request::tokens([61, 6, 7]).max_tokens(50));
    let error = sick.wait().unwrap_err();
    assert!(
        matches!(error, Error::NonFiniteLogits { token: 3, .. }),
        "{error}"
    );
    assert_eq!(healthy.wait().unwrap().ids().len(), 50);
    drained(&engine);
}

#[test]
fn panics_end_in_typed_errors_on_the_streams_they_touch() {
    struct Boom;
    impl LogitsProcessor for Boom {
        fn process(&self, context: &LogitsContext<'_>, _: &mut [f32]) {
            assert!(context.tokens.len() < 6, "boom");
        }
    }
    let first = engine(PageModel::greedy(cycle), Sizes::default());
    let healthy = first.generate(Request::text("a").max_tokens(50));
    let sick = first.generate(Request::text("a").max_tokens(50).processor(Arc::new(Boom)));
    let error = sick.wait().unwrap_err();
    assert!(
        matches!(&error, Error::Panicked { part: "logits processor", message } if message.contains("boom")),
        "{error}"
    );
    assert_eq!(healthy.wait().unwrap().ids().len(), 50);
    drained(&first);

    // A model that panics ends the requests of that step; the engine goes on.
    let model = PageModel::new(Arc::new(|context, logits| {
        assert!(!context.contains(&60), "sixty");
        logits.fill(0.0);
        logits[7] = 1.0;
        Ok(())
    }));
    let second = engine(model, Sizes::default());
    let error = second.generate(Request::tokens([60])).wait().unwrap_err();
    assert!(
        matches!(error, Error::Panicked { part: "model", .. }),
        "{error}"
    );
    assert_eq!(
        second
            .generate(Request::tokens([9]).max_tokens(2))
            .wait()
            .unwrap()
            .ids(),
        [7, 7]
    );
    drained(&second);
}

#[test]
fn a_scheduler_that_panics_ends_every_stream_and_never_hangs() {
    use llmserve::{
        KvManager, Refusal, SchedRequest, Scheduler, SchedulerCounts, StepOutcome, StepPlan, Time,
    };
    struct Broken(usize);
    impl Scheduler for Broken {
        fn max_batched_tokens(&self) -> usize {
            64
        }
        fn max_num_seqs(&self) -> usize {
            8
        }
        fn submit(&mut self, _: SchedRequest, _: &dyn KvManager) -> Result<(), Refusal> {
            Ok(())
        }
        fn plan(&mut self, _: &mut dyn KvManager, _: Time, _: &mut StepPlan) {
            self.0 += 1;
            assert!(self.0 < 3, "out of plans");
        }
        fn commit(&mut self, _: &StepOutcome, _: &mut dyn KvManager) {}
        fn counts(&self) -> SchedulerCounts {
            SchedulerCounts::default()
        }
    }
    let root = llmserve::IdentityRoot::new(1, "tokens", 16);
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(8)
        .block_size(16)
        .root(root)
        .build()
        .unwrap();
    let engine = Engine::builder(PageModel::hashing())
        .kv(kv)
        .scheduler(Broken(0))
        .tokenizer(Arc::new(Letters))
        .build()
        .unwrap();
    let streams: Vec<_> = (0..3)
        .map(|_| engine.generate(Request::text("a")))
        .collect();
    for stream in streams {
        let error = stream.wait().unwrap_err();
        let expected = Error::Panicked {
            part: "scheduler",
            message: "out of plans".into(),
        };
        assert_eq!(error, expected);
    }
    assert!(engine.generate(Request::text("a")).wait().is_err());
    engine.drain();
}

#[test]
fn a_policy_that_panics_refuses_that_request_alone() {
    use llmserve::SchedRequest;
    use llmserve::sched::{ContinuousScheduler, Policy, Rank};
    struct Picky;
    impl Policy for Picky {
        fn rank(&self, request: &SchedRequest) -> Rank {
            assert!(request.priority != 13, "unlucky");
            Rank::new(0)
        }
    }
    let root = llmserve::IdentityRoot::new(1, "tokens", 16);
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(64)
        .block_size(16)
        .root(root)
        .build()
        .unwrap();
    let scheduler = ContinuousScheduler::builder()
        .policy(Picky)
        .build()
        .unwrap();
    let engine = Engine::builder(PageModel::greedy(cycle))
        .kv(kv)
        .scheduler(scheduler)
        .build()
        .unwrap();
    let fine = engine.generate(Request::tokens([3]).max_tokens(30));
    let error = engine
        .generate(Request::tokens([3]).priority(13))
        .wait()
        .unwrap_err();
    assert!(
        matches!(
            &error,
            Error::Panicked {
                part: "scheduling policy",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(fine.wait().unwrap().ids().len(), 30);
    drained(&engine);
}

#[test]
fn requests_that_cannot_be_served_say_why() {
    let engine = engine(
        PageModel::hashing(),
        Sizes {
            blocks: 4,
            max_num_seqs: 8,
            ..Sizes::default()
        },
    );
    let refused = |request: Request| engine.generate(request).wait().unwrap_err();
    let field = |request: Request| match refused(request) {
        Error::InvalidRequest { field, .. } => field,
        other => panic!("{other}"),
    };
    let ok = || Request::tokens([2, 3]);
    assert_eq!(field(Request::tokens([])), "prompt");
    assert_eq!(field(Request::tokens([64])), "prompt");
    assert_eq!(field(Request::messages([])), "prompt");
    assert_eq!(field(ok().max_tokens(0)), "max_tokens");
    assert_eq!(field(ok().max_tokens(3).min_tokens(4)), "min_tokens");
    assert_eq!(field(ok().temperature(-1.0)), "temperature");
    assert_eq!(field(ok().temperature(f32::NAN)), "temperature");
    assert_eq!(field(ok().temperature(f32::INFINITY)), "temperature");
    assert_eq!(field(ok().top_p(0.0)), "top_p");
    assert_eq!(field(ok().top_p(1.5)), "top_p");
    assert_eq!(field(ok().top_k(0)), "top_k");
    assert_eq!(field(ok().min_p(2.0)), "min_p");
    assert_eq!(field(ok().n(0)), "n");
    assert_eq!(field(ok().n(9)), "n");
    assert_eq!(field(ok().stop("")), "stop");
    assert_eq!(field(ok().stop_token(64)), "stop_tokens");
    assert_eq!(field(ok().logprobs(65)), "logprobs");
    assert!(matches!(
        refused(Request::text("UPPER")),
        Error::Tokenizer(_)
    ));
    // 4 blocks of 16 hold 64 tokens, one of which must be new.
    match refused(Request::tokens(vec![2; 64])) {
        Error::PromptTooLong {
            tokens: 64,
            limit: 63,
            limited_by,
        } => {
            assert!(limited_by.contains("4 blocks of 16"), "{limited_by}");
        }
        other => panic!("{other}"),
    }
    let fits = engine
        .generate(Request::tokens(vec![2; 63]).ignore_eos(true))
        .wait()
        .unwrap();
    assert_eq!(
        (fits.ids().len(), &fits.choices[0].reason),
        (1, &Some(FinishReason::Length))
    );
    drained(&engine);
}

#[test]
fn a_full_queue_refuses_and_loses_nobody() {
    let slow = PageModel::new(Arc::new(|_, logits| {
        thread::sleep(Duration::from_millis(1));
        logits.fill(0.0);
        logits[5] = 1.0;
        Ok(())
    }));
    let root = llmserve::IdentityRoot::new(1, "tokens", 16);
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(64)
        .block_size(16)
        .root(root)
        .build()
        .unwrap();
    let scheduler = llmserve::sched::ContinuousScheduler::builder()
        .max_num_seqs(1)
        .max_queue(Some(4))
        .build()
        .unwrap();
    let engine = Engine::builder(slow)
        .kv(kv)
        .scheduler(scheduler)
        .build()
        .unwrap();
    let streams: Vec<_> = (0..40)
        .map(|_| engine.generate(Request::tokens([3]).max_tokens(10)))
        .collect();
    let (mut served, mut refused) = (0, 0);
    for stream in streams {
        match stream.wait() {
            Ok(response) => {
                assert_eq!(response.ids().len(), 10);
                served += 1;
            }
            Err(Error::Overloaded { limit: 4, .. }) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(
        served >= 4 && refused > 0,
        "{served} served, {refused} refused"
    );
    assert_eq!(served + refused, 40);
    drained(&engine);
}

#[test]
fn metrics_carry_the_names_people_chart() {
    let recorder = Arc::new(MemoryRecorder::default());
    let gate = Gate::default();
    let held = gate.clone();
    let engine = builder(
        PageModel::greedy(move |context| {
            held.wait();
            cycle(context)
        }),
        Sizes {
            blocks: 12,
            ..Sizes::default()
        },
    )
    .recorder(recorder.clone())
    .build()
    .unwrap();
    let streams: Vec<_> = (0..4)
        .map(|_| engine.generate(Request::tokens(vec![5; 40]).max_tokens(60)))
        .collect();
    // The first is in a step; the others wait, and are admitted together after it.
    gate.open();
    for stream in streams {
        stream.wait().unwrap();
    }
    assert!(
        engine
            .generate(Request::tokens(vec![99]).max_tokens(5))
            .wait()
            .is_err()
    );
    let value = |name| recorder.value(name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(value("llmserve_generation_tokens_total"), 240.0);
    assert_eq!(value("llmserve_prompt_tokens_total"), 160.0);
    assert_eq!(value("llmserve_time_to_first_token_seconds"), 4.0);
    assert_eq!(value("llmserve_inter_token_latency_seconds"), 236.0);
    assert_eq!(value("llmserve_e2e_request_latency_seconds"), 4.0);
    assert_eq!(value("llmserve_request_success_total"), 4.0);
    assert_eq!(value("llmserve_num_requests_running"), 0.0);
    assert_eq!(value("llmserve_prefix_cache_queries_total"), 160.0);
    assert_eq!(
        value("llmserve_prefix_cache_hits_total"),
        engine.stats().prefix_hit_tokens as f64
    );
    assert!(
        value("llmserve_num_preemptions_total") > 0.0,
        "12 blocks for 4 × 100 tokens"
    );
    let text = recorder.render();
    assert!(
        text.contains(
            "llmserve_request_success_total{model=\"pages\",finished_reason=\"length\"} 4"
        ),
        "{text}"
    );
    drained(&engine);
}

#[test]
fn a_model_that_fails_after_submission_fails_that_step_alone() {
    use llmserve::{Batch, KvGroupSpec, KvLayout, Logits, Model, ModelInfo, PageStore, StepLimits};
    #[derive(Clone, Copy, PartialEq)]
    enum Fault {
        RowFails,
        RowPanics,
        DropPanics,
        ShortRow,
        LongRow,
        TooFewRows,
    }
    /// The page model, whose logits go wrong where a sequence begins with token 50.
    struct Faulty(PageModel, Fault, ModelInfo);
    struct Wrong(Box<dyn Logits>, Fault, Vec<f32>);
    impl Logits for Wrong {
        fn rows(&self) -> usize {
            if self.1 == Fault::TooFewRows {
                0
            } else {
                self.0.rows()
            }
        }
        fn row(&mut self, index: usize) -> Result<&[f32], ModelError> {
            match self.1 {
                Fault::RowFails => Err(ModelError::Backend("late".into())),
                Fault::RowPanics => panic!("late"),
                Fault::ShortRow | Fault::LongRow => Ok(&self.2),
                _ => self.0.row(index),
            }
        }
    }
    impl Drop for Wrong {
        fn drop(&mut self) {
            assert!(self.1 != Fault::DropPanics, "late");
        }
    }
    impl Model for Faulty {
        fn info(&self) -> &ModelInfo {
            &self.2
        }
        fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError> {
            self.0.prepare(layout, limits)
        }
        fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
            let poisoned = batch.tokens.contains(&50);
            let logits = self.0.submit(batch)?;
            let row = vec![
                0.0;
                if self.1 == Fault::LongRow {
                    VOCAB + 8
                } else {
                    VOCAB - 8
                }
            ];
            Ok(if poisoned {
                Box::new(Wrong(logits, self.1, row))
            } else {
                logits
            })
        }
        fn pages(&mut self) -> &mut dyn PageStore {
            self.0.pages()
        }
    }
    for fault in [
        Fault::RowFails,
        Fault::RowPanics,
        Fault::DropPanics,
        Fault::ShortRow,
        Fault::LongRow,
        Fault::TooFewRows,
    ] {
        let info = ModelInfo::new("faulty", VOCAB, 1024, KvGroupSpec::full(8, "tokens"));
        let model = Faulty(PageModel::hashing(), fault, info);
        let engine = engine(model, Sizes::default());
        let poisoned: Vec<u32> = (0..40)
            .map(|i| if i == 39 { 50 } else { 2 + i % 40 })
            .collect();
        let error = engine
            .generate(Request::tokens(poisoned.clone()))
            .wait()
            .unwrap_err();
        assert!(
            matches!(
                error,
                Error::Model(_) | Error::Panicked { part: "model", .. }
            ),
            "{error}"
        );
        // Nothing the failed step wrote can be hit, and the engine goes on.
        let clean = Request::tokens(&poisoned[..39]).max_tokens(1);
        let response = engine.generate(clean).wait().unwrap();
        assert_eq!(response.choices[0].usage.cached_tokens, 0);
        drained(&engine);
    }
}

#[test]
fn a_kv_manager_that_refuses_ends_the_request_and_never_hangs() {
    use llmserve::kv::PagedKv;
    use llmserve::{
        BlockEvent, BlockId, BlockTables, GroupId, KvError, KvLayout, KvManager, KvStats, PageOp,
        PrefixHit, PrefixScope, SequenceId,
    };
    /// Refuses what its name says.
    struct Refusing(PagedKv, &'static str);
    impl Refusing {
        fn check(&self, sequence: SequenceId, call: &str) -> Result<(), KvError> {
            if self.1 == call {
                return Err(KvError::Invalid {
                    sequence,
                    reason: "refused",
                });
            }
            Ok(())
        }
    }
    impl BlockTables for Refusing {
        fn table(&self, sequence: SequenceId, group: GroupId) -> &[BlockId] {
            self.0.table(sequence, group)
        }
    }
    impl KvManager for Refusing {
        fn layout(&self) -> &KvLayout {
            self.0.layout()
        }
        fn open(
            &mut self,
            id: SequenceId,
            tokens: &[u32],
            scope: PrefixScope,
        ) -> Result<(), KvError> {
            self.check(id, "open")
                .and_then(|()| self.0.open(id, tokens, scope))
        }
        fn is_open(&self, id: SequenceId) -> bool {
            self.0.is_open(id)
        }
        fn prefix(&self, id: SequenceId) -> PrefixHit {
            self.0.prefix(id)
        }
        fn demand(&self, id: SequenceId, tokens: usize) -> Result<usize, KvError> {
            self.0.demand(id, tokens)
        }
        fn available(&self) -> usize {
            self.0.available()
        }
        fn allocate(&mut self, id: SequenceId, tokens: usize) -> Result<usize, KvError> {
            // The second allocation: of a sequence that runs.
            if tokens > 3 {
                self.check(id, "allocate")?;
            }
            self.check(id, "admit")
                .and_then(|()| self.0.allocate(id, tokens))
        }
        fn append(&mut self, id: SequenceId, tokens: &[u32]) -> Result<(), KvError> {
            self.0.append(id, tokens)
        }
        fn seal(&mut self, id: SequenceId, computed: usize) -> Result<(), KvError> {
            self.check(id, "seal")
                .and_then(|()| self.0.seal(id, computed))
        }
        fn revoke(&mut self, id: SequenceId) -> Result<(), KvError> {
            self.0.revoke(id)
        }
        fn trim(&mut self, id: SequenceId, tokens: usize) -> Result<(), KvError> {
            self.0.trim(id, tokens)
        }
        fn fork(&mut self, parent: SequenceId, child: SequenceId) -> Result<(), KvError> {
            self.check(child, "fork")
                .and_then(|()| self.0.fork(parent, child))
        }
        fn release(&mut self, id: SequenceId) -> Result<(), KvError> {
            self.0.release(id)
        }
        fn close(&mut self, id: SequenceId) {
            self.0.close(id);
        }
        fn reset(&mut self) -> Result<(), KvError> {
            self.0.reset()
        }
        fn take_page_ops(&mut self, out: &mut Vec<PageOp>) {
            self.0.take_page_ops(out);
        }
        fn take_events(&mut self, out: &mut Vec<BlockEvent>) {
            self.0.take_events(out);
        }
        fn stats(&self) -> KvStats {
            self.0.stats()
        }
    }
    for call in ["open", "admit", "allocate", "seal", "fork"] {
        let root = llmserve::IdentityRoot::new(1, "tokens", 16);
        let kv = PagedKv::builder()
            .blocks(64)
            .block_size(16)
            .root(root)
            .build()
            .unwrap();
        let scheduler = llmserve::sched::ContinuousScheduler::builder()
            .build()
            .unwrap();
        let engine = Engine::builder(PageModel::greedy(cycle))
            .kv(Refusing(kv, call))
            .scheduler(scheduler)
            .build()
            .unwrap();
        let request = Request::tokens([5, 6, 7])
            .max_tokens(8)
            .temperature(1.0)
            .n(2);
        let error = engine.generate(request).wait().unwrap_err();
        assert!(
            matches!(error, Error::Kv(KvError::Invalid { .. })),
            "{call}: {error}"
        );
        drained(&engine);
    }
}

#[test]
fn a_tokenizer_that_panics_ends_its_request_alone() {
    use llmserve::{RenderOptions, Tokenizer, TokenizerError};
    struct Nervous;
    impl Tokenizer for Nervous {
        fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
            assert!(text != "boo", "encode");
            Letters.encode(text, special)
        }
        fn decode(&self, ids: &[u32], skip: bool) -> Result<String, TokenizerError> {
            assert!(!ids.contains(&40), "decode");
            Letters.decode(ids, skip)
        }
        fn render(&self, _: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
            panic!("render")
        }
    }
    let model = PageModel::greedy(|context| if context.contains(&41) { 40 } else { 7 });
    let engine = builder(model, Sizes::default())
        .tokenizer(Arc::new(Nervous))
        .build()
        .unwrap();
    let healthy = engine.generate(Request::text("a").max_tokens(100));
    for (request, expected) in [
        (Request::text("boo"), "encode"),
        (Request::messages([Message::user("a")]), "render"),
        (Request::tokens([41]).max_tokens(3), "decode"),
        (
            Request::tokens([41]).max_tokens(3).temperature(1.0).n(3),
            "decode",
        ),
    ] {
        match engine.generate(request).wait().unwrap_err() {
            Error::Panicked {
                part: "tokenizer",
                message,
            } => assert_eq!(message, expected),
            other => panic!("{other}"),
        }
    }
    assert_eq!(healthy.wait().unwrap().ids().len(), 100);
    drained(&engine);
}

#[test]
fn parts_that_panic_where_all_requests_meet_end_every_stream_with_a_word() {
    use llmserve::{Counter, Gauge, Histogram, Recorder};
    struct Angry;
    impl Counter for Angry {
        fn add(&self, _: u64) {}
    }
    impl Gauge for Angry {
        fn set(&self, _: f64) {}
    }
    impl Histogram for Angry {
        fn record(&self, _: f64) {
            panic!("no records");
        }
    }
    impl Recorder for Angry {
        fn counter(
            &self,
            _: &'static str,
            _: &'static str,
            _: &[(&str, &str)],
        ) -> Arc<dyn Counter> {
            Arc::new(Angry)
        }
        fn gauge(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Gauge> {
            Arc::new(Angry)
        }
        fn histogram(
            &self,
            _: &'static str,
            _: &'static str,
            _: &'static [f64],
            _: &[(&str, &str)],
        ) -> Arc<dyn Histogram> {
            Arc::new(Angry)
        }
    }
    /// Panics again when the engine lets go of it.
    struct Bomb;
    impl LogitsProcessor for Bomb {
        fn process(&self, _: &LogitsContext<'_>, _: &mut [f32]) {}
    }
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !thread::panicking() {
                panic!("dropped");
            }
        }
    }
    let engine = builder(PageModel::greedy(cycle), Sizes::default())
        .recorder(Arc::new(Angry))
        .build()
        .unwrap();
    let streams: Vec<_> = (0..5)
        .map(|_| engine.generate(Request::text("a").processor(Arc::new(Bomb))))
        .collect();
    for stream in streams {
        let error = stream.wait().unwrap_err();
        assert!(
            matches!(&error, Error::Panicked { .. } | Error::ShutDown),
            "{error}"
        );
    }
    engine.drain();
    assert!(engine.generate(Request::text("a")).wait().is_err());
}

#[test]
fn a_long_text_does_not_delay_short_prompts() {
    use llmserve::{RenderOptions, Tokenizer, TokenizerError};
    /// Encodes long texts only once told to.
    struct Slow(Gate);
    impl Tokenizer for Slow {
        fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TokenizerError> {
            if text.len() > 100_000 {
                self.0.wait();
            }
            Letters.encode(text, special)
        }
        fn decode(&self, ids: &[u32], skip: bool) -> Result<String, TokenizerError> {
            Letters.decode(ids, skip)
        }
        fn render(
            &self,
            messages: &[Message],
            o: &RenderOptions,
        ) -> Result<String, TokenizerError> {
            Letters.render(messages, o)
        }
    }
    let gate = Gate::default();
    let engine = builder(PageModel::greedy(cycle), Sizes::default())
        .tokenizer(Arc::new(Slow(gate.clone())))
        .build()
        .unwrap();
    let long = engine.generate(Request::text("a".repeat(200_000)));
    let short = engine
        .generate(Request::text("abc").max_tokens(2))
        .wait()
        .unwrap();
    assert_eq!(short.ids().len(), 2);
    gate.open();
    let error = long.wait().unwrap_err();
    assert!(
        matches!(
            error,
            Error::PromptTooLong {
                tokens: 200_001,
                ..
            }
        ),
        "{error}"
    );
    drained(&engine);
}

#[test]
fn more_requests_than_any_queue_holds_are_served_where_no_limit_is_set() {
    let scheduler = llmserve::sched::ContinuousScheduler::builder().max_queue(None);
    let root = llmserve::IdentityRoot::new(1, "tokens", 16);
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(256)
        .block_size(16)
        .root(root);
    let engine = Engine::builder(PageModel::greedy(cycle))
        .kv(kv.build().unwrap())
        .scheduler(scheduler.build().unwrap())
        .max_intake(usize::MAX)
        .build()
        .unwrap();
    let streams: Vec<_> = (0..20_000u32)
        .map(|i| engine.generate(Request::tokens([2 + i % 60]).max_tokens(1)))
        .collect();
    assert!(streams.into_iter().all(|stream| stream.wait().is_ok()));
    drained(&engine);
}

#[test]
fn an_async_host_polls_the_same_stream() {
    use futures_core::Stream;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};
    let engine = engine(PageModel::greedy(cycle), Sizes::default());
    let mut stream = pin!(engine.generate(Request::text("a").max_tokens(3)));
    let mut events = 0;
    loop {
        match stream
            .as_mut()
            .poll_next(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(Some(event)) => {
                event.unwrap();
                events += 1;
            }
            Poll::Ready(None) => break,
            Poll::Pending => thread::yield_now(),
        }
    }
    assert_eq!(events, 1 + 3 + 1);
}
