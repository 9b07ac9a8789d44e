use llmserve_core::{Event, FinishReason, Finished, Request, Started, TextEvent, Timings, Usage};

use super::*;

fn key(text: &str) -> Arc<Key> {
    Arc::new(Key::new("", &Request::text(text)).unwrap())
}

fn entry() -> Entry {
    let answer = Answer::new(&[
        Event::Started(Started {
            prompt_ids: Arc::from([1, 2, 3]),
            prompt_logprobs: None,
        }),
        Event::Text(TextEvent {
            index: 0,
            text: "fine".into(),
        }),
        Event::Finished(Finished {
            index: 0,
            reason: FinishReason::Stop,
            text: String::new(),
            usage: Usage {
                prompt_tokens: 3,
                cached_tokens: 0,
                completion_tokens: 1,
            },
            timings: Timings::default(),
        }),
    ]);
    Entry::new(key("a"), answer.unwrap(), Stamp(7))
}

#[test]
fn an_entry_comes_back_with_its_age_and_the_time_it_has_left() {
    let mut entry = entry().ttl(Some(Duration::from_secs(60)));
    entry.age = Duration::from_secs(5);
    let back = Entry::from_bytes(&key("a"), &entry.to_bytes()).unwrap();
    assert_eq!(back.answer, entry.answer);
    assert_eq!((&back.key, back.stamp), (&entry.key, entry.stamp));
    let within = Duration::from_secs(5)..Duration::from_secs(30);
    assert!(within.contains(&back.age));
    let ttl = back.ttl.unwrap();
    assert!(ttl <= Duration::from_secs(60) && ttl > Duration::from_secs(30));
}

#[test]
fn no_flipped_bit_and_no_cut_gives_an_entry() {
    let bytes = entry().to_bytes();
    assert!(Entry::from_bytes(&key("a"), &bytes).is_ok());
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(Entry::from_bytes(&key("a"), &damaged).is_err(), "bit {bit}");
    }
    for cut in 0..bytes.len() {
        assert!(Entry::from_bytes(&key("a"), &bytes[..cut]).is_err());
    }
    let mut longer = bytes;
    longer.push(0);
    assert_eq!(
        Entry::from_bytes(&key("a"), &longer).err(),
        Some(Unusable::Damaged)
    );
}

#[test]
fn what_another_version_or_key_wrote_is_told_from_damage() {
    let bytes = entry().to_bytes();
    let mut newer = bytes.clone();
    newer[4] += 1;
    let other = Entry::from_bytes(&key("b"), &bytes).err();
    assert_eq!(other, Some(Unusable::OtherKey));
    let newer = Entry::from_bytes(&key("a"), &newer).err();
    assert_eq!(newer, Some(Unusable::Format(FORMAT + 1)));
    let foreign = Entry::from_bytes(&key("a"), b"{\"json\": 1}").err();
    assert_eq!(foreign, Some(Unusable::Foreign));
    let over = entry().ttl(Some(Duration::ZERO)).to_bytes();
    assert_eq!(
        Entry::from_bytes(&key("a"), &over).err(),
        Some(Unusable::Expired)
    );
}

#[test]
fn the_format_changes_only_on_purpose() {
    // What is written today must be readable tomorrow, or FORMAT must say that it is not.
    let bytes = entry().to_bytes();
    assert_eq!(&bytes[..8], b"lsca\x01\0\0\0");
    let mut body = Vec::new();
    entry().answer.write(&mut body);
    assert_eq!(
        body,
        [
            0, 3, 1, 2, 3, 0, // started: three ids, no logprobs
            2, 0, 4, b'f', b'i', b'n', b'e', // text of choice 0
            3, 0, 6, 0, 3, 0, 1, 0, 0, 0, 0, 0,
            0, // finished: choice, reason, text, usage, times
        ]
    );
}

/// What [`Entry::to_bytes`] writes at another time.
fn bytes_of(stored: u64, expires: Option<u64>) -> Vec<u8> {
    let entry = entry();
    let header = Header {
        stamp: 7,
        stored,
        expires,
        key: entry.key.bytes(),
    };
    let mut rest = postcard::to_extend(&header, Vec::new()).unwrap();
    entry.answer.write(&mut rest);
    let mut bytes = entry.to_bytes()[..8].to_vec();
    bytes.extend_from_slice(&xxh3_64(&rest).to_le_bytes());
    bytes.extend(rest);
    bytes
}

#[test]
fn a_clock_that_was_set_back_makes_nothing_last_longer() {
    let now = unix_millis();
    let read = |stored, expires| Entry::from_bytes(&key("a"), &bytes_of(stored, expires));
    let hour = 3_600_000;
    let entry = read(now + 24 * hour, Some(now + 25 * hour)).unwrap();
    assert_eq!(entry.age, Duration::ZERO);
    assert_eq!(entry.ttl, Some(Duration::from_millis(hour)));
    // And what makes no sense is over.
    for (stored, expires) in [(now + hour, now), (u64::MAX, now + hour), (0, 0)] {
        assert_eq!(read(stored, Some(expires)).err(), Some(Unusable::Expired));
    }
    let entry = read(u64::MAX, Some(u64::MAX)).err();
    assert_eq!(entry, Some(Unusable::Expired));
    assert_eq!(read(0, None).unwrap().ttl, None);
}

/// Behind a right checksum, as whoever may write to a store can make one.
#[test]
fn what_was_made_with_care_is_an_entry_or_damaged() {
    let whole = entry().to_bytes();
    let rest = &whole[PREAMBLE..];
    let read = |rest: &[u8]| {
        let mut bytes = whole[..8].to_vec();
        bytes.extend_from_slice(&xxh3_64(rest).to_le_bytes());
        bytes.extend_from_slice(rest);
        Entry::from_bytes(&key("a"), &bytes)
    };
    assert!(read(rest).is_ok());
    let bomb = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];
    for place in 0..rest.len() {
        let mut cut = rest.to_vec();
        cut.truncate(place);
        let mut flipped = rest.to_vec();
        flipped[place] ^= 0x81;
        let mut exploded = rest.to_vec();
        exploded.splice(place..place + 1, bomb);
        for made in [cut, flipped, exploded] {
            if let Ok(entry) = read(&made) {
                assert!(entry.size() <= 8 * made.len() + size_of::<Answer>());
                assert_eq!(entry.key, key("a"));
                entry.answer.events().count();
            }
        }
    }
}
