//! What threads share, in every order in which they could use it.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test -p llmserve-core --lib interleavings
//! ```
//!
//! Loom runs the body of a test once for each order of its threads' steps on locks, condition
//! variables and atomics, with the values that the memory model lets them see, and a test fails if
//! in any of them a thread waits for ever. The command channel is crossbeam's own and counts as one
//! step.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use crossbeam_channel::Receiver;
use futures_core::Stream;
use loom::future::block_on;
use loom::thread;

use super::channel::{Sink, Source, pair};
use super::prefixes::Guarded;
use super::{Command, EngineStats, Place, Shared};
use crate::contract::generate::EventStream;
use crate::contract::merge::merge;
use crate::contract::model::{KvGroupSpec, ModelInfo};
use crate::contract::prefix::Keeping;
use crate::error::Error;
use crate::event::{Event, Started};

fn shared() -> (Arc<Shared>, Receiver<Command>) {
    let (commands, received) = crossbeam_channel::unbounded();
    let info = ModelInfo::new("explored", 2, 2, KvGroupSpec::full(1, "f32"));
    let stats = EngineStats::default();
    (Arc::new(Shared::new(info, commands, stats)), received)
}

fn stream() -> (Sink, Source, Arc<Shared>, Receiver<Command>) {
    let (shared, commands) = shared();
    let (sink, source) = pair(7, shared.clone());
    (sink, source, shared, commands)
}

/// An event that says which it is.
fn event(number: u32) -> Event {
    Event::Started(Started {
        prompt_ids: [number].into(),
        ..Default::default()
    })
}

fn number(event: &Event) -> u32 {
    match event {
        Event::Started(started) => started.prompt_ids[0],
        other => panic!("{other:?} was never sent"),
    }
}

async fn next(source: &mut Source) -> Option<Result<Event, Error>> {
    poll_fn(|cx| Pin::new(&mut *source).poll_next(cx)).await
}

/// The numbers of the events up to the end, and the error at it.
async fn read(source: &mut Source) -> (Vec<u32>, Option<Error>) {
    let mut numbers = Vec::new();
    while let Some(event) = next(source).await {
        match event {
            Ok(event) => numbers.push(number(&event)),
            Err(error) => return (numbers, Some(error)),
        }
    }
    (numbers, None)
}

#[test]
fn a_reader_gets_every_event_in_order_and_the_end() {
    loom::model(|| {
        let (sink, mut source, ..) = stream();
        let engine = thread::spawn(move || {
            sink.send_all(&mut vec![event(1), event(2)]);
            sink.send_all(&mut vec![event(3)]);
            sink.close();
        });
        let (numbers, error) = block_on(read(&mut source));
        assert_eq!(numbers, [1, 2, 3]);
        assert!(error.is_none());
        engine.join().expect("it does not panic");
    });
}

#[test]
fn a_reader_learns_why_a_request_was_dropped() {
    loom::model(|| {
        let (sink, mut source, shared, _commands) = stream();
        let engine = thread::spawn(move || {
            sink.send_all(&mut vec![event(1)]);
            shared.state.lock().failure = Some(Error::Cancelled);
            drop(sink);
        });
        let (numbers, error) = block_on(read(&mut source));
        assert_eq!(numbers, [1]);
        assert_eq!(error.map(|error| error.kind()), Some("cancelled"));
        engine.join().expect("it does not panic");
    });
}

#[test]
fn a_reader_that_moved_to_another_task_is_the_one_woken() {
    loom::model(|| {
        let (sink, mut source, ..) = stream();
        let engine = thread::spawn(move || {
            sink.send_all(&mut vec![event(1)]);
            sink.close();
        });
        // A task that nobody will run again.
        let first = match Pin::new(&mut source).poll_next(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(event))) => vec![number(&event)],
            Poll::Ready(other) => panic!("{other:?} was never sent"),
            Poll::Pending => Vec::new(),
        };
        let (rest, error) = block_on(read(&mut source));
        assert_eq!([first, rest].concat(), [1]);
        assert!(error.is_none());
        engine.join().expect("it does not panic");
    });
}

#[test]
fn a_reader_that_goes_cancels_what_is_not_at_its_end() {
    loom::model(|| {
        let (sink, source, _shared, commands) = stream();
        let reader = thread::spawn(move || drop(source));
        sink.send_all(&mut vec![event(1)]);
        reader.join().expect("it does not panic");
        assert!(sink.is_cancelled());
        assert!(matches!(commands.try_recv(), Ok(Command::Cancel(7))));
        assert!(commands.is_empty());
    });
}

#[test]
fn a_reader_that_goes_at_the_end_cancels_at_most_once() {
    loom::model(|| {
        let (sink, source, _shared, commands) = stream();
        let reader = thread::spawn(move || drop(source));
        sink.send_all(&mut vec![event(1)]);
        let cancelled = sink.is_cancelled();
        sink.close();
        reader.join().expect("it does not panic");
        let told = commands.try_iter().count();
        assert!(
            (usize::from(cancelled)..=1).contains(&told),
            "{told} commands"
        );
    });
}

#[test]
fn a_request_is_refused_only_while_all_places_are_taken() {
    loom::model(|| {
        let (shared, _commands) = shared();
        let take = |shared: &Arc<Shared>| Place::take(shared, 1);
        let held = take(&shared).ok().expect("a place is free");
        let other = {
            let shared = shared.clone();
            thread::spawn(move || take(&shared).ok())
        };
        // Whoever asks when the place was given back gets it, or somebody else has it.
        drop(held);
        let mine = take(&shared).ok();
        let theirs = other.join().expect("it does not panic");
        assert_eq!(
            usize::from(mine.is_some()) + usize::from(theirs.is_some()),
            1
        );
        drop((mine, theirs));
        assert!(take(&shared).is_ok(), "a place was lost");
    });
}

#[test]
fn everyone_who_waits_for_the_end_is_told() {
    loom::model(|| {
        let (shared, _commands) = shared();
        let waiter = {
            let shared = shared.clone();
            thread::spawn(move || shared.wait())
        };
        let engine = {
            let shared = shared.clone();
            thread::spawn(move || shared.has_stopped())
        };
        shared.wait();
        waiter.join().expect("it does not panic");
        engine.join().expect("it does not panic");
    });
}

#[test]
fn whoever_waits_for_a_prefix_is_told_whatever_becomes_of_it() {
    for ready in [true, false] {
        loom::model(move || {
            let (shared, commands) = shared();
            let (guard, guarded) = Guarded::pair(7, &shared);
            let waiter = thread::spawn(move || guard.wait());
            if ready {
                guarded.close(Keeping::Ready { tokens: 32 });
            } else {
                drop(guarded);
            }
            let told = waiter.join().expect("it does not panic");
            let expected = if ready { Ok(32) } else { Err(Error::ShutDown) };
            assert_eq!(told, expected);
            assert!(matches!(commands.try_recv(), Ok(Command::LetGo(7))));
        });
    }
}

#[test]
fn a_prefix_in_the_intake_learns_that_its_guard_is_gone() {
    loom::model(|| {
        let (shared, commands) = shared();
        let (guard, guarded) = Guarded::pair(7, &shared);
        let host = thread::spawn(move || drop(guard));
        let _ = guarded.is_gone();
        host.join().expect("it does not panic");
        // Seen by then or not, it is for good, and the engine hears of it.
        assert!(guarded.is_gone());
        assert!(matches!(commands.try_recv(), Ok(Command::LetGo(7))));
    });
}

#[test]
fn merged_streams_lose_nothing_of_either() {
    // Two threads and a condition variable have many orders: those with at most two switches away
    // from a thread that could have gone on.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(2);
    model.check(|| {
        let (shared, _commands) = shared();
        let (sinks, sources): (Vec<_>, Vec<_>) =
            (0..2).map(|key| pair(key, shared.clone())).unzip();
        let engines: Vec<_> = (0..)
            .zip(sinks)
            .map(|(number, sink)| {
                thread::spawn(move || {
                    sink.send_all(&mut vec![event(number)]);
                    sink.close();
                })
            })
            .collect();
        let merged = merge(sources.into_iter().map(EventStream::new));
        let mut seen: Vec<(usize, u32)> = merged
            .map(|(index, event)| (index, number(&event.expect("no error was sent"))))
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [(0, 0), (1, 1)]);
        for engine in engines {
            engine.join().expect("it does not panic");
        }
    });
}
