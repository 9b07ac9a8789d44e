//! Numbers in digits and in words.

use std::ops::Range;

use super::Veto;
use super::text::{Text, Word};

/// A number of a text.
#[derive(Clone, Debug)]
pub(super) struct Number {
    /// The same for the same number, however it is written.
    pub(super) key: u64,
    /// "One" and "first" are as often no numbers: not missed where the other text lacks them.
    optional: bool,
    /// A year, or next to a month.
    date: bool,
    /// The words of it.
    pub(super) words: Range<usize>,
}

const TIME: u64 = 1 << 62;
const FRACTION: u64 = 1 << 61;

const SMALL: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 8] = [
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
];
const ORDINALS: [&str; 20] = [
    "zeroth",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
];
const ORDINAL_TENS: [&str; 8] = [
    "twentieth",
    "thirtieth",
    "fortieth",
    "fiftieth",
    "sixtieth",
    "seventieth",
    "eightieth",
    "ninetieth",
];
const SCALES: [(&str, u64); 6] = [
    ("hundred", 100),
    ("thousand", 1_000),
    ("million", 1_000_000),
    ("billion", 1_000_000_000),
    ("trillion", 1_000_000_000_000),
    ("dozen", 12),
];
const TIMES: [(&str, u64); 4] = [("twice", 2), ("double", 2), ("thrice", 3), ("triple", 3)];
const ROMAN: [(&str, u64); 16] = [
    ("II", 2),
    ("III", 3),
    ("IV", 4),
    ("VI", 6),
    ("VII", 7),
    ("VIII", 8),
    ("IX", 9),
    ("XI", 11),
    ("XII", 12),
    ("XIII", 13),
    ("XIV", 14),
    ("XV", 15),
    ("XVI", 16),
    ("XVII", 17),
    ("XX", 20),
    ("XXI", 21),
];

/// The length of the number that a text begins with: digits, with commas before three of them, dots
/// and colons between them.
pub(super) fn digits(rest: &str) -> usize {
    let bytes = rest.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let mut end = 0;
    loop {
        while digit(end) {
            end += 1;
        }
        let goes_on = match bytes.get(end) {
            Some(b',') => (1..=3).all(|i| digit(end + i)) && !digit(end + 4),
            Some(b'.' | b':') => digit(end + 1),
            _ => false,
        };
        if !goes_on {
            return end;
        }
        end += 1;
    }
}

fn position(words: &[&str], form: &str) -> Option<u64> {
    words
        .iter()
        .position(|word| *word == form)
        .map(|i| i as u64)
}

/// What a word counts, alone: its value, and whether more may follow it within a number.
fn value(form: &str) -> Option<u64> {
    position(&SMALL, form).or_else(|| position(&TENS, form).map(|i| 20 + 10 * i))
}

fn ordinal(form: &str) -> Option<u64> {
    if form != "second" && form != "third" && !form.ends_with("th") && form != "first" {
        return None;
    }
    position(&ORDINALS, form).or_else(|| position(&ORDINAL_TENS, form).map(|i| 20 + 10 * i))
}

fn scale(form: &str) -> Option<u64> {
    SCALES
        .iter()
        .find(|(name, _)| *name == form)
        .map(|(_, scale)| *scale)
}

/// All words that a number may begin with.
pub(super) fn words() -> impl Iterator<Item = &'static str> {
    let scales = SCALES.iter().chain(&TIMES).map(|(word, _)| word);
    let ordinals = ORDINALS.iter().chain(&ORDINAL_TENS);
    let values = SMALL.iter().chain(&TENS);
    values
        .chain(ordinals)
        .chain(scales)
        .copied()
        .chain(["half"])
}

/// Whether a word is a number by itself.
pub(super) fn is_number_word(form: &str) -> bool {
    value(form).is_some() || scale(form).is_some()
}

/// All numbers of a text, in order.
pub(super) fn numbers(text: &Text<'_>) -> Vec<Number> {
    let mut found = Vec::new();
    let words = &text.words;
    let mut at = 0;
    while at < words.len() {
        match parse(text, at) {
            Some((mut number, next)) => {
                let month =
                    |word: Option<&Word>| word.is_some_and(|word| is_month(text.form(word)));
                let of = words.get(next).filter(|word| text.form(word) == "of");
                let after = words.get(next + usize::from(of.is_some()));
                let before = at.checked_sub(1).and_then(|i| words.get(i));
                number.date |= month(after) || month(before);
                found.push(number);
                at = next;
            }
            None => at += 1,
        }
    }
    found
}

fn is_month(form: &str) -> bool {
    const MONTHS: [&str; 12] = [
        "january",
        "february",
        "march",
        "april",
        "may",
        "june",
        "july",
        "august",
        "september",
        "october",
        "november",
        "december",
    ];
    MONTHS.contains(&form)
}

/// The number that begins at a word, and the first word after it.
fn parse(text: &Text<'_>, at: usize) -> Option<(Number, usize)> {
    let number = |key, next| {
        let number = Number {
            key,
            optional: false,
            date: false,
            words: at..next,
        };
        Some((number, next))
    };
    let word = &text.words[at];
    let form = text.form(word);
    // Most words are no numbers.
    if !word.digits && !word.acronym && !word.role.counts {
        return None;
    }
    if word.digits {
        return in_digits(text, at);
    }
    if let Some((_, times)) = TIMES.iter().find(|(name, _)| *name == form) {
        return number(*times, at + 1);
    }
    if word.acronym && at > 0 {
        let written = &text.source[word.span.clone()];
        if let Some((_, value)) = ROMAN.iter().find(|(roman, _)| *roman == written) {
            return number(*value, at + 1);
        }
    }
    if form == "half" {
        return number(FRACTION | 5, at + 1);
    }
    in_words(text, at)
}

fn in_digits(text: &Text<'_>, at: usize) -> Option<(Number, usize)> {
    let form = text.form(&text.words[at]);
    let next = text.words.get(at + 1);
    let follows = next.map_or("", |next| text.form(next));
    let close = next.is_some_and(|next| next.span.start == text.words[at].span.end);
    let number = |key, taken, date| {
        let number = Number {
            key,
            optional: false,
            date,
            words: at..at + 1 + taken,
        };
        Some((number, at + 1 + taken))
    };
    // A time of day.
    let afternoon = match follows {
        "am" | "pm" => Some(follows == "pm"),
        _ => None,
    };
    if afternoon.is_some() || form.contains(':') {
        let mut parts = form
            .split(':')
            .map(|part| part.parse::<u64>().unwrap_or(u64::MAX >> 16));
        let hour = parts.next().unwrap_or(0);
        let rest = parts.fold(0, |sum, part| sum * 60 + part.min(1 << 20));
        let minutes = if form.matches(':').count() > 1 {
            rest
        } else {
            rest * 60
        };
        let hour = match afternoon {
            Some(true) if hour < 12 => hour + 12,
            Some(false) if hour == 12 => 0,
            _ => hour,
        };
        // Without "am" or "pm" it may be either, so it equals neither.
        let told = if afternoon.is_some() || hour > 12 {
            1
        } else {
            0
        };
        let key = TIME | told << 50 | (hour.min(1 << 20) * 3600 + minutes);
        return number(key, usize::from(afternoon.is_some()), true);
    }
    let plain: String = form.chars().filter(|c| *c != ',').collect();
    let (scaled, taken) = match follows {
        "k" if close => (Some(1_000), 1),
        "bn" if close => (Some(1_000_000_000), 1),
        // "1st", "1980s", "2x".
        "st" | "nd" | "rd" | "th" | "s" | "x" if close => (None, 1),
        _ => (scale(follows), usize::from(scale(follows).is_some())),
    };
    match (plain.parse::<u64>(), scaled) {
        (Ok(whole), scaled) => {
            let key = whole.saturating_mul(scaled.unwrap_or(1)).min(FRACTION - 1);
            let year = scaled.is_none() && plain.len() == 4 && (1_000..2_200).contains(&whole);
            number(key, taken, year)
        }
        (Err(_), Some(scale)) => {
            let value = plain.parse::<f64>().unwrap_or(f64::MAX) * scale as f64;
            number((value.round() as u64).min(FRACTION - 1), taken, false)
        }
        // "3.10" is another version than "3.1", so it is kept as it is written.
        (Err(_), None) => {
            let key = xxhash_rust::xxh3::xxh3_64(plain.as_bytes());
            number(FRACTION | key >> 4, taken, false)
        }
    }
}

fn in_words(text: &Text<'_>, at: usize) -> Option<(Number, usize)> {
    let (mut total, mut group) = (0u64, 0u64);
    let mut next = at;
    let mut last = None;
    while let Some(word) = text.words.get(next) {
        let form = text.form(word);
        if let Some(value) = value(form) {
            // "Twenty five" is one number, "two three" are two.
            let fits = match last {
                None => true,
                Some(before) => before >= 100 || before >= 20 && value < 10,
            };
            if !fits {
                break;
            }
            group += value;
            last = Some(value);
        } else if let (Some(scale), true) = (scale(form), last.is_some()) {
            if scale == 100 || scale == 12 {
                group = group.saturating_mul(scale);
            } else {
                total = total.saturating_add(group.saturating_mul(scale));
                group = 0;
            }
            last = Some(scale);
        } else if let (Some(scale), None) = (scale(form), last) {
            // "A hundred", "a dozen", "million".
            group = scale;
            last = Some(scale);
        } else if let (Some(value), true) = (ordinal(form), is_ordinal(text, next, last)) {
            group += value;
            next += 1;
            last = Some(1);
            break;
        } else if form == "and"
            && last.is_some_and(|last| last >= 100)
            && text
                .words
                .get(next + 1)
                .is_some_and(|word| value(text.form(word)).is_some())
        {
            // "One hundred and five".
        } else {
            break;
        }
        next += 1;
    }
    last?;
    let alone = next == at + 1;
    let form = text.form(&text.words[at]);
    let number = Number {
        key: total.saturating_add(group).min(FRACTION - 1),
        optional: alone && matches!(form, "one" | "first" | "dozen" | "million" | "thousand"),
        date: false,
        words: at..next,
    };
    Some((number, next))
}

/// Whether "second" is the one after the first, and not a sixtieth of a minute.
fn is_ordinal(text: &Text<'_>, at: usize, last: Option<u64>) -> bool {
    if last.is_some_and(|last| last < 20) {
        return false;
    }
    let before = at.checked_sub(1).map(|i| &text.words[i]);
    let unit = before.is_some_and(|before| {
        before.digits || matches!(text.form(before), "per" | "a" | "each" | "every" | "one")
    });
    text.form(&text.words[at]) != "second" || !unit
}

/// A number of `a` that `b` has not.
fn missing<'n>(a: &'n Text<'_>, b: &Text<'_>) -> Option<&'n Number> {
    // "1 gallon" is "a gallon".
    let an = |number: &Number| {
        let of = a.words.get(number.words.end).map(|word| word.key);
        let one = |word: &Word| matches!(b.form(word), "a" | "an");
        let counted = |pair: &[Word]| one(&pair[0]) && Some(pair[1].key) == of;
        let plain = number.key == 1 && !number.date && number.words.len() == 1;
        plain && b.words.windows(2).any(counted)
    };
    a.numbers.iter().find(|number| {
        !number.optional && b.numbers.iter().all(|other| other.key != number.key) && !an(number)
    })
}

/// Whether both texts have the same numbers.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let (in_a, in_b) = (missing(a, b), missing(b, a));
    if in_a.is_none() && in_b.is_none() {
        return None;
    }
    let dates = [in_a, in_b].into_iter().flatten().all(|number| number.date);
    Some(if dates { Veto::Date } else { Veto::Number })
}
