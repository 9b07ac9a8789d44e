//! Forms of a word brought together by cutting their ends off.

/// Words that end like a form but are none.
pub(super) const WHOLE: &[&str] = &[
    "evening",
    "morning",
    "ceiling",
    "during",
    "nothing",
    "something",
    "anything",
    "everything",
    "wedding",
    "family",
    "supply",
    "multiply",
    "assembly",
    "early",
    "only",
    "daily",
    "weekly",
    "monthly",
    "yearly",
    "hourly",
    "hundred",
    "species",
    "series",
    "always",
    "does",
    "july",
    "italy",
    "wales",
    "texas",
    "athens",
    "brussels",
    "netherlands",
    "philippines",
    "united",
    "https",
];

/// The part of a word that its forms share, roughly: "cities" and "city", "stopping" and "stop",
/// "making" and "make". `word` is in lower case; what comes back is its beginning.
///
/// Cutting too little costs a hit, cutting too much is caught by nothing, so it cuts little: no
/// "-er", no "-ation".
pub(super) fn stem(word: &str) -> &str {
    if WHOLE.contains(&word) {
        word
    } else {
        inflected(word)
    }
}

/// [`stem`] of a word that is not one of [`WHOLE`].
pub(super) fn inflected(word: &str) -> &str {
    if word.len() <= 3 || !word.bytes().all(|b| b.is_ascii_lowercase()) {
        return word;
    }
    // "Sued", "died", "owed".
    if word.len() == 4 && word.ends_with("ed") && b"uiwoy".contains(&word.as_bytes()[1]) {
        return &word[..3];
    }
    let mut stem = word;
    if let Some(rest) = cut(stem, "ies", 2) {
        stem = rest;
    } else if let Some(rest) = cut(stem, "es", 2).filter(|rest| sibilant(rest)) {
        stem = rest;
    } else if let Some(rest) = cut(stem, "s", 2).filter(|rest| !rest.ends_with(['s', 'u', 'i'])) {
        stem = rest;
    }
    if let Some(rest) = cut(stem, "ly", 4) {
        stem = rest;
    }
    let ended = cut(stem, "ing", 3)
        .or_else(|| cut(stem, "ed", 3).filter(|rest| !rest.ends_with('e')))
        .filter(|rest| rest.contains(['a', 'e', 'i', 'o', 'u', 'y']));
    if let Some(rest) = ended {
        stem = rest;
        let doubled = stem.as_bytes().windows(2).last().is_some_and(|end| {
            end[0] == end[1] && !matches!(end[0], b'l' | b's' | b'z' | b'e' | b'o')
        });
        if doubled {
            stem = &stem[..stem.len() - 1];
        }
    }
    if stem.len() > 3 {
        stem = stem.strip_suffix('e').unwrap_or(stem);
    }
    if stem.len() > 3 {
        stem = stem.strip_suffix(['i', 'y']).unwrap_or(stem);
    }
    stem
}

/// Without an ending, if that leaves at least so much.
fn cut<'w>(word: &'w str, ending: &str, least: usize) -> Option<&'w str> {
    word.strip_suffix(ending).filter(|rest| rest.len() >= least)
}

fn sibilant(stem: &str) -> bool {
    stem.ends_with(['s', 'x', 'z', 'o']) || stem.ends_with("ch") || stem.ends_with("sh")
}

#[cfg(test)]
mod tests {
    use super::stem;

    #[test]
    fn forms_meet() {
        for forms in [
            &["city", "cities"][..],
            &["stop", "stops", "stopped", "stopping"],
            &["make", "makes", "making"],
            &["box", "boxes"],
            &["tomato", "tomatoes"],
            &["movie", "movies"],
            &["virus", "viruses"],
            &["pass", "passes", "passed", "passing"],
            &["install", "installs", "installed", "installing"],
            &["quick", "quickly"],
            &["sue", "sued"],
            &["program", "programs", "programming"],
        ] {
            for form in forms {
                assert_eq!(stem(form), stem(forms[0]), "{form}");
            }
        }
    }

    #[test]
    fn words_stay_apart() {
        for (a, b) in [
            ("evening", "even"),
            ("string", "strong"),
            ("universe", "university"),
            ("teach", "teacher"),
            ("mars", "marsh"),
            ("paris", "par"),
            ("speed", "spend"),
            ("king", "kin"),
            ("encrypt", "decrypt"),
            ("employer", "employee"),
            ("affect", "effect"),
            ("bus", "bu"),
        ] {
            assert_ne!(stem(a), stem(b), "{a} and {b}");
        }
        // Not letters of English: left alone, never cut within a character.
        for word in ["größe", "ça", "日本語", "c++", "x1s", ""] {
            assert_eq!(stem(word), word);
        }
    }
}
