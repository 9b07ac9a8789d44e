//! What somebody put where a store of answers keeps its own: an entry of its size, or a reason why
//! it is none.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use llmserve_cache::{Answer, Entry, Key, Stamp};
use llmserve_core::Request;
use xxhash_rust::xxh3::xxh3_64;

/// Magic number and format, and after them the checksum.
const MARK: usize = 8;
const PREAMBLE: usize = MARK + 8;

/// A key, and an entry under it in which nothing is said.
static EMPTY: LazyLock<(Arc<Key>, Vec<u8>)> = LazyLock::new(|| {
    let key = Arc::new(Key::new("", &Request::text("Hi")).expect("it has a name"));
    let answer = Answer::new(&[]).expect("known events");
    let bytes = Entry::new(key.clone(), answer, Stamp::default()).to_bytes();
    (key, bytes)
});

fuzz_target!(|data: (u8, &[u8])| {
    let (kind, data) = data;
    let (key, empty) = &*EMPTY;
    let bytes = match kind % 3 {
        0 => data.to_vec(),
        // Behind a right checksum: a header, or the events of an answer.
        kind => {
            let header = if kind == 1 {
                &[][..]
            } else {
                &empty[PREAMBLE..]
            };
            let rest = [header, data].concat();
            [&empty[..MARK], &xxh3_64(&rest).to_le_bytes(), &rest].concat()
        }
    };
    if let Ok(entry) = Entry::from_bytes(key, &bytes) {
        assert!(entry.size() <= 8 * bytes.len() + size_of::<Answer>());
        let told = entry.answer.events().count();
        let again = Entry::from_bytes(key, &entry.to_bytes()).map(|entry| entry.answer);
        // What had just time left may have none any more.
        assert!(again.is_ok_and(|again| again.events().count() == told) || entry.ttl.is_some());
    }
});
