//! What a host gets when it serves: the engine over the real scheduler and KV manager, with a model
//! whose output depends on every slot of its pages.

mod support;

use std::sync::Arc;
use std::sync::Mutex;

use llmserve::MemoryRecorder;
use llmserve::prelude::*;
use support::{EOS, Gate, PageModel, Sizes, VOCAB, builder, drained, engine, hash_logits};

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
