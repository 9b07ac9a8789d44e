//! What is asked for: who, when, where, why, how many.

use std::ops::Range;

use super::Veto;
use super::text::Text;

/// What an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Who,
    When,
    Where,
    Why,
    HowTo,
    HowMany,
    HowMuch,
    HowLong,
    HowOften,
    HowOld,
    HowFar,
    How,
    /// What a thing is.
    What,
    /// The thing itself: "write a poem", not how to.
    Work,
}

/// Verbs that ask for something to be written, and not how it is.
const WORK: &[&str] = &[
    "write",
    "translate",
    "summarize",
    "summarise",
    "rewrite",
    "generate",
    "compose",
    "draft",
    "rephrase",
    "paraphrase",
    "fix",
    "solve",
    "proofread",
    "correct",
    "send",
    "book",
    "schedule",
    "set",
    "cancel",
    "order",
    "buy",
    "turn",
    "delete",
    "remove",
    "create",
];

/// Whether the texts ask for different things about the same.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    if purpose(a) != purpose(b) {
        return Some(Veto::Question);
    }
    let (a_asks, b_asks) = (asked(a)?, asked(b)?);
    let how = |asked| {
        use Asked::{HowFar, HowLong, HowMany, HowMuch, HowOften, HowOld, HowTo};
        matches!(
            asked,
            HowTo | HowMany | HowMuch | HowLong | HowOften | HowOld | HowFar
        )
    };
    // "How is it done" may ask for any of these.
    let open = a_asks == Asked::How && how(b_asks) || b_asks == Asked::How && how(a_asks);
    let what = a_asks == Asked::What || b_asks == Asked::What;
    let works = a_asks == Asked::Work || b_asks == Asked::Work;
    let said = what && (works || a_asks == Asked::How || b_asks == Asked::How);
    (a_asks != b_asks && !open && !said).then_some(Veto::Question)
}

fn asked(text: &Text<'_>) -> Option<Asked> {
    let form = |at: usize| text.words.get(at).map_or("", |word| text.form(word));
    for at in 0..text.words.len() {
        let next = form(at + 1);
        let asked = match form(at) {
            "who" | "whom" | "whose" => Asked::Who,
            "when" if at == 0 || leads(text, at) => Asked::When,
            "where" if at == 0 || leads(text, at) => Asked::Where,
            "why" => Asked::Why,
            "how" => match next {
                "many" if is_time(form(at + 2)) => Asked::HowLong,
                "many" if form(at + 2) == "times" => Asked::HowOften,
                "many" => Asked::HowMany,
                "much" if form(at + 2) == "time" => Asked::HowLong,
                "much" => Asked::HowMuch,
                "long" => Asked::HowLong,
                "often" | "frequently" => Asked::HowOften,
                "old" => Asked::HowOld,
                "far" => Asked::HowFar,
                "come" => Asked::Why,
                // "How do you say" asks for the words.
                _ if form(at + 3) == "say" => return None,
                "to" => Asked::HowTo,
                "do" | "can" | "should" | "could" | "would"
                    if matches!(form(at + 2), "i" | "you" | "we" | "one" | "people") =>
                {
                    Asked::HowTo
                }
                "do" | "does" | "did" | "is" | "are" | "was" | "were" | "can" => Asked::How,
                _ => continue,
            },
            "what" | "which" => match next {
                "year" | "day" | "date" => Asked::When,
                "person" | "author" => Asked::Who,
                "is" | "are" | "was" | "were" if matches!(form(at + 3), "reason" | "reasons") => {
                    Asked::Why
                }
                "is" | "are" if matches!(form(at + 2), "a" | "an") && text.words.len() <= 5 => {
                    Asked::What
                }
                _ => continue,
            },
            first if text.words[at].first && WORK.contains(&first) => Asked::Work,
            "please" if WORK.contains(&next) => Asked::Work,
            _ => continue,
        };
        return Some(asked);
    }
    None
}

/// What a question asks for by the word it ends with: what a thing is for, of, about or like.
fn purpose<'t>(text: &'t Text<'_>) -> Option<&'t str> {
    let last = text.form(text.words.last()?);
    let asks = matches!(
        last,
        "for" | "of" | "about" | "like" | "from" | "with" | "without"
    );
    asks.then_some(last)
}

/// The words by which both texts ask for the same measure, in each: "how long" and "how many days",
/// "how often" and "how many times".
pub(super) fn measures(a: &Text<'_>, b: &Text<'_>) -> (Range<usize>, Range<usize>) {
    let measure = |text: &Text<'_>| {
        let how = text
            .words
            .iter()
            .position(|word| text.form(word) == "how")?;
        let form = |at: usize| text.words.get(at).map_or("", |word| text.form(word));
        let end = match (form(how + 1), form(how + 2)) {
            ("many", "times") => how + 3,
            ("many", unit) if is_time(unit) => how + 3,
            ("much", "time") => how + 3,
            ("long" | "often" | "frequently", _) => how + 2,
            _ => return None,
        };
        Some(how..end)
    };
    match (measure(a), measure(b)) {
        (Some(of_a), Some(of_b)) if asked(a) == asked(b) => (of_a, of_b),
        _ => (0..0, 0..0),
    }
}

/// What how long something takes is counted in.
fn is_time(form: &str) -> bool {
    matches!(
        form,
        "seconds" | "minutes" | "hours" | "days" | "weeks" | "months" | "years"
    )
}

/// Whether a question word at `at` asks, and does not join two clauses.
fn leads(text: &Text<'_>, at: usize) -> bool {
    text.words[..at].iter().all(|word| word.role.function)
}
