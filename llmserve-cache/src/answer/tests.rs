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
