//! Something more on one side: a sentence, or a word put in.

use super::Veto;
use super::text::{Text, Word};

/// Words of grammar that make another question where they are put in: "give" and "give up".
const PARTICLES: [&str; 24] = [
    "again", "already", "yet", "still", "up", "down", "off", "out", "over", "under", "through",
    "between", "against", "into", "onto", "if", "when", "while", "because", "than", "else",
    "where", "about", "without",
];

/// Whether one text has a sentence and the other has none left.
pub(super) fn sentence(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let silent = |text: &Text<'_>| text.source.is_empty() || text.words.is_empty();
    if silent(a) == silent(b) {
        return None;
    }
    // "Thank you." changes nothing, all else may.
    let polite = |text: &Text<'_>| {
        text.words.iter().all(|word| word.role.function)
            && (text.words.is_empty() || text.words.iter().any(|word| word.role.polite))
            && text.literals.is_empty()
    };
    (!polite(a) || !polite(b)).then_some(Veto::Extra)
}

/// Whether one text is the other with a word put in: "a recipe" and "a vegan recipe".
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let (of_a, of_b) = apart(a, b);
    let content = |words: &[Word]| words.iter().any(|word| !word.role.function && !word.number);
    let bare = |words: &[Word]| words.iter().all(|word| word.role.article);
    let turns = |text: &Text<'_>, words: &[Word]| {
        words
            .iter()
            .any(|word| PARTICLES.contains(&text.form(word)))
    };
    let more = |text: &Text<'_>, words: &[Word]| content(words) || turns(text, words);
    let put_in = more(a, of_a) && bare(of_b) || more(b, of_b) && bare(of_a);
    put_in.then_some(Veto::Extra)
}

/// The words between those that both texts begin with and those that both end with.
pub(super) fn apart<'t>(a: &'t Text<'_>, b: &'t Text<'_>) -> (&'t [Word], &'t [Word]) {
    let (in_a, in_b) = (&a.words, &b.words);
    let same = |(x, y): &(&Word, &Word)| x.key == y.key;
    let start = in_a.iter().zip(in_b).take_while(same).count();
    let most = in_a.len().min(in_b.len()) - start;
    let back = in_a.iter().rev().zip(in_b.iter().rev());
    let end = back.take(most).take_while(same).count();
    (
        &in_a[start..in_a.len() - end],
        &in_b[start..in_b.len() - end],
    )
}
