//! Entries of known content, and stores to find them in.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use llmserve_cache::{Answer, DiskStore, Entry, Key, Lookup, Stamp, Store};
use llmserve_core::{Event, Request, TextEvent};

pub(crate) const CAPACITY: usize = 1 << 20;

pub(crate) fn open(folder: &Path) -> DiskStore {
    DiskStore::builder(folder)
        .capacity(CAPACITY)
        .time_limit(Duration::from_secs(10))
        .build()
        .unwrap()
}

pub(crate) fn key(number: usize) -> Arc<Key> {
    Arc::new(Key::new("", &Request::text(number.to_string())).unwrap())
}

/// A page or two, all of it the number's.
fn answer(number: usize) -> Answer {
    let text = format!("{number},").repeat(500 + number % 500);
    Answer::new(&[Event::Text(TextEvent { index: 0, text })]).unwrap()
}

pub(crate) fn entry(number: usize, stamp: Stamp) -> Entry {
    Entry::new(key(number), answer(number), stamp)
}

/// What the store finds, which must be what was put.
#[track_caller]
pub(crate) fn found(store: &DiskStore, number: usize) -> Option<Entry> {
    let entry = match store.get(&key(number)) {
        Lookup::Ready(found) => found,
        Lookup::Pending(lookup) => block_on(lookup),
        _ => None,
    }?;
    assert_eq!(entry.answer, answer(number), "{number} is wrong");
    Some(entry)
}

/// How many of them are there, and right.
#[track_caller]
pub(crate) fn check(store: &DiskStore, numbers: std::ops::Range<usize>) -> usize {
    numbers
        .filter(|&number| found(store, number).is_some())
        .count()
}

pub(crate) fn bytes_in(folder: &Path) -> usize {
    let size = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        metadata if metadata.is_dir() => bytes_in(&entry.path()),
        metadata => metadata.len() as usize,
    };
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| size(entry.unwrap()))
        .sum()
}

fn block_on<T>(mut future: impl Future<Output = T> + Unpin) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}
