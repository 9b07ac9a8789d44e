//! The words in which two texts differ.

use super::Focus;
use super::text::Text;

/// What each text says and the other does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wording {
    pub(crate) a: String,
    pub(crate) b: String,
    /// Nothing but these words is different: one was put in the other's place.
    pub(crate) replaced: bool,
}

/// The words of their own that two texts have each.
pub(crate) fn wording(focus: &Focus<'_>) -> Wording {
    let (a, b) = (Text::new(focus.a), Text::new(focus.b));
    let own = |a: &Text<'_>, b: &Text<'_>| {
        let own: Vec<&str> = a
            .content()
            .filter(|(_, word)| !word.number && !b.has(word.key))
            .map(|(_, word)| a.form(word))
            .collect();
        own.join(" ")
    };
    let (in_a, in_b) = (&a.words, &b.words);
    let same = |(x, y): &(&super::text::Word, &super::text::Word)| x.key == y.key;
    let start = in_a.iter().zip(in_b).take_while(same).count();
    let most = in_a.len().min(in_b.len()) - start;
    let back = in_a.iter().rev().zip(in_b.iter().rev());
    let end = back.take(most).take_while(same).count();
    let content = |text: &Text<'_>| {
        let middle = &text.words[start..text.words.len() - end];
        middle
            .iter()
            .filter(|word| !word.role.function && !word.number)
            .count()
    };
    let replaced = (1..=2).contains(&content(&a)) && (1..=2).contains(&content(&b));
    Wording {
        a: own(&a, &b),
        b: own(&b, &a),
        replaced,
    }
}
