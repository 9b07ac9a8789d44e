//! Against a parser that sees all at once, at every split.

use proptest::prelude::*;

use super::*;

/// The standard, in the order it is written in, on a whole stream.
fn naive(bytes: &[u8]) -> Vec<SseEvent> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    // What follows the last line end is no line.
    lines.pop();
    let (mut events, mut event) = (Vec::new(), String::new());
    let mut data: Vec<&str> = Vec::new();
    for line in lines {
        if line.is_empty() {
            if !data.is_empty() {
                events.push(SseEvent {
                    event: event.clone(),
                    data: data.join("\n"),
                });
            }
            event.clear();
            data.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => data.push(value),
            "event" => event = value.to_owned(),
            _ => {}
        }
    }
    events
}

fn in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<SseEvent> {
    let mut parser = SseParser::new(1 << 20);
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events).expect("below the limit");
    }
    events
}

#[test]
fn every_split_of_a_stream_with_everything_in_it() {
    let text = "\u{feff}: hello\r\ndata: é\u{1f600}\r\ndata:b\rdata\n\nevent: x\ndata: 1\n\n\
                id: 4\nretry: 2\n\ndata: [DONE]\r\n\r\ndata: cut";
    let bytes = text.as_bytes();
    let whole = naive(bytes);
    assert_eq!(whole.len(), 3);
    assert_eq!(whole[0].data, "é\u{1f600}\nb\n");
    for first in 0..=bytes.len() {
        for second in first..=bytes.len() {
            let pieces = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            assert_eq!(in_pieces(pieces), whole, "{first} {second}");
        }
    }
    assert_eq!(in_pieces(bytes.chunks(1)), whole);
}

#[test]
fn a_last_event_without_its_empty_line() {
    let mut parser = SseParser::new(64);
    let mut events = Vec::new();
    parser.push(b"data: [DONE]", &mut events).expect("short");
    assert!(events.is_empty());
    assert_eq!(parser.finish().expect("an event").data, "[DONE]");
    assert_eq!(SseParser::new(64).finish(), None);
}

#[test]
fn what_never_ends_is_given_up() {
    let mut events = Vec::new();
    let long_line = [b'a'; 65];
    let mut parser = SseParser::new(64);
    assert!(parser.push(&long_line, &mut events).is_err());
    let mut parser = SseParser::new(64);
    let result = (0..100).try_for_each(|_| parser.push(b"data: 123456\n", &mut events));
    assert_eq!(result, Err(SseTooLong { limit: 64 }));
    assert!(events.is_empty());
}

proptest! {
    #[test]
    fn as_the_naive_one_in_any_pieces(
        pieces in proptest::collection::vec(
            prop_oneof![
                "(data|event|id|)(:| : |: )[a-zé]{0,3}(\r\n|\n|\r|)",
                "[\r\n]{0,3}",
                Just("\u{feff}".to_owned()),
            ],
            0..24,
        ),
        cuts in proptest::collection::vec(0usize..400, 0..12),
        broken in proptest::option::of((0usize..400, any::<u8>())),
    ) {
        let mut bytes = pieces.concat().into_bytes();
        // A byte that need not be UTF-8, somewhere.
        if let Some((at, byte)) = broken && at < bytes.len() {
            bytes[at] = byte;
        }
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]);
        prop_assert_eq!(in_pieces(pieces), naive(&bytes));
    }
}
