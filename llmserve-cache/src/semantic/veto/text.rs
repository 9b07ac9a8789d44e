//! A text taken apart: words, numbers, code.

use std::ops::Range;

use super::code;
use super::lexicon::{LEXICON, Role, Sense, hash};
use super::number::{self, Number};
use super::stem::inflected;

/// A word of a text, or a run of digits in it.
#[derive(Clone, Debug)]
pub(super) struct Word {
    /// Where it stands in the text as written.
    pub(super) span: Range<usize>,
    /// Where it stands in the text in lower case.
    form: Range<usize>,
    /// The same for all forms and all words for the same thing.
    pub(super) key: u64,
    /// Of its stem alone.
    stem: u64,
    pub(super) capital: bool,
    /// All of it capitals, and more than one.
    pub(super) acronym: bool,
    /// First of a sentence, so that a capital says nothing.
    pub(super) first: bool,
    pub(super) role: Role,
    /// Written in digits, or begins with one.
    pub(super) digits: bool,
    /// Has a digit in it.
    pub(super) mixed: bool,
    /// The other text has it too, in some form: see [`meet`].
    pub(super) shared: bool,
    /// Part of a number.
    pub(super) number: bool,
    pub(super) senses: &'static [Sense],
    /// What it stands for together with the next one.
    pub(super) phrase: Option<Sense>,
}

/// A text taken apart once, to be compared with others.
#[derive(Clone, Debug)]
pub(super) struct Text<'t> {
    pub(super) source: &'t str,
    lower: String,
    pub(super) words: Vec<Word>,
    pub(super) numbers: Vec<Number>,
    /// Code, quotations, paths: to be found in the other text letter by letter.
    pub(super) literals: Vec<Range<usize>>,
    /// Capitals everywhere, as in a headline: they say nothing.
    pub(super) headline: bool,
}

impl<'t> Text<'t> {
    /// Takes a text apart; `near` is one that has most of its words, so that they need not be looked
    /// up again.
    pub(super) fn new(source: &'t str, near: Option<&Text<'_>>) -> Self {
        let mut text = Self {
            source,
            lower: String::with_capacity(source.len() + 8),
            words: Vec::with_capacity(source.len() / 5 + 1),
            numbers: Vec::new(),
            literals: Vec::new(),
            headline: false,
        };
        let mut first = true;
        let mut at = 0;
        while let Some(c) = source[at..].chars().next() {
            if c.is_whitespace() {
                first |= c == '\n';
                at += c.len_utf8();
            } else if let Some(end) = code::quotation(source, at) {
                text.literals.push(at..end);
                first = false;
                at = end;
            } else {
                let end = code::chunk(source, at);
                let ends = source[..end].ends_with(['.', '?', '!', ':']);
                if let Some(literal) = code::literal(source, at..end) {
                    text.literals.push(literal);
                } else {
                    text.split(at..end, first);
                }
                first = ends;
                at = end;
            }
        }
        text.look_up(near);
        text.numbers = number::numbers(&text);
        for number in &text.numbers {
            text.words[number.words.clone()]
                .iter_mut()
                .for_each(|word| word.number = true);
        }
        text
    }

    /// A word in lower case.
    pub(super) fn form(&self, word: &Word) -> &str {
        &self.lower[word.form.clone()]
    }

    /// Splits what stands between two spaces into words.
    fn split(&mut self, chunk: Range<usize>, mut first: bool) {
        let source = self.source;
        let mut at = chunk.start;
        while at < chunk.end {
            let rest = &source[at..chunk.end];
            let Some(c) = rest.chars().next() else { break };
            let length = if let Some(length) = code::language(rest) {
                length
            } else if c.is_ascii_digit() {
                number::digits(rest)
            } else if c.is_alphanumeric() {
                word(rest)
            } else if c == '°' && rest[c.len_utf8()..].starts_with(['C', 'F', 'c', 'f']) {
                c.len_utf8() + 1
            } else if "%$€£¥₹".contains(c) {
                c.len_utf8()
            } else {
                at += c.len_utf8();
                continue;
            };
            first = self.push(at..at + length, first);
            at += length;
        }
    }

    /// Adds a word, contractions as the words they stand for. Whether the next is first.
    fn push(&mut self, span: Range<usize>, first: bool) -> bool {
        let written = &self.source[span.clone()];
        let (body, contracted) = contraction(written);
        if body.is_empty() {
            return first;
        }
        let end = span.start + body.len();
        // What "not" has changed: "can't" has but one n, and "won't" is of "will".
        let form = match body {
            _ if contracted.is_none() => body,
            "ca" | "Ca" => "can",
            "wo" | "Wo" => "will",
            "sha" | "Sha" => "shall",
            _ => body,
        };
        self.push_form(span.start..end, form, first);
        if contracted == Some("not") {
            self.push_form(end..span.end, "not", false);
        }
        false
    }

    fn push_form(&mut self, span: Range<usize>, form: &str, first: bool) {
        let start = self.lower.len();
        if form.is_ascii() && !form.contains('.') {
            self.lower.push_str(form);
            self.lower[start..].make_ascii_lowercase();
        } else {
            self.push_lower(form);
        }
        let letters = || form.chars().filter(|c| c.is_alphabetic());
        let capital = form.starts_with(char::is_uppercase);
        self.words.push(Word {
            span,
            form: start..self.lower.len(),
            key: 0,
            stem: 0,
            capital,
            acronym: capital && letters().count() > 1 && letters().all(char::is_uppercase),
            first,
            role: Role::default(),
            digits: form.starts_with(|c: char| c.is_ascii_digit()),
            mixed: form.bytes().any(|b| b.is_ascii_digit()),
            shared: false,
            number: false,
            senses: &[],
            phrase: None,
        });
    }

    fn push_lower(&mut self, form: &str) {
        for c in form.chars() {
            // A dotted acronym is the same without its dots.
            if c != '.' || form.starts_with(|c: char| c.is_ascii_digit()) {
                if c.is_ascii() {
                    self.lower.push(c.to_ascii_lowercase());
                } else {
                    self.lower.extend(c.to_lowercase());
                }
            }
        }
    }

    /// Looks every word up.
    fn look_up(&mut self, near: Option<&Text<'_>>) {
        let lexicon = &*LEXICON;
        let count = self.words.len();
        for (at, word) in self.words.iter_mut().enumerate() {
            let form = &self.lower[word.form.clone()];
            // At the same place, from either end.
            let same = near.and_then(|near| {
                let from_end = (near.words.len() + at).checked_sub(count);
                let places = [Some(at), from_end];
                let mut words = places
                    .into_iter()
                    .flatten()
                    .filter_map(|at| near.words.get(at));
                words.find(|word| near.form(word) == form)
            });
            if let Some(same) = same {
                (word.role, word.stem, word.senses, word.key) =
                    (same.role, same.stem, same.senses, same.key);
                continue;
            }
            word.role = lexicon.role(hash(form));
            let stemmed = if word.role.whole {
                hash(form)
            } else if form.is_ascii() {
                hash(inflected(form))
            } else {
                hash(inflected(&without_accents(form)))
            };
            word.stem = stemmed;
            word.senses = lexicon.senses(stemmed);
            let synonym = word.senses.iter().find_map(|sense| match sense {
                Sense::Synonym(id) => Some(u64::from(*id)),
                _ => None,
            });
            word.key = synonym.unwrap_or(stemmed | 1 << 63);
        }
        for at in 1..count {
            let next = self.words[at].stem;
            let word = &mut self.words[at - 1];
            word.phrase = lexicon.phrase(word.stem, next);
        }
        let (mut long, mut capitals) = (0, 0);
        for word in &self.words {
            let letters = word.span.len() > 3 && !word.digits && !word.first;
            long += usize::from(letters);
            capitals += usize::from(letters && word.capital);
        }
        self.headline = long >= 4 && 10 * capitals >= 9 * long;
    }

    /// Words with a subject of their own.
    pub(super) fn content(&self) -> impl Iterator<Item = (usize, &Word)> {
        let content = |(_, word): &(usize, &Word)| !word.role.function;
        self.words.iter().enumerate().filter(content)
    }

    /// The places of words that the tables know something of.
    pub(super) fn meaningful(&self) -> impl Iterator<Item = usize> + '_ {
        let known = |word: &Word| !word.senses.is_empty() || word.phrase.is_some();
        let words = self.words.iter().enumerate();
        words.filter(move |(_, word)| known(word)).map(|(at, _)| at)
    }

    /// What a word stands for here, of all that it may stand for.
    pub(super) fn senses(&self, at: usize) -> impl Iterator<Item = Sense> + '_ {
        let word = &self.words[at];
        // "US dollars" are not from the United States.
        let alone: &[Sense] = if word.phrase.is_some() {
            &[]
        } else {
            word.senses
        };
        let counts = move |sense: &Sense| self.counts(at, *sense);
        alone.iter().copied().chain(word.phrase).filter(counts)
    }

    /// Whether a word is written, and stands, as one of that sense does.
    fn counts(&self, at: usize, sense: Sense) -> bool {
        let word = &self.words[at];
        let before = at.checked_sub(1).map(|i| &self.words[i]);
        match sense {
            Sense::Kind { capital: true, .. } => {
                let written = word.capital && !word.first || self.form(word).contains(['+', '#']);
                let named = before.is_some_and(|before| {
                    let form = self.form(before);
                    matches!(form, "in" | "with" | "using" | "on" | "into" | "to")
                });
                written || named && word.span.len() > 2 || word.acronym
            }
            // "Seconds" are a unit anywhere, "second" need not be.
            Sense::Unit { behind: true, .. } => {
                let number = before.is_some_and(|before| {
                    let form = self.form(before);
                    before.digits || number::is_number_word(form) || form == "$"
                });
                number || word.span.len() > 4 && self.form(word).ends_with('s')
            }
            _ => true,
        }
    }
}

/// Notes of every word whether the other text has it too.
pub(super) fn meet(a: &mut Text<'_>, b: &mut Text<'_>) {
    // Near texts mostly have the same words at the same place, from either end.
    fn note<'w>(a: impl Iterator<Item = &'w mut Word>, b: impl Iterator<Item = &'w mut Word>) {
        let pairs = a.zip(b).take_while(|(x, y)| x.key == y.key);
        pairs.for_each(|(x, y)| (x.shared, y.shared) = (true, true));
    }
    note(a.words.iter_mut(), b.words.iter_mut());
    note(a.words.iter_mut().rev(), b.words.iter_mut().rev());
    let search = |words: &mut [Word], other: &[Word]| {
        for word in words.iter_mut().filter(|word| !word.shared) {
            word.shared = other.iter().any(|other| other.key == word.key);
        }
    };
    search(&mut a.words, &b.words);
    search(&mut b.words, &a.words);
}

/// The length of the word that a text begins with: letters and digits, apostrophes between letters,
/// dots between single letters.
fn word(rest: &str) -> usize {
    let mut end = 0;
    let mut run = 0;
    let mut chars = rest.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, c)| *c);
        if c.is_alphanumeric() {
            run += 1;
            end = at + c.len_utf8();
        } else if next.is_some_and(char::is_alphabetic)
            && (matches!(c, '\'' | '’') || c == '.' && run == 1)
        {
            run = 0;
        } else {
            break;
        }
    }
    end
}

/// A word without the accents that people leave out: "café". Umlauts and "ñ" make other words.
fn without_accents(form: &str) -> String {
    let plain = |c| match c {
        'á' | 'à' | 'â' | 'ã' => 'a',
        'é' | 'è' | 'ê' | 'ë' => 'e',
        'í' | 'ì' | 'î' | 'ï' => 'i',
        'ó' | 'ò' | 'ô' | 'õ' => 'o',
        'ú' | 'ù' | 'û' => 'u',
        'ç' => 'c',
        c => c,
    };
    form.chars().map(plain).collect()
}

/// A word without what is contracted to it, and the word that this stands for.
fn contraction(word: &str) -> (&str, Option<&'static str>) {
    let Some(at) = word.rfind(['\'', '’']) else {
        return (word, None);
    };
    let mark = if word[at..].starts_with('\'') {
        1
    } else {
        '’'.len_utf8()
    };
    let ending = &word[at + mark..];
    if ending.eq_ignore_ascii_case("t") {
        let body = &word[..at];
        let body = body.strip_suffix(['n', 'N']).unwrap_or(body);
        return (body, Some("not"));
    }
    (&word[..at], None)
}
