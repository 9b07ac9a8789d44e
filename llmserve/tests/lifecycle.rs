//! How requests and engines come to an end: cancelled, expired, drained, shut down, overloaded.

mod support;

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use llmserve::ManualClock;
use llmserve::prelude::*;
use support::{EOS, Gate, Letters, PageModel, Sizes, builder, drained, engine, hash_logits};

fn cycle(context: &[u32]) -> u32 {
    2 + (context.len() as u32 % 26)
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
