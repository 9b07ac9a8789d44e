//! What the threads around one request share, in every order in which they could use it:
//! `RUSTFLAGS="--cfg loom" cargo test -p llmserve-cache --lib interleavings`.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};

use loom::future::block_on;
use loom::thread;

use super::*;

/// An answer that counts how often it was dropped.
struct Dropped(Arc<AtomicUsize>);

impl Stream for Dropped {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(None)
    }
}

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn ticket() -> Arc<Ticket> {
    Arc::new(Ticket::new(Request::text("Hi"), Duration::ZERO))
}

#[test]
fn a_reader_is_woken_for_its_answer() {
    loom::model(|| {
        let (ticket, dropped) = (ticket(), Arc::new(AtomicUsize::new(0)));
        let answer = EventStream::new(Dropped(dropped.clone()));
        let keeper = thread::spawn({
            let ticket = ticket.clone();
            move || {
                assert!(ticket.take().is_some());
                ticket.hand(answer);
            }
        });
        let answer = block_on(poll_fn(|cx| ticket.poll(cx)));
        assert!(answer.is_some());
        assert_eq!(dropped.load(Ordering::SeqCst), 0);
        keeper.join().unwrap();
    });
}

#[test]
fn a_reader_that_leaves_is_not_asked_for_or_its_answer_is_dropped() {
    loom::model(|| {
        let (ticket, dropped) = (ticket(), Arc::new(AtomicUsize::new(0)));
        let answer = EventStream::new(Dropped(dropped.clone()));
        let keeper = thread::spawn({
            let ticket = ticket.clone();
            move || {
                let taken = ticket.take().is_some();
                if taken {
                    ticket.hand(answer);
                }
                taken
            }
        });
        let waited = ticket.leave();
        let taken = keeper.join().unwrap();
        assert_ne!(waited, taken);
        assert_eq!(dropped.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn of_an_error_and_an_answer_a_reader_has_one() {
    loom::model(|| {
        let ticket = ticket();
        let failing = thread::spawn({
            let ticket = ticket.clone();
            move || ticket.fail(Error::ShutDown)
        });
        if ticket.take().is_some() {
            ticket.hand(EventStream::ready([]));
        }
        failing.join().unwrap();
        let answer = block_on(poll_fn(|cx| ticket.poll(cx)));
        assert!(answer.is_some());
    });
}

#[test]
fn a_use_ends_once_and_not_under_its_caller() {
    loom::model(|| {
        let lasts = Arc::new(Lasts::new());
        let returned = Arc::new(loom::sync::atomic::AtomicBool::new(false));
        let service = thread::spawn({
            let (lasts, returned) = (lasts.clone(), returned.clone());
            move || {
                let ends = lasts.done();
                assert!(!ends || returned.load(Ordering::SeqCst));
                usize::from(ends)
            }
        });
        returned.store(true, Ordering::SeqCst);
        let mut ends = usize::from(lasts.called());
        ends += usize::from(lasts.done());
        ends += service.join().unwrap();
        ends += usize::from(lasts.dropped());
        assert_eq!(ends, 1);
    });
}
