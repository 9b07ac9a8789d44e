//! Small changes to a template's text before it is compiled.
//!
//! * `{% generation %}` and `{% endgeneration %}` mark the assistant's words for training. They
//!   become an `if` that is always true, which treats the white space around it the same way.
//! * `{% set ns.x = value %}` becomes `{% do __assign(ns,'x',(value)) %}`, see
//!   [`namespace`](super::namespace). What is overlooked here is refused by the renderer: nothing
//!   depends on reading the text exactly as the renderer does.

use super::namespace::ASSIGN;

/// Stands for an attribute until its value is there.
const HELD: &str = "__held";

/// The changed text. Lines keep their numbers.
pub(super) fn rewrite(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 64);
    let mut rest = source;
    // The attributes that the open `{% set … %}` blocks are for.
    let mut blocks = Vec::new();
    while let Some(start) = rest.find('{') {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let length = match tag.as_bytes().get(1) {
            Some(b'#') => tag[2..].find("#}").map_or(tag.len(), |end| end + 4),
            Some(b'{') => expression_end(tag, "}}"),
            Some(b'%') => {
                let end = expression_end(tag, "%}");
                let (block, after) = tag.split_at(end);
                out.push_str(&rewrite_block(block, &mut blocks));
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

fn rewrite_block(block: &str, blocks: &mut Vec<Option<String>>) -> String {
    let keep = || block.to_owned();
    let Some((open, body, close)) = parts(block) else {
        return keep();
    };
    match keyword(block) {
        "generation" => block.replacen("generation", "if true", 1),
        "endgeneration" => block.replacen("endgeneration", "endif", 1),
        "set" => {
            let after = body.trim_start().strip_prefix("set").unwrap_or_default();
            let Some((targets, value)) = assignment(after) else {
                let (target, filters) = after.split_at(after.find('|').unwrap_or(after.len()));
                let target = attribute(target);
                let text = match &target {
                    Some(_) => format!("{{%{open}{} {HELD} {filters}{close}%}}", space(body)),
                    None => keep(),
                };
                blocks.push(target.map(|target| target.assign(HELD)));
                return text;
            };
            if let Some(target) = attribute(targets) {
                let call = target.assign(&format!("({value})"));
                return format!("{{%{open}{}{call} {close}%}}", lines(targets));
            }
            let (targets, calls) = unpacked(targets);
            match calls.as_slice() {
                [] => keep(),
                calls => {
                    let calls = calls.join(" %}{%");
                    format!("{{%{open} set {targets}={value}%}}{{%{calls} {close}%}}")
                }
            }
        }
        "endset" => match blocks.pop().flatten() {
            Some(call) => format!("{{%{open} endset %}}{{%{call} {close}%}}"),
            None => keep(),
        },
        _ => keep(),
    }
}

/// An attribute that is assigned to.
struct Attribute<'a> {
    owner: &'a str,
    name: &'a str,
}

impl Attribute<'_> {
    fn assign(&self, value: &str) -> String {
        format!(" do {ASSIGN}({},'{}',{value})", self.owner, self.name)
    }
}

/// `target` as an attribute, if it is one.
fn attribute(target: &str) -> Option<Attribute<'_>> {
    let identifier = |part: &str| {
        let part = part.trim();
        !part.is_empty() && part.chars().all(|c| c.is_alphanumeric() || c == '_')
    };
    let (owner, name) = target.rsplit_once('.')?;
    let (owner, name) = (owner.trim(), name.trim());
    (identifier(name) && owner.split('.').all(identifier)).then_some(Attribute { owner, name })
}

/// The targets of `{% set a, ns.b = … %}` with names for the attributes, and what assigns those.
fn unpacked(targets: &str) -> (String, Vec<String>) {
    let mut calls = Vec::new();
    let mut out = String::new();
    for part in targets.split_inclusive(['(', ')', ',']) {
        let (target, mark) = match part.char_indices().next_back() {
            Some((at, '(' | ')' | ',')) => part.split_at(at),
            _ => (part, ""),
        };
        match attribute(target) {
            Some(target) => {
                let held = format!("{HELD}{}", calls.len());
                out.push_str(&held);
                calls.push(target.assign(&held));
            }
            None => out.push_str(target),
        }
        out.push_str(mark);
    }
    (out, calls)
}

/// The line breaks of a text that is left out.
fn lines(text: &str) -> String {
    text.chars().filter(|&c| c == '\n').collect()
}

/// `set` with the white space before it.
fn space(body: &str) -> &str {
    &body[..body.len() - body.trim_start().len() + "set".len()]
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
            ("{%- set ns.x = 1 -%}", "{%- do __assign(ns,'x',( 1 )) -%}"),
            ("{%set ns.x=ns.x+1%}", "{% do __assign(ns,'x',(ns.x+1)) %}"),
            (
                "{% set ns.x = 'a%}' ~ \"=\" if b == c else {'d': 2} %}",
                "{% do __assign(ns,'x',( 'a%}' ~ \"=\" if b == c else {'d': 2} )) %}",
            ),
            (
                "{% set (ns.a, b) = (1, 2) %}",
                "{% set  (__held0, b) = (1, 2) %}{% do __assign(ns,'a',__held0) %}",
            ),
            ("{% set x = a.b %}", "{% set x = a.b %}"),
            (
                "{% set ns.x | upper %}{% set y %}{% endset %}\n{%- endset -%}{% endset %}",
                "{% set __held | upper %}{% set y %}{% endset %}\n{%- endset %}{% do __assign(ns,'x',__held) -%}{% endset %}",
            ),
            ("{{ '{% set ns.x = 1 %}' }}", "{{ '{% set ns.x = 1 %}' }}"),
            (
                "{{ {'a': {'b': '}}'}} }}{# {% set ns.x = 1 %} #}",
                "{{ {'a': {'b': '}}'}} }}{# {% set ns.x = 1 %} #}",
            ),
            (
                "{% raw %}{% set ns.x = 1 %}{{ {%- endraw %}{% set ns.x = 1 %}",
                "{% raw %}{% set ns.x = 1 %}{{ {%- endraw %}{% do __assign(ns,'x',( 1 )) %}",
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
