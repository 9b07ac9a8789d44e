//! From a constraint to the library's own form of a grammar.

use llguidance::api::TopLevelGrammar;
use llmserve_core::{Constraint, GrammarError};
use serde_json::{Value, json};

/// Work for the states in which a grammar's tokens begin.
pub(super) const LEXER_FUEL: u64 = 1_000_000;
/// States a matcher's tokens may have; one is a kilobyte or two.
pub(super) const LEXER_STATES: usize = 50_000;
/// Symbols of a grammar's rules.
pub(super) const GRAMMAR_SIZE: usize = 200_000;
/// Most texts of a choice.
const MAX_CHOICES: usize = 10_000;
/// Most bytes of a regular expression: the library's work for one grows faster than its length.
const MAX_REGEX: usize = 32 << 10;
/// Most bytes of all texts of a choice.
const MAX_CHOICE_TEXT: usize = 256 << 10;

/// The library's form of a constraint. Not all that it says is understood yet.
pub(super) fn grammar(constraint: &Constraint) -> Result<TopLevelGrammar, GrammarError> {
    match constraint {
        Constraint::JsonSchema(schema) => json_schema(schema),
        Constraint::Regex(regex) => {
            bounded("the expression's bytes", regex.len(), MAX_REGEX)?;
            Ok(TopLevelGrammar::from_regex(unanchored(regex)))
        }
        Constraint::Choice(texts) => choice(texts),
        Constraint::Lark(grammar) => Ok(TopLevelGrammar::from_lark(grammar.clone())),
        _ => Err(GrammarError::Compile("a kind that is not known".to_owned())),
    }
}

fn bounded(what: &str, is: usize, most: usize) -> Result<(), GrammarError> {
    if is <= most {
        return Ok(());
    }
    Err(GrammarError::TooComplex(format!(
        "{what} are {is}, the limit is {most}"
    )))
}

/// A schema whose JSON is written as `{"a": 1, "b": [2, 3]}`, with no other white space, unless the
/// schema's own `x-guidance` says how: a model that may write white space may write nothing else.
fn json_schema(text: &str) -> Result<TopLevelGrammar, GrammarError> {
    let mut schema: Value = serde_json::from_str(text)
        .map_err(|error| GrammarError::Compile(format!("the schema is not JSON: {error}")))?;
    if schema == Value::Bool(true) {
        schema = json!({});
    }
    let Some(object) = schema.as_object_mut() else {
        let reason = "a schema is an object, or true".to_owned();
        return Err(GrammarError::Compile(reason));
    };
    let style = json!({
        "whitespace_flexible": false,
        "item_separator": ", ",
        "key_separator": ": ",
    });
    object.entry("x-guidance").or_insert(style);
    Ok(TopLevelGrammar::from_json_schema(schema))
}

/// All of a text has to match, so anchors at the ends say nothing; the library has none.
fn unanchored(regex: &str) -> &str {
    let regex = regex.strip_prefix('^').unwrap_or(regex);
    match regex.strip_suffix('$') {
        Some(rest) if (rest.len() - rest.trim_end_matches('\\').len()) % 2 == 0 => rest,
        _ => regex,
    }
}

fn choice(texts: &[String]) -> Result<TopLevelGrammar, GrammarError> {
    bounded("the choices", texts.len(), MAX_CHOICES)?;
    let len = texts.iter().map(String::len).sum();
    bounded("the choices' bytes", len, MAX_CHOICE_TEXT)?;
    let mut regex = String::new();
    for text in texts {
        if !regex.is_empty() {
            regex.push('|');
        }
        for letter in text.chars() {
            // `\<` and `\>` are not those letters, but ends of words.
            if letter.is_ascii_punctuation() && !matches!(letter, '<' | '>') {
                regex.push('\\');
            }
            regex.push(letter);
        }
    }
    Ok(TopLevelGrammar::from_regex(&regex))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anchors_that_say_nothing_are_left_out() {
        for (regex, expected) in [
            ("^a+$", "a+"),
            ("a+", "a+"),
            (r"a\$", r"a\$"),
            (r"^a\\$", r"a\\"),
            (r"\^a", r"\^a"),
            ("^$", ""),
            ("$", ""),
        ] {
            assert_eq!(unanchored(regex), expected, "{regex}");
        }
    }
}
