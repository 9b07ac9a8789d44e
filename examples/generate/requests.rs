//! From the command line or a JSONL file to requests.

use std::io::Read;

use llmserve::prelude::*;
use llmserve::{Constraint, Prompt, TokenId};
use serde::Deserialize;
use serde_json::Value;

use crate::args::Args;

/// Tokens generated where neither the line nor the command line says how many.
const DEFAULT_MAX_TOKENS: usize = 128;

/// A request, or why there is none, under the name its answer carries.
pub struct Item {
    pub id: Value,
    pub request: Result<Box<Request>, Error>,
}

/// One line of a request file. All but the prompt is optional.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(default)]
    id: Option<Value>,
    prompt: Option<String>,
    prompt_ids: Option<Vec<TokenId>>,
    messages: Option<Vec<Message>>,
    max_tokens: Option<usize>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    seed: Option<u64>,
    ignore_eos: Option<bool>,
    stop: Option<Stop>,
    json_schema: Option<Value>,
    regex: Option<String>,
    choice: Option<Vec<String>>,
    n: Option<usize>,
    logprobs: Option<usize>,
    priority: Option<i32>,
    tenant: Option<String>,
    speculative: Option<bool>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "stop is a string or a list of strings")]
enum Stop {
    One(String),
    Many(Vec<String>),
}

/// What the command line asks for.
///
/// # Errors
/// A text, when the file cannot be read or there is no prompt at all. A line that is wrong is an
/// [`Item`] with an error: the others are still served.
pub fn read(args: &Args) -> Result<Vec<Item>, String> {
    let defaults = Defaults {
        args,
        constraint: constraint(args)?,
    };
    if let Some(path) = &args.requests {
        let mut bytes = Vec::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin().lock().read_to_end(&mut bytes)
        } else {
            std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut bytes))
        };
        read.map_err(|error| format!("--requests {}: {error}", path.display()))?;
        return Ok(lines(&bytes, &defaults));
    }
    let prompt = match (&args.prompt, &args.prompt_ids) {
        (Some(text), _) => Prompt::Text(text.clone()),
        (None, Some(ids)) => Prompt::Tokens(parse_ids(ids)?),
        (None, None) => return Err("give --prompt, --prompt-ids or --requests".to_owned()),
    };
    let request = defaults.of(Request::new(prompt));
    Ok(vec![Item {
        id: Value::from(0),
        request: Ok(Box::new(request)),
    }])
}

/// What a request has where its line does not say.
struct Defaults<'a> {
    args: &'a Args,
    constraint: Option<Constraint>,
}

/// The form that the command line wants answers in.
fn constraint(args: &Args) -> Result<Option<Constraint>, String> {
    let schema = args.schema.as_ref().map(|path| {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("--schema {}: {error}", path.display()));
        text.map(Constraint::JsonSchema)
    });
    let schema = schema.transpose()?;
    let regex = args.regex.clone().map(Constraint::Regex);
    let choice = args.choice.clone().map(Constraint::Choice);
    // The command line has one of them at most.
    Ok(schema.or(regex).or(choice))
}

fn parse_ids(text: &str) -> Result<Vec<TokenId>, String> {
    let ids = text.split(',').map(str::trim);
    ids.map(|id| {
        id.parse()
            .map_err(|_| format!("--prompt-ids: {id:?} is not a token id"))
    })
    .collect()
}

/// The requests of a JSONL file; empty lines are skipped. A line without an id is called by its
/// number, from 0.
fn lines(bytes: &[u8], defaults: &Defaults<'_>) -> Vec<Item> {
    // Some editors begin a file with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| !line.is_empty());
    lines
        .enumerate()
        .map(|(number, line)| item(line, number, defaults))
        .collect()
}

fn item(line: &[u8], number: usize, defaults: &Defaults<'_>) -> Item {
    let invalid = |reason: String| invalid_line(number, reason);
    let mut id = Value::from(number);
    let request = std::str::from_utf8(line)
        .map_err(|error| invalid(format!("not UTF-8: {error}")))
        .and_then(|text| {
            // The id first: an error carries it wherever the line is JSON at all.
            let value: Value = serde_json::from_str(text)
                .map_err(|error| invalid(format!("not JSON: {error}")))?;
            if let Some(own) = value.get("id")
                && !own.is_null()
            {
                id = own.clone();
            }
            if !value.is_object() {
                return Err(invalid("not a JSON object".to_owned()));
            }
            // From the text again: a value has forgotten that a key came twice.
            serde_json::from_str::<Line>(text).map_err(|error| invalid(error.to_string()))
        })
        .and_then(|line| line.into_request(defaults).map_err(invalid));
    Item {
        id,
        request: request.map(Box::new),
    }
}

fn invalid_line(number: usize, reason: String) -> Error {
    Error::invalid_request("line", format!("request {number}: {reason}"))
}

impl Defaults<'_> {
    fn of(&self, mut request: Request) -> Request {
        let args = self.args;
        request.max_tokens = Some(args.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS));
        request.sampling.temperature = args.temperature;
        request.sampling.top_p = args.top_p.unwrap_or(request.sampling.top_p);
        request.sampling.top_k = args.top_k;
        request.sampling.seed = args.seed;
        request.ignore_eos = args.ignore_eos;
        request.logprobs = args.logprobs;
        request.n = args.n;
        request.constraint.clone_from(&self.constraint);
        request
    }
}

impl Line {
    fn into_request(self, defaults: &Defaults<'_>) -> Result<Request, String> {
        let prompt = match (self.prompt, self.prompt_ids, self.messages) {
            (Some(text), None, None) => Prompt::Text(text),
            (None, Some(ids), None) => Prompt::Tokens(ids),
            (None, None, Some(messages)) => Prompt::Messages(messages),
            _ => return Err("exactly one of prompt, prompt_ids and messages is needed".to_owned()),
        };
        let mut request = defaults.of(Request::new(prompt));
        if let Some(id) = &self.id {
            request.id = Some(id.to_string());
        }
        request.max_tokens = self.max_tokens.or(request.max_tokens);
        request.sampling.temperature = self.temperature.unwrap_or(request.sampling.temperature);
        request.sampling.top_p = self.top_p.unwrap_or(request.sampling.top_p);
        request.sampling.top_k = self.top_k.or(request.sampling.top_k);
        request.sampling.seed = self.seed.or(request.sampling.seed);
        request.ignore_eos = self.ignore_eos.unwrap_or(request.ignore_eos);
        request.n = self.n.unwrap_or(request.n);
        request.logprobs = self.logprobs.or(request.logprobs);
        request.priority = self.priority.unwrap_or(request.priority);
        request.tenant = self.tenant;
        request.speculative = self.speculative.unwrap_or(request.speculative);
        request.stop = match self.stop {
            None => Vec::new(),
            Some(Stop::One(stop)) => vec![stop],
            Some(Stop::Many(stops)) => stops,
        };
        request.constraint = match (self.json_schema, self.regex, self.choice) {
            (None, None, None) => request.constraint,
            // A schema within a line, or the text of one.
            (Some(Value::String(text)), None, None) => Some(Constraint::JsonSchema(text)),
            (Some(schema), None, None) => Some(Constraint::JsonSchema(schema.to_string())),
            (None, Some(regex), None) => Some(Constraint::Regex(regex)),
            (None, None, Some(texts)) => Some(Constraint::Choice(texts)),
            _ => return Err("at most one of json_schema, regex and choice can be had".to_owned()),
        };
        Ok(request)
    }
}
