//! Small changes to a template's text before it is compiled.
//!
//! * `{% generation %}` and `{% endgeneration %}` mark the assistant's words for training. They
//!   become an `if` that is always true, which treats the white space around it the same way.
//! * `{% set ns.x = value %}` becomes `{% set ns.x = (value) | flat %}`. A namespace is the only thing
//!   that a template can change, hence the only way to build a value that contains itself or nests
//!   without bound; printing or dropping one overflows the stack and takes the process along. The
//!   filter refuses such values.

use minijinja::value::{Value, ValueKind};
use minijinja::{Error, ErrorKind};

/// The name of [`flat`] as a filter.
pub(super) const FLAT: &str = "flat";
/// Nesting of a value that a namespace may hold. Conversations nest by a handful.
const MAX_DEPTH: usize = 32;

/// The changed text. Lines keep their numbers.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source;
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let length = match tag.as_bytes().get(1) {
            Some(b'#') => tag.find("#}").map_or(tag.len(), |end| end + 2),
            Some(b'{') => expression_end(tag, "}}"),
            Some(b'%') => {
                let end = expression_end(tag, "%}");
                let (block, after) = tag.split_at(end);
                out.push_str(&rewrite_block(block));
                rest = after;
                if keyword(block) == "raw" {
                    let end = raw_end(rest);
                    out.push_str(&rest[..end]);
                    rest = &rest[end..];
                }
                continue;
            }
            _ => 1,
        };
        out.push_str(&tag[..length]);
        rest = &tag[length..];
    }
    out.push_str(rest);
    out
}

/// Refuses what a namespace must not hold: a namespace, or anything nested too deeply. An iterator
/// becomes the list of its items, which can be looked into.
pub(super) fn flat(value: Value) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable => value.try_iter()?.collect(),
        _ => value,
    };
    let namespace = minijinja::functions::namespace(None)?;
    check(&value, &namespace, 0)?;
    Ok(value)
}

fn check(value: &Value, namespace: &Value, depth: usize) -> Result<(), Error> {
    let refuse = |reason: String| Err(Error::new(ErrorKind::InvalidOperation, reason));
    let kind = |value: &Value| value.as_object().map(|object| object.type_name());
    if kind(value).is_some() && kind(value) == kind(namespace) {
        return refuse("a namespace cannot hold a namespace".to_owned());
    }
    if depth > MAX_DEPTH {
        return refuse(format!(
            "a namespace cannot hold values nested deeper than {MAX_DEPTH}"
        ));
    }
    match value.kind() {
        ValueKind::Seq => {
            for item in value.try_iter()? {
                check(&item, namespace, depth + 1)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                check(&value.get_item(&key)?, namespace, depth + 1)?;
            }
        }
        // It holds what it was made of out of sight.
        ValueKind::Iterable => {
            return refuse("a namespace cannot hold an iterator within a value".to_owned());
        }
        _ => {}
    }
    Ok(())
}

/// The length of `tag`, which opens with two characters, up to and with its `close`.
fn expression_end(tag: &str, close: &str) -> usize {
    let bytes = tag.as_bytes();
    let (mut at, mut depth) = (2, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            _ if depth == 0 && bytes[at..].starts_with(close.as_bytes()) => {
                return at + close.len();
            }
            quote @ (b'"' | b'\'') => {
                at = string_end(bytes, at, quote);
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// Where the string that starts at `at` is over.
fn string_end(bytes: &[u8], mut at: usize, quote: u8) -> usize {
    at += 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 1,
            b if b == quote => return at + 1,
            _ => {}
        }
        at += 1;
    }
    bytes.len()
}

/// What is between the marks of a block tag, and the marks.
fn parts(block: &str) -> Option<(&str, &str, &str)> {
    let inner = block.strip_prefix("{%")?.strip_suffix("%}")?;
    let body = inner.strip_prefix(['-', '+']).unwrap_or(inner);
    let open = &inner[..inner.len() - body.len()];
    let stripped = body.strip_suffix(['-', '+']).unwrap_or(body);
    Some((open, stripped, &body[stripped.len()..]))
}

fn keyword(block: &str) -> &str {
    parts(block)
        .and_then(|(_, body, _)| body.split_whitespace().next())
        .unwrap_or_default()
}

/// The length of a raw block's content with its closing tag.
fn raw_end(rest: &str) -> usize {
    let mut at = 0;
    while let Some(start) = rest[at..].find("{%") {
        let from = at + start;
        let Some(length) = rest[from..].find("%}") else {
            break;
        };
        let end = from + length + 2;
        if keyword(&rest[from..end]) == "endraw" {
            return end;
        }
        at = from + 2;
    }
    rest.len()
}

fn rewrite_block(block: &str) -> String {
    let Some((open, body, close)) = parts(block) else {
        return block.to_owned();
    };
    match keyword(block) {
        "generation" => block.replacen("generation", "if true", 1),
        "endgeneration" => block.replacen("endgeneration", "endif", 1),
        "set" => match assignment(body) {
            Some((target, value)) if target.contains('.') && !value.trim().is_empty() => {
                format!("{{%{open}{target}=({value})|{FLAT} {close}%}}")
            }
            _ => block.to_owned(),
        },
        _ => block.to_owned(),
    }
}

/// The two sides of an assignment.
fn assignment(body: &str) -> Option<(&str, &str)> {
    let bytes = body.as_bytes();
    let (mut at, mut depth) = (0, 0usize);
    while at < bytes.len() {
        match bytes[at] {
            quote @ (b'"' | b'\'') => {
                at = string_end(bytes, at, quote);
                continue;
            }
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'=' if depth == 0 => return Some((&body[..at], &body[at + 1..])),
            _ => {}
        }
        at += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::rewrite;
    use proptest::prelude::*;

    #[test]
    fn only_the_tags_in_question_change() {
        for (source, expected) in [
            (
                "{% generation %}x{%- endgeneration +%}",
                "{% if true %}x{%- endif +%}",
            ),
            ("{%- set ns.x = 1 -%}", "{%- set ns.x =( 1 )|flat -%}"),
            ("{%set ns.x=ns.x+1%}", "{%set ns.x=(ns.x+1)|flat %}"),
            (
                "{% set ns.x = 'a%}' ~ \"=\" if b == c else {'d': 2} %}",
                "{% set ns.x =( 'a%}' ~ \"=\" if b == c else {'d': 2} )|flat %}",
            ),
            (
                "{% set (ns.a, b) = (1, 2) %}",
                "{% set (ns.a, b) =( (1, 2) )|flat %}",
            ),
            ("{% set x = a.b %}", "{% set x = a.b %}"),
            (
                "{% set ns.x %}{% set ns.y = 1%}",
                "{% set ns.x %}{% set ns.y =( 1)|flat %}",
            ),
            ("{{ '{% set ns.x = 1 %}' }}", "{{ '{% set ns.x = 1 %}' }}"),
            (
                "{{ {'a': {'b': '}}'}} }}{# {% set ns.x = 1 %} #}",
                "{{ {'a': {'b': '}}'}} }}{# {% set ns.x = 1 %} #}",
            ),
            (
                "{% raw %}{% set ns.x = 1 %}{{ {%- endraw %}{% set ns.x = 1 %}",
                "{% raw %}{% set ns.x = 1 %}{{ {%- endraw %}{% set ns.x =( 1 )|flat %}",
            ),
            ("{ {% broken", "{ {% broken"),
            ("{%", "{%"),
            ("{{ 'open", "{{ 'open"),
        ] {
            assert_eq!(rewrite(source), expected);
        }
    }

    proptest! {
        #[test]
        fn text_without_those_tags_is_kept(source in "(\\{\\{|\\}\\}|\\{%|%\\}|\\{#|#\\}|raw|endraw| |é|'|\"|\\\\|-|\\(|\\)|if){0,30}") {
            prop_assert_eq!(rewrite(&source), source);
        }
    }
}
