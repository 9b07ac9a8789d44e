//! A stream of events says the same in any pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmserve_route::remote::{SseEvent, SseParser};

fn parse<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<SseEvent>, Option<SseEvent>) {
    let mut parser = SseParser::new(1 << 20);
    let mut events = Vec::new();
    for piece in pieces {
        parser.push(piece, &mut events).expect("below the limit");
    }
    (events, parser.finish())
}

fuzz_target!(|input: (Vec<u8>, u8)| {
    let (bytes, size) = input;
    if bytes.len() > 1 << 19 {
        return;
    }
    let whole = parse(std::iter::once(&bytes[..]));
    assert_eq!(parse(bytes.chunks(usize::from(size).max(1))), whole);
    assert_eq!(parse(bytes.chunks(1)), whole);
});
