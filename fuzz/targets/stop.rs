//! Stop strings over text in pieces: what is emitted is the text before the first match.
#![no_main]

use libfuzzer_sys::fuzz_target;
use llmserve_core::text::StopStrings;

fuzz_target!(|data: (Vec<String>, Vec<&str>)| {
    let (stops, pieces) = data;
    let mut scan = StopStrings::new(&stops);
    let mut emitted = String::new();
    let mut stopped = false;
    for piece in &pieces {
        let found = scan.push(piece);
        emitted.push_str(&found.emit);
        stopped |= found.matched.is_some();
    }
    emitted.push_str(&scan.finish());
    let whole = pieces.concat();
    assert!(whole.starts_with(&emitted));
    if !stopped {
        assert_eq!(whole, emitted);
    }
    for stop in stops.iter().filter(|stop| !stop.is_empty()) {
        assert!(!emitted.contains(stop.as_str()));
    }
});
