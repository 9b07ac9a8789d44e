//! Answers of a given form: how many are not, what their masks cost, and what forced runs save.

use std::error::Error;
use std::time::Instant;

use clap::Parser;
use llmserve::prelude::*;
use llmserve_benches::{Common, Report};
use serde_json::{Value, json};

/// Generations under JSON schemas, checked, beside free ones of the same lengths.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Generations.
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// Most tokens of each.
    #[arg(long, default_value_t = 128)]
    max_tokens: usize,
    /// Sequences at once.
    #[arg(long, default_value_t = 32)]
    batch: usize,
}

/// A schema, and whether a value is of it.
type Form = (&'static str, fn(&Value) -> bool);

const FORMS: [Form; 4] = [
    (
        r#"{"type":"object","properties":{"name":{"type":"string","maxLength":16},
        "age":{"type":"integer","minimum":0,"maximum":120},"house":{"enum":["Montague","Capulet"]},
        "alive":{"type":"boolean"}},"required":["name","age","house","alive"],
        "additionalProperties":false}"#,
        |value| {
            let text = |name: &str| value[name].as_str();
            fields(value) == 4
                && text("name").is_some_and(|name| name.chars().count() <= 16)
                && value["age"].as_u64().is_some_and(|age| age <= 120)
                && text("house").is_some_and(|house| ["Montague", "Capulet"].contains(&house))
                && value["alive"].is_boolean()
        },
    ),
    (
        r#"{"type":"array","items":{"type":"object","properties":{"speaker":
        {"enum":["HAMLET","HORATIO","OPHELIA"]},"line":{"type":"string","maxLength":20}},
        "required":["speaker","line"],"additionalProperties":false},"minItems":1,"maxItems":3}"#,
        |value| {
            value.as_array().is_some_and(|lines| {
                (1..=3).contains(&lines.len())
                    && lines.iter().all(|line| {
                        let text = |name: &str| line[name].as_str();
                        fields(line) == 2
                            && text("speaker")
                                .is_some_and(|s| ["HAMLET", "HORATIO", "OPHELIA"].contains(&s))
                            && text("line").is_some_and(|l| l.chars().count() <= 20)
                    })
            })
        },
    ),
    (
        r##"{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{
        "left":{"anyOf":[{"type":"null"},{"$ref":"#/$defs/tree"}]},"leaf":{"type":"integer",
        "minimum":-5,"maximum":5}},"required":["left","leaf"],"additionalProperties":false}}}"##,
        is_tree,
    ),
    (
        r#"{"anyOf":[{"type":"string","pattern":"^[a-z]{2,5}@[a-z]{2,8}\\.(com|org)$"},
        {"type":"number","minimum":0,"maximum":1},{"const":{"the king":"is dead"}}]}"#,
        |value| match value {
            Value::String(text) => is_address(text),
            Value::Number(number) => number.as_f64().is_some_and(|n| (0.0..=1.0).contains(&n)),
            other => *other == json!({ "the king": "is dead" }),
        },
    ),
];

fn fields(value: &Value) -> usize {
    value.as_object().map_or(0, |fields| fields.len())
}

fn is_tree(value: &Value) -> bool {
    fields(value) == 2
        // JSON has -0, an integer that parsers take for a float.
        && value["leaf"]
            .as_f64()
            .is_some_and(|leaf| leaf.fract() == 0.0 && (-5.0..=5.0).contains(&leaf))
        && value
            .get("left")
            .is_some_and(|left| left.is_null() || is_tree(left))
}

fn is_address(text: &str) -> bool {
    let letters = |text: &str, least: usize, most: usize| {
        (least..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase())
    };
    let Some((name, host)) = text.split_once('@') else {
        return false;
    };
    let Some((host, top)) = host.split_once('.') else {
        return false;
    };
    letters(name, 2, 5) && letters(host, 2, 8) && ["com", "org"].contains(&top)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let count = if args.common.quick {
        args.count / 10
    } else {
        args.count
    };
    let title = format!("{count} generations, {} at once", args.batch);
    let mut report = Report::new(&title, args.common.json);
    let engine = || llmserve::serve(args.common.folder()).max_num_seqs(args.batch);
    let engine = || engine().scheduler(|scheduler| scheduler.max_queue(None));
    let mut lengths = Vec::with_capacity(count);
    // Logprobs have every token picked: the same answers without forced runs.
    for (name, picked) in [("forced runs", false), ("every token picked", true)] {
        let engine = engine().max_intake(count + 1).build()?;
        let request = |number: usize| {
            let request = Request::text("HAMLET:\n").json_schema(FORMS[number % FORMS.len()].0);
            let request = request.max_tokens(args.max_tokens).temperature(1.0);
            let request = request.seed(args.common.seed.wrapping_add(number as u64));
            if picked { request.logprobs(0) } else { request }
        };
        // Compiled before the clock runs.
        for number in 0..FORMS.len() {
            engine.generate(request(number).max_tokens(1)).wait()?;
        }
        let before = engine.stats();
        let began = Instant::now();
        let streams: Vec<_> = (0..count).map(|n| engine.generate(request(n))).collect();
        let (mut ended, mut invalid) = (0, 0);
        lengths.clear();
        for (number, stream) in streams.into_iter().enumerate() {
            let response = stream.wait()?;
            lengths.push(response.ids().len());
            if response.choices[0].reason == Some(FinishReason::Length) {
                continue;
            }
            ended += 1;
            let value: Option<Value> = serde_json::from_str(response.text()).ok();
            if !value.is_some_and(|value| (FORMS[number % FORMS.len()].1)(&value)) {
                invalid += 1;
                eprintln!("invalid: {:?}", response.text());
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        let stats = engine.stats();
        let tokens = (stats.generation_tokens - before.generation_tokens) as f64;
        let (masks, mask_seconds) = (
            stats.masks - before.masks,
            stats.mask_seconds - before.mask_seconds,
        );
        let waited = stats.mask_wait_seconds - before.mask_wait_seconds;
        report.row(
            name,
            &[
                ("ended", json!(ended)),
                ("invalid", json!(invalid)),
                ("tokens/s", json!(tokens / seconds)),
                (
                    "forced share",
                    json!((stats.forced_tokens - before.forced_tokens) as f64 / tokens),
                ),
                ("steps", json!(stats.steps - before.steps)),
                ("mask us", json!(mask_seconds / masks as f64 * 1e6)),
                ("waited share", json!(waited / seconds)),
            ],
        );
    }
    let engine = engine().max_intake(count + 1).build()?;
    let began = Instant::now();
    let free = lengths.iter().enumerate().map(|(number, length)| {
        let request = Request::text("HAMLET:\n")
            .max_tokens(*length)
            .ignore_eos(true);
        let request = request.temperature(1.0).seed(number as u64);
        engine.generate(request)
    });
    for stream in free.collect::<Vec<_>>() {
        stream.wait()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    let stats = engine.stats();
    report.row(
        "free, of the same lengths",
        &[
            ("ended", json!(0)),
            ("invalid", json!(0)),
            ("tokens/s", json!(stats.generation_tokens as f64 / seconds)),
            ("forced share", json!(0.0)),
            ("steps", json!(stats.steps)),
            ("mask us", json!(0.0)),
            ("waited share", json!(0.0)),
        ],
    );
    Ok(())
}
