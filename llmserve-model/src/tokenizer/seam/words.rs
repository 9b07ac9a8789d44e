//! Seams between words: before the one space between two ASCII letters.
//!
//! Let `c` be the position of that space. Cutting there is safe if all of these hold:
//!
//! * The normaliser is absent or NFC. To NFC a space is a starter that composes with nothing, so it
//!   normalises both sides on their own; the left one still ends in the letter, and the right one
//!   still begins with the space.
//! * No added token, normalised or not, has an ASCII letter followed by a space, so none lies across
//!   `c`; and as in [`added`](super::added) the search then finds the same on both sides.
//! * None with `rstrip` ends in an ASCII letter: it would take the space. Others stop before the
//!   letter. None with `single_word` begins with a space: it would find a word before it, or not.
//!   Those with `lstrip` that begin behind the space take it and stop at the letter, or at the
//!   beginning.
//! * The pre-tokeniser always splits at `c`, and finds the same pieces on both sides. See
//!   [`splits`].

use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, NormalizedString, Normalizer, NormalizerWrapper, PreTokenizerWrapper,
    SplitDelimiterBehavior,
};

/// Whether words are apart for this tokeniser.
pub(super) fn are_apart(tokenizer: &tokenizers::Tokenizer) -> bool {
    let normalizer = tokenizer.get_normalizer();
    if !normalizer.is_none_or(is_nfc) || !tokenizer.get_pre_tokenizer().is_some_and(splits) {
        return false;
    }
    let tokens = tokenizer.get_added_vocabulary().get_added_tokens_decoder();
    tokens.values().all(|token| {
        let mut normalized = NormalizedString::from(token.content.as_str());
        let done = normalizer.is_none_or(|n| n.normalize(&mut normalized).is_ok());
        done && !reaches(token, &token.content) && !reaches(token, normalized.get())
    })
}

/// Whether the text has at `at` the space between two words.
pub(super) fn end_at(bytes: &[u8], at: usize) -> bool {
    let letter = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_alphabetic);
    bytes[at] == b' ' && letter(at - 1) && letter(at + 1)
}

fn is_nfc(normalizer: &NormalizerWrapper) -> bool {
    match normalizer {
        NormalizerWrapper::NFC(_) => true,
        NormalizerWrapper::Sequence(parts) => parts.as_ref().iter().all(is_nfc),
        _ => false,
    }
}

/// Whether the added token, found as `text`, may reach across.
fn reaches(token: &AddedToken, text: &str) -> bool {
    let bytes = text.as_bytes();
    let across = |two: &[u8; 2]| two[0].is_ascii_alphabetic() && two[1] == b' ';
    bytes.array_windows().any(across)
        || token.rstrip && bytes.last().is_some_and(u8::is_ascii_alphabetic)
        || token.single_word && bytes.first() == Some(&b' ')
}

/// Whether the pre-tokeniser always splits between an ASCII letter and a space, and finds on both
/// sides what it finds there in the whole.
///
/// Its parts work one after another, each on every piece of the one before. Until one of them splits
/// at `c`, those before it must leave the surroundings of `c` in one piece and find the same on both
/// sides. From then on nothing lies across `c`, and it is enough that the parts look at no offsets.
fn splits(pre_tokenizer: &PreTokenizerWrapper) -> bool {
    let parts = match pre_tokenizer {
        PreTokenizerWrapper::Sequence(parts) => parts.as_ref(),
        one => std::slice::from_ref(one),
    };
    let Some(at) = parts.iter().position(splits_there) else {
        return false;
    };
    let looks_at_its_piece = |part: &PreTokenizerWrapper| {
        matches!(
            part,
            PreTokenizerWrapper::ByteLevel(_)
                | PreTokenizerWrapper::Digits(_)
                | PreTokenizerWrapper::Punctuation(_)
                | PreTokenizerWrapper::Split(_)
        )
    };
    parts[..at].iter().all(leaves_alone) && parts[at + 1..].iter().all(looks_at_its_piece)
}

/// Whether the part splits at `c`, wherever that is in its piece.
///
/// `ByteLevel` does so by the pattern of GPT-2. With `add_prefix_space` it puts a space before a piece
/// that does not begin with one: before the left side as before the whole, and never before the
/// right side. Its mapping of bytes to letters comes after its splitting.
fn splits_there(part: &PreTokenizerWrapper) -> bool {
    match part {
        PreTokenizerWrapper::ByteLevel(level) => level.use_regex,
        PreTokenizerWrapper::Split(split) => isolates(split).is_some_and(is_known),
        _ => false,
    }
}

/// Whether the part cuts out characters that are neither ASCII letters nor spaces, and looks at
/// nothing around them.
fn leaves_alone(part: &PreTokenizerWrapper) -> bool {
    match part {
        PreTokenizerWrapper::Digits(_) => true,
        PreTokenizerWrapper::Split(split) => {
            isolates(split).is_some_and(|pattern| ALONE.contains(&pattern))
        }
        _ => false,
    }
}

/// The pattern, if its matches become pieces of their own.
fn isolates(split: &Split) -> Option<&str> {
    match &split.pattern {
        SplitPattern::Regex(pattern)
            if split.behavior == SplitDelimiterBehavior::Isolated && !split.invert =>
        {
            Some(pattern)
        }
        _ => None,
    }
}

/// Runs of digits, and of Chinese and Japanese characters.
const ALONE: &[&str] = &[r"\p{N}{1,3}", r"\p{N}", "[一-龥぀-ゟ゠-ヿ]+"];

/// Lower-case and upper-case ASCII letters.
const LOWER: u8 = 1;
const UPPER: u8 = 2;

/// The alternatives that the published patterns consist of, each with the ASCII letters it matches
/// wherever they stand:
///
/// * none matches a letter and, further on, a space: where a space may come, it comes first;
/// * none looks back, and the only one to look ahead, `\s+(?!\S)`, does so behind whitespace;
/// * none matches nothing.
///
/// So let the pattern consist of them and match every letter. The letter before `c` is in some match,
/// and that match ends at `c`. Up to there all is found as if the text ended at `c`: every match ends
/// there or before, and what is looked ahead at stands before `c`, as whitespace before `c` is
/// followed by that letter at the latest. From `c` on all is found as if the text began there.
const ALTERNATIVES: &[(&str, u8)] = &[
    // GPT-2 and those after it: contractions,
    ("'s", 0),
    ("'t", 0),
    ("'re", 0),
    ("'ve", 0),
    ("'m", 0),
    ("'ll", 0),
    ("'d", 0),
    ("'(?:[sdmt]|ll|ve|re)", 0),
    ("'(?i:[sdmt]|ll|ve|re)", 0),
    ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", 0),
    // words,
    (r" ?\p{L}+", LOWER | UPPER),
    (r" ?\p{L}++", LOWER | UPPER),
    (r"[^\r\n\p{L}\p{N}]?\p{L}+", LOWER | UPPER),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}+", LOWER | UPPER),
    (r"[^\r\n\p{L}\p{N}]?+\p{L}++", LOWER | UPPER),
    (r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+", LOWER | UPPER),
    (r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+", LOWER | UPPER),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
        LOWER,
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
        UPPER,
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        LOWER,
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        UPPER,
    ),
    (r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##, 0),
    // numbers,
    (r" ?\p{N}+", 0),
    (r" ?\p{N}++", 0),
    (r"\p{N}", 0),
    (r"\p{N}{1,3}", 0),
    (r"\p{N}{1,3}+", 0),
    // signs,
    (r" ?[^\s\p{L}\p{N}]+", 0),
    (r" ?[^\s\p{L}\p{N}]++", 0),
    (r" ?[^\s\p{L}\p{N}]+[\r\n]*", 0),
    (r" ?[^\s\p{L}\p{N}]++[\r\n]*", 0),
    (r" ?[^\s\p{L}\p{N}]+[\r\n/]*", 0),
    (r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*", 0),
    (r" ?[\p{P}\p{S}]+[\r\n]*", 0),
    // and whitespace.
    (r"\s*[\r\n]+", 0),
    (r"\s*[\r\n]", 0),
    (r"\s+(?!\S)", 0),
    (r"\s+", 0),
];

/// Whether the pattern consists of known alternatives and matches every letter. Some files have line
/// ends in it, others their escapes.
fn is_known(pattern: &str) -> bool {
    let pattern = pattern.replace('\r', r"\r").replace('\n', r"\n");
    letters_of(&pattern) == Some(LOWER | UPPER)
}

/// The letters that a pattern of known alternatives matches; none if it has others.
fn letters_of(pattern: &str) -> Option<u8> {
    ALTERNATIVES.iter().find_map(|(alternative, letters)| {
        let rest = pattern.strip_prefix(alternative)?;
        match rest.strip_prefix('|') {
            Some(rest) => Some(letters_of(rest)? | letters),
            None => rest.is_empty().then_some(*letters),
        }
    })
}
