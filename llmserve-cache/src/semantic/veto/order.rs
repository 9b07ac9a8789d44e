//! The same words the other way round: from A to B, and from B to A.

use super::Veto;
use super::lexicon::Sense;
use super::scope::is_auxiliary;
use super::slot::bare;
use super::text::{Text, Word};

/// Words that give the next one a part to play.
pub(super) const PARTS: &[(&str, u8)] = &[
    ("from", 1),
    ("to", 2),
    ("into", 2),
    ("than", 3),
    ("before", 4),
    ("after", 5),
    ("without", 6),
    ("except", 6),
    ("instead", 6),
    ("by", 7),
    ("over", 8),
    ("under", 9),
    ("above", 8),
    ("below", 9),
    ("against", 10),
    ("for", 11),
    ("per", 12),
];

/// Who does something and to whom it is done, the same person a line.
pub(super) const PERSONS: [(&str, &str); 6] = [
    ("i", "me"),
    ("we", "us"),
    ("he", "him"),
    ("she", "her"),
    ("they", "them"),
    ("you", "you"),
];

/// What a word is, as far as order goes: two of one class can change places and still make sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Kind(u16),
    Unit,
    Number,
    Name,
    Other,
}

struct Item {
    key: u64,
    class: Class,
    part: u8,
    at: usize,
}

/// Whether the texts say the same of the same things in exchanged parts.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let apart = !(compares(a) && compares(b));
    let (in_a, in_b) = (items(a), items(b));
    // Some of them look from one text at the other: what either sees counts.
    let one_way = |a, b, in_a, in_b| {
        exchanged(in_a, in_b)
            || turned_on_speaker(a, b)
            || apart
                && (woven(a, b, in_a, in_b)
                    || turned(a, b, in_a, in_b)
                    || swapped(a, b, in_a, in_b)
                    || refilled(a, b))
    };
    (one_way(a, b, &in_a, &in_b) || one_way(b, a, &in_b, &in_a)).then_some(Veto::Order)
}

/// Whether a text asks how two things differ, of which either may come first: not "the difference in
/// time from A to B".
fn compares(text: &Text<'_>) -> bool {
    let form = |at: usize| text.words.get(at).map_or("", |word| text.form(word));
    (0..text.words.len()).any(|at| match form(at) {
        "difference" | "differences" => form(at + 1) == "between",
        "differ" => at + 1 == text.words.len(),
        "vs" | "versus" => true,
        _ => false,
    })
}

fn items(text: &Text<'_>) -> Vec<Item> {
    let mut items: Vec<Item> = Vec::new();
    let mut part = (0, 0);
    for (at, word) in text.words.iter().enumerate() {
        if word.role.part != 0 {
            part = (word.role.part, at + 4);
            continue;
        }
        let number = text.numbers.iter().find(|number| number.words.start == at);
        if number.is_none() && (word.role.function && !is_thing(text, at) || word.number) {
            continue;
        }
        let class = if number.is_some() {
            Class::Number
        } else {
            text.senses(at)
                .find_map(|sense| match sense {
                    Sense::Kind { kind, .. } => Some(Class::Kind(kind)),
                    Sense::Unit { .. } => Some(Class::Unit),
                    _ => None,
                })
                .unwrap_or(if word.capital && !word.first && !text.headline {
                    Class::Name
                } else {
                    Class::Other
                })
        };
        let key = number.map_or(word.key, |number| number.key);
        if items.iter().all(|item| item.key != key) {
            let role = if at < part.1 { part.0 } else { 0 };
            items.push(Item {
                key,
                class,
                part: role,
                at,
            });
        }
        // "From the old house": the part is that of the first thing named.
        part = (0, 0);
    }
    items
}

/// Whether a word names a thing after all: "list" among types of data.
fn is_thing(text: &Text<'_>, at: usize) -> bool {
    text.senses(at)
        .any(|sense| matches!(sense, Sense::Kind { .. }))
}

fn find(items: &[Item], key: u64) -> Option<(usize, &Item)> {
    items.iter().enumerate().find(|(_, item)| item.key == key)
}

/// Whether names that come more than once come in another order.
fn woven(a: &Text<'_>, b: &Text<'_>, in_a: &[Item], in_b: &[Item]) -> bool {
    let names = |text: &Text<'_>, items: &[Item]| -> Vec<u64> {
        let named = |key: u64| {
            find(items, key).is_some_and(|(_, item)| !matches!(item.class, Class::Other))
        };
        let keys = text.words.iter().map(|word| word.key);
        keys.filter(|key| named(*key)).collect()
    };
    let (a, b) = (names(a, in_a), names(b, in_b));
    let repeats = (1..a.len()).any(|i| a[..i].contains(&a[i]));
    repeats && permuted(a, b)
}

/// Whether a thing has a part in `a` that another has in `b`, both being in both. Things of unlike
/// classes must have exchanged their parts in full: "from a string in Python" and "from a Python
/// string" are the same.
fn exchanged(a: &[Item], b: &[Item]) -> bool {
    a.iter().filter(|item| item.part != 0).any(|x| {
        let Some((_, x_in_b)) = find(b, x.key).filter(|(_, same)| same.part != x.part) else {
            return false;
        };
        b.iter().filter(|y| y.part == x.part).any(|y| {
            let y_in_a = find(a, y.key).filter(|(_, same)| same.part != y.part);
            y_in_a.is_some_and(|(_, y_in_a)| {
                y.class == x.class || y_in_a.part != 0 && x_in_b.part != 0
            })
        })
    })
}

/// Whether two things of one class stand the other way round, and not in a list.
fn turned(a: &Text<'_>, b: &Text<'_>, in_a: &[Item], in_b: &[Item]) -> bool {
    for (i, x) in in_a.iter().enumerate() {
        for y in &in_a[i + 1..] {
            if x.class != y.class || x.class == Class::Other {
                continue;
            }
            let (Some((at_x, there_x)), Some((at_y, there_y))) =
                (find(in_b, x.key), find(in_b, y.key))
            else {
                continue;
            };
            // "To London from Paris" is "from Paris to London".
            let told = x.part != 0 && y.part != 0 && x.part != y.part;
            let same = told && x.part == there_x.part && y.part == there_y.part;
            if at_y < at_x && !same && !listed(a, x.at, y.at) && !listed(b, there_y.at, there_x.at)
            {
                return true;
            }
        }
    }
    false
}

/// Whether all is as it was, but for two words that have changed places over another between them.
fn swapped(a: &Text<'_>, b: &Text<'_>, in_a: &[Item], in_b: &[Item]) -> bool {
    if in_a.len() != in_b.len() {
        return false;
    }
    let differ: Vec<usize> = (0..in_a.len())
        .filter(|i| in_a[*i].key != in_b[*i].key)
        .collect();
    let &[first, second] = differ.as_slice() else {
        return false;
    };
    let crossed = in_a[first].key == in_b[second].key && in_a[second].key == in_b[first].key;
    // "Chapter 3 of the book" is "the book's chapter 3".
    let genitive = |text: &Text<'_>| {
        text.source.contains("'s ") || text.words.iter().any(|word| text.form(word) == "of")
    };
    crossed
        && in_a[first].class == in_a[second].class
        && second > first + 1
        && !(genitive(a) && genitive(b))
        && !listed(a, in_a[first].at, in_a[second].at)
        && !listed(b, in_b[first].at, in_b[second].at)
}

/// Whether the same words fill the same frame in another order: "beans with rice", "rice with beans".
fn refilled(a: &Text<'_>, b: &Text<'_>) -> bool {
    let (mut in_a, mut in_b) = (bare(a), bare(b));
    let mut moved = Vec::new();
    loop {
        match (in_a.next(), in_b.next()) {
            (None, None) => break,
            (Some(x), Some(y)) => {
                let (one, other) = (&a.words[x], &b.words[y]);
                if one.key == other.key {
                    continue;
                }
                if one.role.function || other.role.function || !one.shared || !other.shared {
                    return false;
                }
                moved.push((x, y));
            }
            _ => return false,
        }
    }
    let (Some(first), Some(last)) = (moved.first(), moved.last()) else {
        return false;
    };
    // Words without grammar, as one types them into a search, have no order.
    let joined = (first.0..last.0).any(|at| a.words[at].role.function);
    let of_a = moved.iter().map(|(x, _)| a.words[*x].key).collect();
    let of_b = moved.iter().map(|(_, y)| b.words[*y].key).collect();
    joined
        && permuted::<u64>(of_a, of_b)
        && !listed(a, first.0, last.0)
        && !listed(b, first.1, last.1)
}

/// Whether in one text the speaker does what in the other somebody else does: "may I sue my uncle",
/// "may my uncle sue me".
fn turned_on_speaker(a: &Text<'_>, b: &Text<'_>) -> bool {
    // "Do you know me", "do I know you".
    let persons = |text: &Text<'_>| {
        let persons = text.words.iter().map(|word| word.role.person);
        persons.filter(|person| *person != 0).collect::<Vec<_>>()
    };
    if permuted(persons(a), persons(b)) {
        return true;
    }
    (speaks(a) != speaks(b) || inverted(a) != inverted(b)) && permuted(said(a), said(b))
}

/// The words of a text without who speaks of whom and of whose.
fn said(text: &Text<'_>) -> Vec<u64> {
    let whose = |word: &Word| {
        matches!(
            text.form(word),
            "my" | "our" | "your" | "his" | "its" | "their"
        )
    };
    let does = |word: &Word| matches!(text.form(word), "do" | "does" | "did");
    bare(text)
        .map(|at| &text.words[at])
        .filter(|word| word.role.person == 0 && !whose(word) && !does(word))
        .map(|word| word.key)
        .collect()
}

/// Whether a question for yes or no is about what a speaker does: "may I", "does she".
fn speaks(text: &Text<'_>) -> bool {
    let [first, next, ..] = text.words.as_slice() else {
        return false;
    };
    let asks = is_auxiliary(first) || matches!(text.form(first), "do" | "does");
    asks && next.role.person != 0
}

/// Whether a question is for whom something is done to: "who did she teach", not "who taught her".
fn inverted(text: &Text<'_>) -> bool {
    let asks = |word: &Word| matches!(text.form(word), "who" | "whom" | "which" | "what");
    let does = |word: &Word| matches!(text.form(word), "do" | "does" | "did");
    text.words.iter().any(asks) && text.words.iter().any(does)
}

/// Whether the same come in another order.
fn permuted<T: Ord>(mut a: Vec<T>, mut b: Vec<T>) -> bool {
    if a.len() != b.len() || a == b {
        return false;
    }
    a.sort_unstable();
    b.sort_unstable();
    a == b
}

/// Whether two words stand in a list, where order says nothing: "A and B", "A or B", "A, B".
fn listed(text: &Text<'_>, first: usize, second: usize) -> bool {
    let between = &text.words[first + 1..second];
    let only_and = between.iter().all(|word| {
        matches!(
            text.form(word),
            "and" | "or" | "vs" | "versus" | "the" | "a" | "an"
        )
    });
    let (start, end) = (text.words[first].span.end, text.words[second].span.start);
    let apart = &text.source[start..end];
    let comma = apart.contains([',', '/', '&', '+']);
    // "Compare cats with dogs".
    let compared = |word: &Word| {
        matches!(
            text.form(word),
            "between" | "both" | "difference" | "differ" | "compare"
        )
    };
    let joined = || {
        let joins = [" and ", " with ", " from "];
        joins.iter().any(|join| apart.contains(join))
    };
    // "Is every square a rectangle" is no list.
    let and = between.iter().any(|word| !word.role.article);
    only_and && (and || comma)
        || joined() && between.len() <= 5 && text.words[..first].iter().any(compared)
}
