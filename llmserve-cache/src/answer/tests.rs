use llmserve_core::{FinishReason, Finished, TextEvent, Timings, TokenEvent, TokenLogprobs, Usage};
use proptest::prelude::*;

use super::*;

fn logprobs() -> impl Strategy<Value = TokenLogprobs> {
    let top = proptest::collection::vec((any::<u32>(), -9.0f32..0.0), 0..4);
    (any::<u32>(), -9.0f32..0.0, top).prop_map(|(id, logprob, top)| TokenLogprobs {
        id,
        logprob,
        top,
    })
}

fn reason() -> impl Strategy<Value = FinishReason> {
    prop_oneof![
        any::<u32>().prop_map(FinishReason::Eos),
        any::<u32>().prop_map(FinishReason::StopToken),
        any::<String>().prop_map(FinishReason::StopString),
        Just(FinishReason::Complete),
        Just(FinishReason::Length),
        Just(FinishReason::Deadline),
        Just(FinishReason::Stop),
        any::<String>().prop_map(FinishReason::Other),
    ]
}

fn event() -> impl Strategy<Value = Event> {
    let started = (
        proptest::collection::vec(any::<u32>(), 0..5),
        proptest::option::of(proptest::collection::vec(logprobs(), 0..3)),
    );
    let token = (
        any::<usize>(),
        any::<u32>(),
        any::<String>(),
        proptest::option::of(logprobs()),
    );
    let time = || any::<u64>().prop_map(Duration::from_nanos);
    let finished = (
        (any::<usize>(), reason(), any::<String>()),
        (any::<usize>(), any::<usize>(), any::<usize>()),
        (time(), time(), time()),
    );
    prop_oneof![
        started.prop_map(|(ids, logprobs)| Event::Started(Started {
            prompt_ids: ids.into(),
            prompt_logprobs: logprobs.map(Into::into),
        })),
        token.prop_map(|(index, id, text, logprobs)| Event::Token(TokenEvent {
            index,
            id,
            text,
            logprobs,
        })),
        (any::<usize>(), any::<String>())
            .prop_map(|(index, text)| Event::Text(TextEvent { index, text })),
        finished.prop_map(|((index, reason, text), usage, times)| {
            Event::Finished(Finished {
                index,
                reason,
                text,
                usage: Usage {
                    prompt_tokens: usage.0,
                    cached_tokens: usage.1,
                    completion_tokens: usage.2,
                },
                timings: Timings {
                    queue: times.0,
                    time_to_first_token: times.1,
                    latency: times.2,
                },
            })
        }),
    ]
}

proptest! {
    /// Whatever came, in whatever order, is told again, also after a way through bytes; and bytes
    /// that end early are told from whole ones or are a whole of fewer events.
    #[test]
    fn events_come_back_as_they_were(events in proptest::collection::vec(event(), 0..8)) {
        let answer = Answer::new(&events).unwrap();
        prop_assert_eq!(answer.events().collect::<Vec<_>>(), events.clone());
        let mut bytes = Vec::new();
        answer.write(&mut bytes);
        let parsed = Answer::parse(&bytes).unwrap();
        prop_assert_eq!(&parsed, &answer);
        prop_assert_eq!((parsed.tokens(), parsed.took()), (answer.tokens(), answer.took()));
        for cut in 0..bytes.len() {
            if let Some(part) = Answer::parse(&bytes[..cut]) {
                let part: Vec<_> = part.events().collect();
                prop_assert!(part.len() < events.len());
                prop_assert_eq!(&part[..], &events[..part.len()]);
            }
        }
    }

    #[test]
    fn any_bytes_are_an_answer_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        if let Some(answer) = Answer::parse(&bytes) {
            let _ = answer.events().count();
        }
    }
}

#[test]
fn a_tokens_record_is_short() {
    let token = Event::Token(TokenEvent {
        index: 0,
        id: 31_000,
        text: " word".into(),
        logprobs: None,
    });
    let one = Answer::new(std::slice::from_ref(&token)).unwrap().size();
    let two = Answer::new(&[token.clone(), token]).unwrap().size();
    assert_eq!(two - one, 1 + 1 + 3 + 1 + 5 + 1);
}

/// Whatever bytes are parsed: none, or an answer of their size that can be told and written again.
fn read_or_refuse(bytes: &[u8]) -> Option<Answer> {
    let answer = Answer::parse(bytes)?;
    assert_eq!(answer.events().count(), answer.summary.events);
    let most = size_of::<Answer>() + 8 * bytes.len();
    assert!(
        answer.size() <= most,
        "{} of {}",
        answer.size(),
        bytes.len()
    );
    let mut again = Vec::new();
    answer.write(&mut again);
    let back = Answer::parse(&again).expect("it was written here");
    assert_eq!(back.summary, answer.summary);
    assert_eq!(
        format!("{:?}", back.started),
        format!("{:?}", answer.started)
    );
    assert_eq!(back.body, answer.body);
    Some(answer)
}

/// A number of ten bytes, the most there can be: what an attacker says that a length is.
const BOMB: [u8; 10] = [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01];

proptest! {
    /// Real answers with bytes flipped, cut off, put in and taken out, and lengths that cannot be.
    #[test]
    fn no_damage_is_more_than_an_answer_or_none(
        events in proptest::collection::vec(event(), 1..6),
        damage in proptest::collection::vec((any::<u16>(), any::<u8>(), 0u8..5), 1..6),
    ) {
        let mut bytes = Vec::new();
        Answer::new(&events).unwrap().write(&mut bytes);
        for (place, byte, kind) in damage {
            if bytes.is_empty() {
                break;
            }
            let place = usize::from(place) % bytes.len();
            match kind {
                0 => bytes[place] ^= byte | 1,
                1 => bytes.truncate(place),
                2 => bytes.insert(place, byte),
                3 => drop(bytes.remove(place)),
                _ => drop(bytes.splice(place..place + 1, BOMB)),
            }
            read_or_refuse(&bytes);
        }
    }
}

#[test]
fn a_length_that_cannot_be_takes_no_memory() {
    let mut all = Vec::new();
    Answer::new(&[
        Event::Started(Started {
            prompt_ids: [1, 2].into(),
            prompt_logprobs: Some(
                [TokenLogprobs {
                    id: 1,
                    logprob: -1.0,
                    top: vec![(1, -1.0)],
                }]
                .into(),
            ),
        }),
        Event::Token(TokenEvent {
            index: 0,
            id: 1,
            text: "a".into(),
            logprobs: Some(TokenLogprobs {
                id: 1,
                logprob: -1.0,
                top: vec![(1, -1.0)],
            }),
        }),
        Event::Text(TextEvent {
            index: 0,
            text: "a".into(),
        }),
        Event::Finished(Finished {
            index: 0,
            reason: FinishReason::StopString("a".into()),
            text: "a".into(),
            usage: Usage::default(),
            timings: Timings::default(),
        }),
    ])
    .unwrap()
    .write(&mut all);
    assert!(read_or_refuse(&all).is_some());
    // In the place of every byte, so of every length too, with much behind it and with nothing.
    for place in 0..all.len() {
        for (bomb, rest) in [
            (&BOMB[..], 0),
            (&BOMB[..], 10_000),
            (&[0xff, 0xff, 0x7f], 10_000),
        ] {
            let mut bytes = all.clone();
            bytes.splice(place..place + 1, bomb.iter().copied());
            bytes.extend(std::iter::repeat_n(0, rest));
            read_or_refuse(&bytes);
        }
    }
}
