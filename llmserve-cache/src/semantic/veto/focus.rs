//! The part of two texts in which they differ, in whole sentences.

/// Two texts without what they begin and end with in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Focus<'t> {
    pub(crate) a: &'t str,
    pub(crate) b: &'t str,
    /// Whether anything was left out.
    pub(crate) shared: bool,
}

/// Leaves out the sentences that both texts begin or end with. What templates share, a preamble of
/// sixty words, would hide the ten in which they differ.
pub(crate) fn focus<'t>(a: &'t str, b: &'t str) -> Focus<'t> {
    let (in_a, in_b) = (sentences(a), sentences(b));
    let same = |(x, y): &(&&str, &&str)| same(x, y);
    let start = in_a.iter().zip(&in_b).take_while(same).count();
    let most = in_a.len().min(in_b.len()) - start;
    let back = in_a.iter().rev().zip(in_b.iter().rev());
    let end = back.take(most).take_while(same).count();
    Focus {
        a: between(a, &in_a[start..in_a.len() - end]),
        b: between(b, &in_b[start..in_b.len() - end]),
        shared: start + end > 0,
    }
}

fn same(a: &str, b: &str) -> bool {
    let plain = |text: &'_ str| {
        text.trim()
            .trim_end_matches(['.', '!', '?', ' '])
            .to_lowercase()
    };
    a == b || a.len().abs_diff(b.len()) < 4 && plain(a) == plain(b) && !a.contains('`')
}

/// From the first of some parts of a text to the end of the last.
fn between<'t>(text: &'t str, parts: &[&'t str]) -> &'t str {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return "";
    };
    let offset = |part: &str| part.as_ptr() as usize - text.as_ptr() as usize;
    text[offset(first)..offset(last) + last.len()].trim()
}

/// A text's sentences: ended by a mark and a space, or by a line's end. A colon ends one too, as
/// what follows it is what a template was filled with.
fn sentences(text: &str) -> Vec<&str> {
    let mut sentences = Vec::new();
    let mut start = 0;
    let mut before = ' ';
    for (at, c) in text.char_indices() {
        let ends = c == '\n' || c.is_whitespace() && matches!(before, '.' | '?' | '!' | ':' | '。');
        if ends && !text[start..at].trim().is_empty() && !abbreviated(&text[start..at]) {
            sentences.push(&text[start..at]);
            start = at;
        }
        before = c;
    }
    if !text[start..].trim().is_empty() {
        sentences.push(&text[start..]);
    }
    sentences
}

/// Whether a dot ends a word cut short, and no sentence.
fn abbreviated(sentence: &str) -> bool {
    let Some(body) = sentence.strip_suffix('.') else {
        return false;
    };
    let word = body.rsplit(char::is_whitespace).next().unwrap_or("");
    matches!(
        word,
        "e.g" | "i.e" | "etc" | "vs" | "Mr" | "Mrs" | "Ms" | "Dr" | "St" | "No" | "approx" | "U.S"
    ) || word.len() == 1 && word.chars().all(char::is_uppercase)
}

#[cfg(test)]
mod tests {
    use super::{Focus, focus};

    #[test]
    fn what_both_have_is_left_out() {
        let a = "Be brief. Use tables.\nQuestion: what is iron? Answer in English.";
        let b = "Be brief. Use tables.\nQuestion: what is gold? Answer in English.";
        let found = focus(a, b);
        assert_eq!(
            (found.a, found.b, found.shared),
            ("what is iron?", "what is gold?", true)
        );
        let nothing = Focus {
            a: "",
            b: "",
            shared: true,
        };
        assert_eq!(focus(a, a), nothing);
        assert_eq!(
            focus("", ""),
            Focus {
                shared: false,
                ..nothing
            }
        );
        let more = focus("Be brief. Hello there.", "Be brief. Hello there. Twice.");
        assert_eq!((more.a, more.b), ("", "Twice."));
    }

    #[test]
    fn whole_sentences_only() {
        let found = focus("Ask Dr. Who about it.", "Ask Dr. Watson about it.");
        assert_eq!((found.a, found.shared), ("Ask Dr. Who about it.", false));
    }
}
