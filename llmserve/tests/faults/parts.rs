//! Parts of hosts that panic or refuse.

use std::sync::Arc;
use std::thread;

use llmserve::prelude::*;
use llmserve::{LogitsContext, LogitsProcessor};

use super::cycle;
use super::support::{Letters, PageModel, Sizes, builder, drained, engine};

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
fn a_kv_manager_that_refuses_ends_the_request_and_never_hangs() {
    use llmserve::kv::PagedKv;
    use llmserve::{
        BlockEvent, BlockId, BlockTables, Demand, GroupId, KvError, KvLayout, KvManager, KvStats,
        PageOp, PrefixScope, SequenceId,
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
        fn prefix(&self, id: SequenceId) -> usize {
            self.0.prefix(id)
        }
        fn demand(&self, id: SequenceId, tokens: usize) -> Result<Demand, KvError> {
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
    let kv = llmserve::kv::PagedKv::builder()
        .blocks(512)
        .block_size(16)
        .root(llmserve::IdentityRoot::new(1, "tokens", 16))
        .events(true);
    let engine = builder(PageModel::greedy(cycle), Sizes::default())
        .kv(kv.build().unwrap())
        .on_block_events(|_| panic!("no events"))
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
fn a_recorder_that_panics_is_not_heard_and_stops_nothing() {
    use llmserve::{Counter, Gauge, Histogram, Recorder};

    /// Makes its instruments, unless it is broken itself.
    struct Broken(bool);
    struct Instrument;
    impl Counter for Instrument {
        fn add(&self, _: u64) {
            panic!("on purpose")
        }
    }
    impl Gauge for Instrument {
        fn set(&self, _: f64) {
            panic!("on purpose")
        }
    }
    impl Histogram for Instrument {
        fn record(&self, _: f64) {
            panic!("on purpose")
        }
    }
    impl Broken {
        fn instrument(&self) -> Arc<Instrument> {
            assert!(!self.0, "on purpose");
            Arc::new(Instrument)
        }
    }
    impl Recorder for Broken {
        fn counter(
            &self,
            _: &'static str,
            _: &'static str,
            _: &[(&str, &str)],
        ) -> Arc<dyn Counter> {
            self.instrument()
        }
        fn gauge(&self, _: &'static str, _: &'static str, _: &[(&str, &str)]) -> Arc<dyn Gauge> {
            self.instrument()
        }
        fn histogram(
            &self,
            _: &'static str,
            _: &'static str,
            _: &'static [f64],
            _: &[(&str, &str)],
        ) -> Arc<dyn Histogram> {
            self.instrument()
        }
    }

    for broken in [false, true] {
        let engine = builder(PageModel::greedy(cycle), Sizes::default())
            .recorder(Arc::new(Broken(broken)))
            .build()
            .unwrap();
        for _ in 0..3 {
            let answer = engine.generate(Request::text("a").max_tokens(9)).wait();
            assert_eq!(answer.unwrap().ids().len(), 9);
        }
        drained(&engine);
    }
}
