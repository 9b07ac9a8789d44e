//! What is known of single words: tables, and one map over all of them.
//!
//! The tables are of the language, not of any set of questions. Where they are silent, the index
//! compares what two texts differ in by its embedder.

mod function;
mod kinds;
mod opposites;
mod synonyms;
mod units;

use std::collections::HashMap;
use std::sync::LazyLock;

use super::stem::stem;
pub(super) use kinds::{Sort, Weight};

/// What a word may stand for. A word has none, one or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sense {
    /// One of several words for the same.
    Synonym(u16),
    /// One side of a pair of opposites.
    Side { pair: u16, second: bool },
    /// A member of a kind; `capital` if only where written so.
    Kind {
        kind: u16,
        member: u16,
        capital: bool,
    },
    /// A unit; `behind` if only behind a number.
    Unit { unit: u16, behind: bool },
}

/// How a word takes part in grammar, by its whole form.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Role {
    pub(super) function: bool,
    pub(super) polite: bool,
    pub(super) article: bool,
    pub(super) negation: bool,
}

/// The tables in one.
pub(super) struct Lexicon {
    roles: HashMap<&'static str, Role>,
    senses: HashMap<&'static str, Vec<Sense>>,
    /// Senses of two words in a row, by the first.
    phrases: HashMap<&'static str, Vec<(&'static str, Sense)>>,
}

/// Of all tables, made once.
pub(super) static LEXICON: LazyLock<Lexicon> = LazyLock::new(Lexicon::new);

impl Lexicon {
    fn new() -> Self {
        let mut lexicon = Self {
            roles: HashMap::new(),
            senses: HashMap::new(),
            phrases: HashMap::new(),
        };
        for word in function::FUNCTION.split_whitespace() {
            lexicon.roles.entry(word).or_default().function = true;
        }
        for word in function::ARTICLES.split_whitespace() {
            lexicon.roles.entry(word).or_default().article = true;
        }
        for word in function::POLITE.split_whitespace() {
            let role = lexicon.roles.entry(word).or_default();
            (role.function, role.polite) = (true, true);
        }
        for word in function::NEGATION.split_whitespace() {
            let role = lexicon.roles.entry(word).or_default();
            (role.function, role.negation) = (true, true);
        }
        for (id, line) in (0..).zip(synonyms::SYNONYMS) {
            for word in line.split_whitespace() {
                lexicon.add(word, Sense::Synonym(id));
            }
        }
        for (pair, line) in (0..).zip(opposites::OPPOSITES) {
            for (side, second) in line.split('/').zip([false, true]) {
                for word in side.split_whitespace() {
                    lexicon.add(word, Sense::Side { pair, second });
                }
            }
        }
        for (kind, (_, _, members)) in (0..).zip(kinds::KINDS) {
            for (member, names) in (0..).zip(members.split_whitespace()) {
                for name in names.split('=') {
                    let capital = name.starts_with(|c: char| c.is_uppercase());
                    let sense = Sense::Kind {
                        kind,
                        member,
                        capital,
                    };
                    lexicon.add(name, sense);
                }
            }
        }
        for (unit, names) in (0..).zip(units::UNITS.split_whitespace()) {
            for name in names.split('=') {
                let behind = units::BEHIND_NUMBER.contains(&name);
                lexicon.add(name, Sense::Unit { unit, behind });
            }
        }
        lexicon
    }

    fn add(&mut self, name: &'static str, sense: Sense) {
        // Looked up in lower case. The few names that need a capital live as long as the program.
        let name: &'static str = if name.chars().any(char::is_uppercase) {
            Box::leak(name.to_lowercase().into_boxed_str())
        } else {
            name
        };
        match name.split_once('_') {
            Some((first, second)) => {
                let phrases = self.phrases.entry(stem(first)).or_default();
                phrases.push((stem(second), sense));
            }
            None => {
                let senses = self.senses.entry(stem(name)).or_default();
                if !senses.contains(&sense) {
                    senses.push(sense);
                }
            }
        }
    }

    /// How a word takes part in grammar. `form` is in lower case.
    pub(super) fn role(&self, form: &str) -> Role {
        self.roles.get(form).copied().unwrap_or_default()
    }

    /// What a word may stand for, by its stem.
    pub(super) fn senses(&self, stem: &str) -> &[Sense] {
        self.senses.get(stem).map_or(&[], Vec::as_slice)
    }

    /// What two words in a row stand for, by their stems.
    pub(super) fn phrase(&self, first: &str, second: &str) -> Option<Sense> {
        let phrases = self.phrases.get(first)?;
        phrases
            .iter()
            .find(|(word, _)| *word == second)
            .map(|(_, sense)| *sense)
    }
}

/// What a difference in a kind is called, and how much its members weigh.
pub(super) fn kind(kind: u16) -> (Sort, Weight) {
    let (sort, weight, _) = kinds::KINDS[usize::from(kind)];
    (sort, weight)
}
