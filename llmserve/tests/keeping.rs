//! Prefixes that an engine keeps: computed before anybody asks, there after a flood, and never of
//! any consequence for an answer.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use llmserve::cache::prompt::PromptLayer;
use llmserve::kv::PagedKv;
use llmserve::prelude::*;
use llmserve::sched::ContinuousScheduler;
use llmserve::{
    Batch, KeepPrefix, Keeping, KeptPrefix, KvError, KvLayout, Logits, Model, ModelError,
    ModelInfo, PageStore, Prefix, Prompt, RenderOptions, StepLimits, TokenId, Tokenizer,
    TokenizerError,
};
use support::{Gate, Letters, PageModel, Sizes, bard, builder, drained, engine};

const BLOCK: usize = 16;

/// Few blocks, so that a few prompts are a flood.
const SMALL: Sizes = Sizes {
    blocks: 32,
    block_size: BLOCK,
    max_num_seqs: 4,
    max_batched_tokens: 64,
};

/// Tokens of one family, all different from those of another from the first on.
fn tokens(family: u32, len: usize) -> Vec<TokenId> {
    let token = |at: usize| 2 + (family * 7 + at as u32 * (1 + family % 5)) % 60;
    let mut tokens: Vec<_> = (0..len).map(token).collect();
    tokens[0] = 2 + family % 60;
    tokens
}

fn prefix(family: u32, len: usize) -> Prefix {
    Prefix::new(Prompt::Tokens(tokens(family, len)))
}

/// A prompt that begins with `prefix(family, len)`.
fn after(family: u32, len: usize) -> Vec<TokenId> {
    let mut prompt = tokens(family, len);
    prompt.extend([3, 4, 5]);
    prompt
}

/// The tokens of a prompt that were found computed.
fn cached(engine: &Engine, request: Request) -> usize {
    let answer = engine.generate(request.max_tokens(2)).wait().unwrap();
    answer.choices[0].usage.cached_tokens
}

/// More prompts than the cache holds.
fn flood(engine: &Engine) {
    for family in 20..40 {
        assert_eq!(cached(engine, Request::tokens(tokens(family, 60))), 0);
    }
}

/// Waits for what comes without being waited for: an engine that computes when it is idle.
fn until(mut holds: impl FnMut() -> bool) {
    let began = Instant::now();
    while !holds() {
        assert!(began.elapsed() < Duration::from_secs(30), "it never came");
        std::thread::yield_now();
    }
}

fn reason(kept: &KeptPrefix) -> Error {
    kept.wait().expect_err("it cannot be kept")
}

#[test]
fn the_first_request_finds_what_is_kept() {
    let engine = engine(PageModel::hashing(), SMALL);
    let kept = engine.keep(prefix(1, 70));
    assert_eq!(kept.wait(), Ok(64));
    assert_eq!(cached(&engine, Request::tokens(after(1, 70))), 64);
    let stats = engine.stats();
    assert_eq!(stats.kv_blocks_pinned, 4);
    assert_eq!(stats.kv_blocks_pinned_cached, 4);
    // It was no request, and what was computed is no answer.
    assert_eq!((stats.finished_requests, stats.generation_tokens), (1, 2));
    assert_eq!(stats.prompt_tokens, 73);
    drained(&engine);
}

#[test]
fn what_is_kept_outlasts_a_flood_and_what_is_not_does_not() {
    let engine = engine(PageModel::hashing(), SMALL);
    let kept = engine.keep(prefix(1, 64));
    assert_eq!(kept.wait(), Ok(64));
    cached(&engine, Request::tokens(after(2, 64)));
    flood(&engine);
    assert_eq!(cached(&engine, Request::tokens(after(1, 64))), 64);
    assert_eq!(cached(&engine, Request::tokens(after(2, 64))), 0);
    // Let go of, it is as any other.
    drop(kept);
    until(|| engine.stats().kv_blocks_pinned == 0);
    flood(&engine);
    assert_eq!(cached(&engine, Request::tokens(after(1, 64))), 0);
    drained(&engine);
}

#[test]
fn what_many_prompts_share_is_kept_by_a_layer_until_it_goes() {
    let engine = engine(PageModel::hashing(), SMALL);
    let layer = PromptLayer::builder(engine.clone()).keeper(engine.clone());
    let layer = layer.build().unwrap();
    let asked = |question: u32| {
        let mut prompt = tokens(1, 64);
        prompt.extend([10 + question, 3]);
        Request::tokens(prompt).max_tokens(2)
    };
    for question in 0..4 {
        layer.generate(asked(question)).wait().unwrap();
    }
    assert_eq!(layer.stats().automatic, 1);
    until(|| engine.stats().kv_blocks_pinned_cached == 4);
    flood(&engine);
    let late = layer.generate(asked(9)).wait().unwrap();
    assert_eq!(late.choices[0].usage.cached_tokens, 64);
    assert_eq!(layer.stats().hits, 1);
    drop(layer);
    until(|| engine.stats().kv_blocks_pinned == 0);
    drained(&engine);
}

#[test]
fn two_who_keep_the_same_share_it_and_each_lets_go() {
    let engine = engine(PageModel::hashing(), SMALL);
    let short = engine.keep(prefix(1, 64));
    let long = engine.keep(prefix(1, 100));
    let again = engine.keep(prefix(1, 100));
    assert_eq!(
        [short.wait(), long.wait(), again.wait()],
        [Ok(64), Ok(96), Ok(96)]
    );
    assert_eq!(engine.stats().kv_blocks_pinned, 6);
    drop(long);
    flood(&engine);
    assert_eq!(engine.stats().kv_blocks_pinned, 6);
    drop(again);
    until(|| engine.stats().kv_blocks_pinned == 4);
    flood(&engine);
    assert_eq!(cached(&engine, Request::tokens(after(1, 100))), 64);
    drained(&engine);
}

#[test]
fn tenants_keep_their_own() {
    let engine = engine(PageModel::hashing(), SMALL);
    let kept = engine.keep(prefix(1, 64).tenant("a"));
    assert_eq!(kept.wait(), Ok(64));
    let of = |tenant| Request::tokens(after(1, 64)).tenant(tenant);
    assert_eq!(cached(&engine, of("b")), 0);
    flood(&engine);
    assert_eq!(cached(&engine, of("a")), 64);
    assert_eq!(cached(&engine, of("b")), 0);
    assert_eq!(cached(&engine, Request::tokens(after(1, 64))), 0);
    drained(&engine);
}

#[test]
fn what_had_to_make_room_is_computed_again_when_there_is_nothing_else_to_do() {
    let engine = engine(PageModel::hashing(), SMALL);
    let kept = engine.keep(prefix(1, 160));
    assert_eq!(kept.wait(), Ok(160));
    // All blocks but two.
    let long = Request::tokens(tokens(2, 470)).max_tokens(2);
    assert_eq!(engine.generate(long).wait().unwrap().ids().len(), 2);
    let stats = || engine.stats();
    until(|| stats().kv_blocks_pinned_cached == stats().kv_blocks_pinned);
    assert_eq!(cached(&engine, Request::tokens(after(1, 160))), 160);
    assert!(matches!(kept.keeping(), Keeping::Ready { tokens: 160 }));

    // After a reset as well; that a prefix is being computed does not stand in its way.
    engine.reset_prefix_cache().unwrap();
    engine.reset_prefix_cache().unwrap();
    until(|| stats().kv_blocks_pinned_cached == stats().kv_blocks_pinned);
    assert_eq!(cached(&engine, Request::tokens(after(1, 160))), 160);
    // And that is all it does.
    let steps = stats().steps;
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(stats().steps, steps);
    drained(&engine);
}

#[test]
fn whoever_waits_comes_first_and_nothing_computed_by_then_is_lost() {
    // A gate for each step, and the lengths of the contexts that were asked about.
    let (gate, asked) = (Gate::default(), Arc::new(AtomicUsize::new(0)));
    let (held, seen) = (gate.clone(), asked.clone());
    let model = PageModel::new(Arc::new(move |context, logits| {
        held.wait();
        seen.fetch_max(context.len(), Ordering::SeqCst);
        support::hash_logits(context, logits);
        Ok(())
    }));
    let sizes = Sizes {
        max_num_seqs: 1,
        ..SMALL
    };
    let engine = engine(model, sizes);
    // Runs, and is held by the gate in its first step.
    let first = engine.generate(Request::tokens([9]).max_tokens(30).ignore_eos(true));
    let kept = engine.keep(prefix(1, 200));
    let second = engine.generate(Request::tokens([8]).max_tokens(30).ignore_eos(true));
    assert!(matches!(kept.keeping(), Keeping::Pending));
    gate.open();
    assert_eq!(second.wait().unwrap().ids().len(), 30);
    assert_eq!(first.wait().unwrap().ids().len(), 30);
    assert_eq!(kept.wait(), Ok(192));
    // Nothing is ever picked for a prefix.
    assert!(asked.load(Ordering::SeqCst) < 60);
    drained(&engine);
}

#[test]
fn requests_may_be_what_computes_a_prefix() {
    let gate = Gate::default();
    let held = gate.clone();
    let model = PageModel::new(Arc::new(move |context, logits| {
        held.wait();
        support::hash_logits(context, logits);
        Ok(())
    }));
    let engine = engine(model, SMALL);
    let streams: Vec<EventStream> = (0..3)
        .map(|_| engine.generate(Request::tokens(after(1, 64)).max_tokens(3).n(2)))
        .collect();
    let kept = engine.keep(prefix(1, 64));
    gate.open();
    assert_eq!(kept.wait(), Ok(64));
    streams.into_iter().for_each(|stream| drop(stream.wait()));
    flood(&engine);
    assert_eq!(cached(&engine, Request::tokens(after(1, 64))), 64);
    drained(&engine);
}

#[test]
fn what_cannot_be_kept_says_why() {
    let first = engine(PageModel::hashing(), SMALL);
    let long = first.keep(prefix(1, 512));
    assert!(matches!(
        reason(&long),
        Error::PromptTooLong { tokens: 512, .. }
    ));
    let wild = first.keep(Prefix::new(Prompt::Tokens(vec![2, 99])));
    assert!(matches!(reason(&wild), Error::InvalidRequest { .. }));
    // Half of the blocks may be pinned.
    let half = first.keep(prefix(1, 200));
    assert_eq!(half.wait(), Ok(192));
    let more = first.keep(prefix(2, 96));
    let too_many = KvError::TooManyPinned {
        pinned: 12,
        wanted: 6,
        limit: 16,
    };
    assert_eq!(reason(&more), Error::Kv(too_many));
    let none = first.keep(prefix(3, 15));
    assert_eq!(none.wait(), Ok(0));
    assert_eq!(
        first.keep(Prefix::new(Prompt::Tokens(vec![]))).wait(),
        Ok(0)
    );
    drop((long, wild, more, none));
    assert_eq!(first.stats().kv_blocks_pinned, 12);
    drained(&first);

    // A prefix that no step can compute: its prompts would be refused as well.
    let scheduler = ContinuousScheduler::builder()
        .chunked_prefill(false)
        .max_batched_tokens(64);
    let second = builder(PageModel::hashing(), SMALL)
        .scheduler(scheduler.build().unwrap())
        .build()
        .unwrap();
    let wide = second.keep(prefix(1, 80));
    assert!(matches!(reason(&wide), Error::InvalidRequest { .. }));
    until(|| second.stats().kv_blocks_pinned == 0);
    assert_eq!(second.keep(prefix(1, 64)).wait(), Ok(64));
    drained(&second);
}

#[test]
fn without_prefix_caching_nothing_is_kept_and_that_is_said() {
    let kv = PagedKv::builder().blocks(32).prefix_caching(false);
    let engine = builder(PageModel::hashing(), SMALL)
        .kv(kv.build().unwrap())
        .build()
        .unwrap();
    let kept = engine.keep(prefix(1, 64));
    assert_eq!(kept.wait(), Ok(0));
    assert_eq!(cached(&engine, Request::tokens(after(1, 64))), 0);
    drop(kept);
    drained(&engine);
}

#[test]
fn a_template_that_refuses_and_a_tokenizer_that_panics_fail_the_prefix_alone() {
    struct Strict;
    impl Tokenizer for Strict {
        fn encode(&self, text: &str, special: bool) -> Result<Vec<TokenId>, TokenizerError> {
            assert!(!text.contains('z'), "no z");
            Letters.encode(text, special)
        }
        fn decode(&self, ids: &[TokenId], skip: bool) -> Result<String, TokenizerError> {
            Letters.decode(ids, skip)
        }
        fn render(&self, all: &[Message], _: &RenderOptions) -> Result<String, TokenizerError> {
            match all.iter().find(|message| message.role == "system") {
                Some(_) => Err(TokenizerError::Template("no system here".into())),
                None => Ok(all.iter().map(|m| m.content.as_str()).collect()),
            }
        }
    }
    let engine = builder(PageModel::hashing(), SMALL)
        .tokenizer(Arc::new(Strict))
        .build()
        .unwrap();
    let refused = engine.keep(Prefix::messages([Message::system("be brief")]));
    assert!(matches!(
        reason(&refused),
        Error::Tokenizer(TokenizerError::Template(_))
    ));
    let panicked = engine.keep(Prefix::text("zzz"));
    assert!(matches!(
        reason(&panicked),
        Error::Panicked {
            part: "tokenizer",
            ..
        }
    ));
    let user = Message::user("a question that is asked again and again");
    let kept = engine.keep(Prefix::messages([user.clone()]));
    assert_eq!(kept.wait(), Ok(32));
    let messages = [user, Message::assistant("yes"), Message::user("why")];
    assert_eq!(cached(&engine, Request::messages(messages)), 32);
    drained(&engine);
}

#[test]
fn a_step_that_fails_is_told_and_the_next_try_succeeds() {
    struct Failing(PageModel, Arc<AtomicBool>);
    impl Model for Failing {
        fn info(&self) -> &ModelInfo {
            self.0.info()
        }
        fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError> {
            self.0.prepare(layout, limits)
        }
        fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
            let logits = self.0.submit(batch)?;
            let fails = batch.rows[0].start > 0 && self.1.load(Ordering::SeqCst);
            match fails {
                true => Err(ModelError::Backend("on purpose".into())),
                false => Ok(logits),
            }
        }
        fn pages(&mut self) -> &mut dyn PageStore {
            self.0.pages()
        }
    }
    let fails = Arc::new(AtomicBool::new(true));
    let engine = engine(Failing(PageModel::hashing(), fails.clone()), SMALL);
    let kept = engine.keep(prefix(1, 160));
    assert!(matches!(reason(&kept), Error::Model(_)));
    until(|| engine.stats().kv_blocks_pinned == 0);
    assert_eq!(engine.stats().failed_requests, 0);
    fails.store(false, Ordering::SeqCst);
    drop(kept);
    let again = engine.keep(prefix(1, 160));
    assert_eq!(again.wait(), Ok(160));
    assert_eq!(cached(&engine, Request::tokens(after(1, 160))), 160);
    drained(&engine);
}

#[test]
fn a_guard_that_is_dropped_takes_its_computation_with_it() {
    let engine = engine(PageModel::hashing(), SMALL);
    for round in 0..50 {
        let kept = engine.keep(prefix(round, 200));
        if round % 3 == 0 {
            until(|| engine.stats().kv_blocks_pinned > 0);
        }
        drop(kept);
    }
    until(|| engine.stats().kv_blocks_pinned == 0);
    until(|| engine.stats().kv_blocks_held == 0);
    assert_eq!(cached(&engine, Request::tokens([5, 6])), 0);
    drained(&engine);
}

#[test]
fn an_engine_that_ends_tells_all_guards_and_waits_for_none() {
    type End = fn(Engine);
    let ends: [End; 3] = [
        |engine| engine.drain(),
        |engine| engine.shutdown(),
        |engine| drop(engine),
    ];
    for end in ends {
        let engine = engine(PageModel::hashing(), SMALL);
        let ready = engine.keep(prefix(1, 64));
        assert_eq!(ready.wait(), Ok(64));
        let others: Vec<KeptPrefix> = (2..5)
            .map(|family| engine.keep(prefix(family, 64)))
            .collect();
        let again = engine.clone();
        end(engine);
        drop(again);
        for kept in &others {
            // Some may have come to be ready before.
            while !matches!(kept.keeping(), Keeping::Failed(Error::ShutDown)) {
                let _ = kept.wait();
                std::thread::yield_now();
            }
        }
        until(|| matches!(ready.keeping(), Keeping::Failed(Error::ShutDown)));
    }
    let engine = engine(PageModel::hashing(), SMALL);
    engine.drain();
    assert_eq!(reason(&engine.keep(prefix(1, 64))), Error::ShutDown);
}

#[test]
fn an_engine_that_fails_tells_why() {
    use llmserve::{
        KvManager, Refusal, SchedRequest, Scheduler, SchedulerCounts, StepOutcome, StepPlan, Time,
    };
    struct Broken;
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
            panic!("no plan");
        }
        fn commit(&mut self, _: &StepOutcome, _: &mut dyn KvManager) {}
        fn counts(&self) -> SchedulerCounts {
            SchedulerCounts::default()
        }
    }
    let engine = builder(PageModel::hashing(), SMALL)
        .scheduler(Broken)
        .build()
        .unwrap();
    let kept = engine.keep(prefix(1, 64));
    let error = reason(&kept);
    assert!(matches!(
        error,
        Error::Panicked {
            part: "scheduler",
            ..
        }
    ));
    engine.shutdown();
    assert_eq!(reason(&engine.keep(prefix(1, 64))), error);
    // The guard of an engine that is no more.
    drop(kept);
}

#[test]
fn a_queue_of_one_refuses_nobody_for_the_sake_of_a_prefix() {
    let scheduler = ContinuousScheduler::builder()
        .max_num_seqs(1)
        .max_batched_tokens(16)
        .max_queue(Some(1));
    let engine = builder(PageModel::hashing(), SMALL)
        .scheduler(scheduler.build().unwrap())
        .build()
        .unwrap();
    let kept = engine.keep(prefix(1, 200));
    for family in 2..12 {
        let answer = engine
            .generate(Request::tokens(tokens(family, 30)).max_tokens(4))
            .wait();
        assert!(answer.is_ok(), "{answer:?}");
    }
    assert_eq!(kept.wait(), Ok(192));
    drained(&engine);
}

/// What a model says with and without prefixes kept, under little memory, chunks and preemptions.
#[test]
fn keeping_changes_no_answer() {
    let answers = |keeps: bool| {
        let sizes = Sizes {
            blocks: 24,
            ..SMALL
        };
        let engine = engine(PageModel::hashing(), sizes);
        let mut kept = Vec::new();
        let mut streams = Vec::new();
        for family in 0..24u32 {
            if keeps {
                kept.push(engine.keep(prefix(family % 5, 48)));
                if family % 4 == 3 {
                    drop(kept.remove(0));
                }
            }
            let request = Request::tokens(after(family % 6, 48)).max_tokens(60);
            // Without a seed of its own it has one by its place among the requests.
            streams.push(engine.generate(request.temperature(0.9).n(1 + family as usize % 3)));
        }
        let ids: Vec<_> = streams
            .into_iter()
            .map(|stream| {
                let answer = stream.wait().unwrap();
                answer
                    .choices
                    .into_iter()
                    .map(|c| c.ids)
                    .collect::<Vec<_>>()
            })
            .collect();
        drop(kept);
        drained(&engine);
        ids
    };
    assert_eq!(answers(true), answers(false));
}

#[test]
fn a_real_model_answers_the_same_and_has_its_prompts_beginning_at_hand() {
    let system = Message::system("You are the prompter of a small theatre. ".repeat(6));
    let question = Message::user("Who is there?");
    let asks = || Request::messages([system.clone(), question.clone()]).max_tokens(12);
    let build = || serve(bard()).kv_blocks(64).block_size(16).build();
    let Ok(plain) = build() else {
        panic!("the embedded model loads");
    };
    let expected = plain.generate(asks()).wait();
    drained(&plain);
    let engine = build().expect("as before");
    match expected {
        Ok(expected) => {
            let kept = engine.keep(Prefix::messages([system.clone()]));
            let tokens = kept.wait().expect("the template takes it");
            assert!(tokens >= 32, "{tokens}");
            let answer = engine.generate(asks()).wait().expect("as before");
            assert_eq!(answer.choices[0].usage.cached_tokens, tokens);
            assert_eq!(answer.ids(), expected.ids());
            let open = engine.keep(Prefix::messages([system.clone()]).open());
            assert!(open.wait().expect("so does it take this") <= tokens);
        }
        Err(error) => {
            // A model without a chat template.
            let kept = engine.keep(Prefix::messages([system.clone()]));
            assert_eq!(reason(&kept), error);
        }
    }
    let text = "Enter HAMLET, reading, and behind him a player who has forgotten all his lines. ";
    let kept = engine.keep(Prefix::text(text.repeat(3)));
    let tokens = kept.wait().expect("a text can be kept");
    assert!(tokens >= 32, "{tokens}");
    for end in ["HAMLET.", " And", "\n", "12"] {
        let request = Request::text(format!("{}{end}", text.repeat(3)));
        assert_eq!(cached(&engine, request), tokens, "{end:?}");
    }
    drained(&engine);
}
