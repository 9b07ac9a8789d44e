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
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::LazyLock;

use super::language::COMMON;
use super::negation::DENIALS;
use super::number;
use super::order::{PARTS, PERSONS};
use super::scope::SCOPES;
use super::slot::FREE;
use super::stem::{WHOLE, stem};
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
    /// Adds little to a question: its absence is no difference.
    Light,
}

/// How a word takes part in grammar, by its whole form.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Role {
    pub(super) function: bool,
    pub(super) polite: bool,
    pub(super) article: bool,
    pub(super) negation: bool,
    /// Says no, or may do so where it stands.
    pub(super) denial: bool,
    /// May begin a number in words.
    pub(super) counts: bool,
    /// Who speaks, is spoken to or spoken of, or 0: see [`PERSONS`](super::order::PERSONS).
    pub(super) person: u8,
    /// Already its own stem, whatever it ends like.
    pub(super) whole: bool,
    /// A bit for each language that it is common in: see [`COMMON`](super::language::COMMON).
    pub(super) languages: u8,
    /// The part that it gives the word after it, or 0: see [`PARTS`](super::order::PARTS).
    pub(super) part: u8,
    /// A bit for each group that it is in: see [`FREE`](super::slot::FREE).
    pub(super) free: u32,
    /// How much it claims, or 0: see [`SCOPES`](super::scope::SCOPES).
    pub(super) scope: u8,
}

/// What a word is looked up by. Two words of one hash would be taken for each other; of the few
/// thousand here no two are, and for a word of a text to be has a chance of about 2⁻⁵².
pub(super) fn hash(word: &str) -> u64 {
    xxhash_rust::xxh3::xxh3_64(word.as_bytes())
}

/// For keys that are hashes already.
#[derive(Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Map<T> = HashMap<u64, T, BuildHasherDefault<AsIs>>;

/// The tables in one.
pub(super) struct Lexicon {
    roles: Map<Role>,
    senses: Map<Vec<Sense>>,
    /// Senses of two words in a row, by the first: the second and the sense.
    phrases: Map<Vec<(u64, Sense)>>,
}

/// Of all tables, made once.
pub(super) static LEXICON: LazyLock<Lexicon> = LazyLock::new(Lexicon::new);

impl Lexicon {
    fn new() -> Self {
        let mut lexicon = Self {
            roles: Map::default(),
            senses: Map::default(),
            phrases: Map::default(),
        };
        for word in function::FUNCTION.split_whitespace() {
            lexicon.role_of(word).function = true;
        }
        for word in function::ARTICLES.split_whitespace() {
            lexicon.role_of(word).article = true;
        }
        for word in function::POLITE.split_whitespace() {
            let role = lexicon.role_of(word);
            (role.function, role.polite) = (true, true);
        }
        for word in function::NEGATION.split_whitespace() {
            let role = lexicon.role_of(word);
            (role.function, role.negation, role.denial) = (true, true, true);
        }
        for word in DENIALS.split_whitespace() {
            lexicon.role_of(word).denial = true;
        }
        for word in number::words() {
            lexicon.role_of(word).counts = true;
        }
        for (person, (subject, object)) in (1..).zip(PERSONS) {
            lexicon.role_of(subject).person = person;
            lexicon.role_of(object).person = person;
        }
        for word in WHOLE {
            lexicon.role_of(word).whole = true;
        }
        for (language, words) in COMMON.iter().enumerate() {
            for word in words.split_whitespace() {
                lexicon.role_of(word).languages |= 1 << language;
            }
        }
        for (word, part) in PARTS {
            lexicon.role_of(word).part = *part;
        }
        for (group, words) in FREE.iter().enumerate() {
            for word in words.split_whitespace() {
                lexicon.role_of(word).free |= 1 << group;
            }
        }
        for (word, scope) in SCOPES {
            lexicon.role_of(word).scope = *scope;
        }
        for word in function::LIGHT.split_whitespace() {
            lexicon.add(word, Sense::Light);
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

    fn role_of(&mut self, word: &str) -> &mut Role {
        self.roles.entry(hash(word)).or_default()
    }

    fn add(&mut self, name: &str, sense: Sense) {
        let name = name.to_lowercase();
        match name.split_once('_') {
            Some((first, second)) => {
                let phrases = self.phrases.entry(hash(stem(first))).or_default();
                phrases.push((hash(stem(second)), sense));
            }
            None => {
                let senses = self.senses.entry(hash(stem(&name))).or_default();
                if !senses.contains(&sense) {
                    senses.push(sense);
                }
            }
        }
    }

    /// How a word takes part in grammar, by the [`hash`] of its form in lower case.
    pub(super) fn role(&self, form: u64) -> Role {
        self.roles.get(&form).copied().unwrap_or_default()
    }

    /// What a word may stand for, by the [`hash`] of its stem.
    pub(super) fn senses(&self, stem: u64) -> &[Sense] {
        self.senses.get(&stem).map_or(&[], Vec::as_slice)
    }

    /// What two words in a row stand for, by the [`hash`]es of their stems.
    pub(super) fn phrase(&self, first: u64, second: u64) -> Option<Sense> {
        let phrases = self.phrases.get(&first)?;
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
