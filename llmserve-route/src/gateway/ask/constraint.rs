//! The form an answer must have: OpenAI's `response_format`, vLLM's `structured_outputs`, and its
//! older `guided_*`.

use llmserve_core::{Constraint, Request};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::fields::Fields;
use super::super::refusal::Refusal;

/// Any JSON object.
const ANY_OBJECT: &str = r#"{"type":"object"}"#;

#[derive(Deserialize)]
struct Format {
    #[serde(rename = "type")]
    kind: String,
    json_schema: Option<Schema>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    /// Told to the model elsewhere; says nothing of the form.
    #[serde(rename = "name")]
    _name: Option<String>,
    #[serde(rename = "description")]
    _description: Option<String>,
    schema: Option<Box<RawValue>>,
    /// It always is.
    #[serde(rename = "strict")]
    _strict: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Structured {
    json: Option<Box<RawValue>>,
    json_object: Option<bool>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    grammar: Option<String>,
}

/// Takes the fields; more than one form is none.
pub(super) fn take(fields: &mut Fields, request: &mut Request) -> Result<(), Refusal> {
    let mut found: Option<(&str, Constraint)> = None;
    let mut add = |field: &'static str, constraint: Option<Constraint>| match constraint {
        None => Ok(()),
        Some(constraint) => match &found {
            None => {
                found = Some((field, constraint));
                Ok(())
            }
            Some((first, _)) => Err(Refusal::field(
                field,
                format!("an answer has one form, and {first} gives one already"),
            )),
        },
    };
    add("response_format", response_format(fields)?)?;
    let structured: Structured = fields.take("structured_outputs")?.unwrap_or_default();
    let Structured {
        json,
        json_object,
        regex,
        choice,
        grammar,
    } = structured;
    add("structured_outputs", json.map(|raw| schema(&raw)))?;
    let any = json_object.unwrap_or(false);
    add(
        "structured_outputs",
        any.then(|| Constraint::JsonSchema(ANY_OBJECT.to_owned())),
    )?;
    add("structured_outputs", regex.map(Constraint::Regex))?;
    add("structured_outputs", choice.map(Constraint::Choice))?;
    add("structured_outputs", grammar.map(Constraint::Lark))?;
    let json = fields.take_raw("guided_json").map(|raw| schema(&raw));
    add("guided_json", json)?;
    let regex = fields.take("guided_regex")?.map(Constraint::Regex);
    add("guided_regex", regex)?;
    let choice = fields.take("guided_choice")?.map(Constraint::Choice);
    add("guided_choice", choice)?;
    let grammar = fields.take("guided_grammar")?.map(Constraint::Lark);
    add("guided_grammar", grammar)?;
    request.constraint = found.map(|(_, constraint)| constraint);
    Ok(())
}

fn response_format(fields: &mut Fields) -> Result<Option<Constraint>, Refusal> {
    let field = "response_format";
    let Some(format) = fields.take::<Format>(field)? else {
        return Ok(None);
    };
    match format.kind.as_str() {
        "text" => Ok(None),
        "json_object" => Ok(Some(Constraint::JsonSchema(ANY_OBJECT.to_owned()))),
        "json_schema" => match format.json_schema.and_then(|given| given.schema) {
            Some(raw) => Ok(Some(schema(&raw))),
            None => Err(Refusal::field(field, "json_schema.schema is missing")),
        },
        _ => Err(Refusal::field(
            field,
            "the type is none of text, json_object and json_schema",
        )),
    }
}

/// A schema as it was written, or the text of one.
fn schema(raw: &RawValue) -> Constraint {
    let text = serde_json::from_str::<String>(raw.get());
    Constraint::JsonSchema(text.unwrap_or_else(|_| raw.get().to_owned()))
}
