//! What must stand in both texts letter by letter: code, paths, flags, quotations.

use std::ops::Range;

use super::Veto;
use super::lexicon::{LEXICON, hash};
use super::stem::stem;
use super::text::Text;

/// The longest quotation looked for, in bytes.
const LONGEST: usize = 400;

/// Languages whose names look like code.
const LANGUAGES: [&str; 4] = ["c++", "c#", "f#", "notepad++"];

/// The length of a language's name that a text begins with, if it begins with one of [`LANGUAGES`].
pub(super) fn language(rest: &str) -> Option<usize> {
    let marked = |at: usize| matches!(rest.as_bytes().get(at), Some(b'+' | b'#'));
    if !marked(1) && !marked(7) {
        return None;
    }
    let fits = |name: &&&str| {
        rest.get(..name.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(name))
            && !rest[name.len()..].starts_with(char::is_alphanumeric)
    };
    LANGUAGES.iter().find(fits).map(|name| name.len())
}

/// Where a quotation or a span of code that begins at `at` ends.
pub(super) fn quotation(source: &str, at: usize) -> Option<usize> {
    let rest = &source[at..];
    let open = rest.chars().next()?;
    let close = match open {
        '`' | '"' | '\'' => open,
        '“' | '„' => '”',
        '«' => '»',
        '‘' => '’',
        _ => return None,
    };
    let body = &rest[open.len_utf8()..];
    let mut from = 0;
    while let Some(found) = body[from..].find(close) {
        let end = from + found;
        let after = &body[end + close.len_utf8()..];
        // A single quotation mark may as well be an apostrophe.
        let single = matches!(close, '\'' | '’');
        if end > LONGEST {
            return None;
        }
        if end > 0 && !(single && after.starts_with(char::is_alphanumeric)) {
            return Some(at + open.len_utf8() + end + close.len_utf8());
        }
        from = end + close.len_utf8();
    }
    None
}

/// Where the run of characters that begins at `at` ends: at a space, but not within a call's
/// parentheses.
pub(super) fn chunk(source: &str, at: usize) -> usize {
    let rest = &source[at..];
    // Nearly every chunk is a plain word.
    let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b',' | b'.' | b'?' | b'-');
    let word = rest.bytes().take_while(plain).count();
    if rest
        .as_bytes()
        .get(word)
        .is_none_or(|b| *b == b' ' || *b == b'\n')
    {
        return at + word;
    }
    let mut depth = 0usize;
    let mut before = ' ';
    for (i, c) in rest.char_indices() {
        match c {
            '(' if depth > 0 || before.is_alphabetic() || before == '_' => depth += 1,
            ')' if depth > 0 => depth -= 1,
            '`' | '"' if i > 0 && depth == 0 => return at + i,
            _ if c.is_whitespace() => {
                let closes = || rest[i..].find(')').is_some_and(|far| far <= 80);
                if depth == 0 || !closes() {
                    return at + i;
                }
            }
            _ => {}
        }
        before = c;
    }
    source.len()
}

/// The part of a chunk that is code, if it is.
pub(super) fn literal(source: &str, chunk: Range<usize>) -> Option<Range<usize>> {
    let written = &source[chunk.clone()];
    // Nearly every chunk is a plain word.
    if written.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return camel(written).then_some(chunk);
    }
    let body = written.trim_end_matches(['.', ',', ';', '?', ':', '"', '\'']);
    let body = if body.ends_with("!=") {
        body
    } else {
        body.trim_end_matches('!')
    };
    let body = if body.contains('(') {
        body
    } else {
        body.trim_end_matches(')')
    };
    let front = body.trim_start_matches(['(', '"', '\'', '¿', '¡']);
    if front.is_empty() || language(front).is_some_and(|length| length == front.len()) {
        return None;
    }
    let start = chunk.start + (body.len() - front.len());
    is_code(front).then(|| start..start + front.len())
}

fn is_code(chunk: &str) -> bool {
    const PARTS: [&str; 17] = [
        "::", "()", "->", "=>", "==", "!=", "<=", ">=", "&&", "||", "++", "+=", "-=", "://", "[",
        "{", "\\",
    ];
    let bytes = chunk.as_bytes();
    if bytes.iter().all(|b| b.is_ascii_alphanumeric() || *b >= 128) {
        return camel(chunk);
    }
    let letter = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_alphabetic);
    if PARTS.iter().any(|part| chunk.contains(part))
        || bytes.len() > 1 && chunk.contains(['@', '_', '=', '<', '>'])
    {
        return true;
    }
    // Flags and paths.
    let flag = chunk.starts_with("--") && letter(2)
        || chunk.starts_with('-') && bytes.get(1).is_some_and(u8::is_ascii_digit)
        || chunk.starts_with('-') && letter(1) && bytes.len() <= 3;
    let path = chunk.starts_with('/') && letter(1)
        || chunk.starts_with("./")
        || chunk.starts_with("~/")
        || chunk.contains('/') && dotted(chunk);
    // An operator by itself. A dash, a slash or an ampersand is punctuation too.
    let operator = bytes.len() <= 3
        && bytes.iter().all(|b| b"+*=<>!&|^%~-/".contains(b))
        && !matches!(
            chunk,
            "-" | "--" | "---" | "/" | "&" | "%" | "!" | "!!" | "!!!" | "*" | "**"
        );
    flag || path || operator || call(chunk) || dotted(chunk) || camel(chunk)
}

/// `name(…)`, but not "file(s)" and not "401(k)".
fn call(chunk: &str) -> bool {
    let Some((name, rest)) = chunk.split_once('(') else {
        return false;
    };
    let identifier = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.');
    identifier && rest.ends_with(')') && !matches!(rest, "s)" | "es)" | "ies)")
}

/// `os.path`, `example.com`, `main.rs`: names of two letters and more with dots between.
fn dotted(chunk: &str) -> bool {
    let name = |part: &str| {
        part.len() >= 2
            && part.starts_with(|c: char| c.is_ascii_alphabetic())
            && part
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-/".contains(c))
    };
    chunk.contains('.') && chunk.split('.').all(name)
}

/// `getUser`, but not "iPhone" or "eBay", and no name that is known.
fn camel(chunk: &str) -> bool {
    if !chunk.bytes().skip(2).any(|b| b.is_ascii_uppercase()) {
        return false;
    }
    let humps = chunk
        .as_bytes()
        .windows(2)
        .enumerate()
        .any(|(i, pair)| i > 0 && pair[0].is_ascii_lowercase() && pair[1].is_ascii_uppercase());
    humps
        && chunk.starts_with(|c: char| c.is_ascii_lowercase())
        && chunk.bytes().all(|b| b.is_ascii_alphanumeric())
        && LEXICON.senses(hash(stem(&chunk.to_lowercase()))).is_empty()
}

/// Whether each text has the other's code and quotations.
pub(super) fn veto(a: &Text<'_>, b: &Text<'_>) -> Option<Veto> {
    let lacks = |a: &Text<'_>, b: &Text<'_>| {
        a.literals
            .iter()
            .any(|literal| !stands_in(&a.source[literal.clone()], b.source))
    };
    (lacks(a, b) || lacks(b, a)).then_some(Veto::Code)
}

/// Whether a literal stands in a text, as itself and not as a part of something longer. Prose in
/// quotation marks may differ in case.
fn stands_in(literal: &str, text: &str) -> bool {
    let marks = ['`', '"', '\'', '“', '”', '„', '«', '»', '‘', '’'];
    let bare = literal.trim_matches(marks).trim();
    let prose = literal.starts_with(marks) && !literal.starts_with('`');
    if bare.is_empty() {
        return true;
    }
    let (lower, lower_text);
    let (needle, hay) = if prose {
        (lower, lower_text) = (bare.to_lowercase(), text.to_lowercase());
        (lower.as_str(), lower_text.as_str())
    } else {
        (bare, text)
    };
    // "list.append()" stands for the same as "list.append".
    let needle = needle.strip_suffix("()").unwrap_or(needle);
    let needle = if prose {
        needle.trim_end_matches(['.', ',', '?', '!'])
    } else {
        needle
    };
    let operator = |c: char| "+-*/=<>!&|^%~".contains(c);
    let joins = |inner: char, outer: char| {
        inner.is_alphanumeric() && (outer.is_alphanumeric() || outer == '_')
            || inner == '_' && outer.is_alphanumeric()
            || operator(inner) && operator(outer)
            || (operator(inner) && outer.is_alphanumeric()
                || inner.is_alphanumeric() && operator(outer))
                && bare.contains(operator)
                && !prose
    };
    hay.match_indices(needle).any(|(at, _)| {
        let before = hay[..at].chars().next_back();
        let after = hay[at + needle.len()..].chars().next();
        let (start, end) = (needle.chars().next(), needle.chars().next_back());
        let joined = |inner: Option<char>, outer: Option<char>| match (inner, outer) {
            (Some(inner), Some(outer)) => joins(inner, outer),
            _ => false,
        };
        !joined(start, before) && !joined(end, after)
    })
}
