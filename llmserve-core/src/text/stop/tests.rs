use super::*;
use proptest::prelude::*;

fn stops(strings: &[&str]) -> StopStrings {
    StopStrings::new(&strings.iter().map(|s| s.to_string()).collect::<Vec<_>>())
}

/// Pieces in, text out, and what stopped it.
fn run(strings: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
    let mut stops = stops(strings);
    let mut text = String::new();
    let mut matched = None;
    for piece in pieces {
        let scan = stops.push(piece);
        text.push_str(&scan.emit);
        matched = scan.matched;
    }
    text.push_str(&stops.finish());
    (text, matched)
}

/// The first end of any stop string in `text`, the longest of those that end there.
fn naive(strings: &[String], text: &str) -> (String, Option<usize>) {
    for end in 1..=text.len() {
        let mut found: Option<usize> = None;
        for (i, stop) in strings.iter().enumerate() {
            let longer = found.is_none_or(|f| stop.len() > strings[f].len());
            if !stop.is_empty() && text.as_bytes()[..end].ends_with(stop.as_bytes()) && longer {
                found = Some(i);
            }
        }
        if let Some(i) = found {
            return (text[..end - strings[i].len()].to_owned(), found);
        }
    }
    (text.to_owned(), None)
}

#[test]
fn nothing_of_a_stop_string_leaks() {
    let mut stops = stops(&["</end>"]);
    assert_eq!(stops.push("a <").emit, "a ");
    assert_eq!(stops.push("/en").emit, "");
    assert_eq!(stops.push("e").emit, "</ene");
    assert_eq!(stops.push("<</e").emit, "<");
    let scan = stops.push("nd> and more");
    assert_eq!((scan.emit.as_str(), scan.matched), ("", Some(0)));
    let after = stops.push("still more");
    assert_eq!((after.emit.as_str(), after.matched), ("", Some(0)));
    assert_eq!(stops.finish(), "");
}

#[test]
fn what_is_held_back_comes_at_the_end() {
    assert_eq!(run(&["abcd"], &["xab", "c"]), ("xabc".into(), None));
    let mut stops = stops(&["ab"]);
    assert_eq!(stops.push("a").emit, "");
    assert_eq!(stops.finish(), "a");
    // The end is an end: nothing continues across it.
    assert_eq!(stops.push("b").emit, "b");
}

#[test]
fn the_first_to_be_complete_wins_then_the_longest() {
    assert_eq!(run(&["abcd", "bc"], &["abcd"]), ("a".into(), Some(1)));
    assert_eq!(run(&["bc", "abc"], &["xabc"]), ("x".into(), Some(1)));
    assert_eq!(run(&["bc", "bc"], &["xbc"]), ("x".into(), Some(0)));
}

#[test]
fn strings_that_overlap_themselves_are_found() {
    assert_eq!(run(&["aab"], &["aa", "aa", "b"]), ("aa".into(), Some(0)));
    assert_eq!(
        run(&["\n\n\n"], &["\n\n", "x\n", "\n\n"]),
        ("\n\nx".into(), Some(0))
    );
}

#[test]
fn none_and_empty_ones_are_harmless() {
    assert_eq!(run(&[], &["abc", ""]), ("abc".into(), None));
    assert_eq!(run(&["", "b"], &["", "ab"]), ("a".into(), Some(1)));
    assert_eq!(run(&[""], &["ab"]), ("ab".into(), None));
}

#[test]
fn before_the_minimum_nothing_stops_but_a_beginning_counts() {
    let mut stops = stops(&["##"]);
    assert_eq!(stops.pass("a##b#"), "a##b");
    let scan = stops.push("#c");
    assert_eq!((scan.emit.as_str(), scan.matched), ("", Some(0)));

    let mut stops = self::stops(&["##"]);
    // The last # may still begin one.
    assert_eq!(stops.pass("a##"), "a#");
    assert_eq!(stops.push("b").emit, "#b");
    assert_eq!(stops.push("#").emit, "");
    assert_eq!(stops.pass("#"), "#");
    assert_eq!(stops.push("#").matched, Some(0));
}

#[test]
fn long_text_is_not_scanned_again() {
    // Quadratic work would take minutes.
    let mut stops = stops(&[&"a".repeat(1000), &"é".repeat(500)]);
    let mut length = 0;
    for _ in 0..200_000 {
        length += stops.push("aé").emit.len();
    }
    assert_eq!(length + stops.finish().len(), 600_000);
}

proptest! {
    #[test]
    fn any_split_gives_what_the_whole_gives(
        text in "[ab é😀]{0,60}",
        strings in prop::collection::vec("[ab é😀]{0,4}", 0..4),
        cuts in prop::collection::vec(0usize..200, 0..20),
    ) {
        let mut cuts: Vec<usize> =
            cuts.into_iter().filter(|&cut| text.is_char_boundary(cut)).collect();
        cuts.extend([0, text.len()]);
        cuts.sort_unstable();
        let expected = naive(&strings, &text);
        let mut stops = StopStrings::new(&strings);
        let mut emitted = String::new();
        let mut matched = None;
        for cut in cuts.windows(2) {
            let scan = stops.push(&text[cut[0]..cut[1]]);
            emitted.push_str(&scan.emit);
            matched = scan.matched;
            // Never ahead of the truth, and never further behind than the longest beginning.
            prop_assert!(expected.0.starts_with(&emitted));
            if matched.is_none() {
                let so_far = &text[..cut[1]];
                let hold = so_far.char_indices().map(|(at, _)| &so_far[at..])
                    .find(|end| strings.iter().any(|s| s.len() > end.len() && s.starts_with(end)))
                    .map_or(0, str::len);
                prop_assert_eq!(emitted.len(), so_far.len() - hold);
            }
        }
        emitted.push_str(&stops.finish());
        prop_assert_eq!((emitted, matched), expected);
    }
}
