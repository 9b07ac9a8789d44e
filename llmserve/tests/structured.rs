//! Answers of a given form from the embedded model: every one that ends by itself has its form.
#![cfg(feature = "structured")]

mod support;

use std::collections::BTreeMap;

use llmserve::prelude::*;
use llmserve::{Constraint, GrammarError};
use regex::Regex;
use serde_json::{Value, json};
use support::{bard, drained};

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % n
    }
}

/// A schema of the kinds that [`accepts`] knows.
fn random_schema(random: &mut Random, depth: usize) -> Value {
    match random.below(if depth == 0 { 6 } else { 9 }) {
        0 => json!({ "type": "string", "maxLength": 1 + random.below(12) }),
        1 => {
            let least = random.below(100) as i64 - 50;
            json!({ "type": "integer", "minimum": least, "maximum": least + random.below(1000) as i64 })
        }
        2 => json!({ "type": "boolean" }),
        3 => json!({ "type": "null" }),
        4 => json!({ "enum": ["to be", "not to be", 7, null, "é\"\\\n"] }),
        5 => json!({ "const": { "the king": ["is", "dead"], "n": random.below(9) } }),
        6 => {
            let least = random.below(3);
            let items = random_schema(random, depth - 1);
            json!({ "type": "array", "items": items, "minItems": least, "maxItems": least + random.below(3) })
        }
        7 => {
            let (one, other) = (
                random_schema(random, depth - 1),
                random_schema(random, depth - 1),
            );
            json!({ "anyOf": [one, other] })
        }
        _ => {
            let names = ["name", "the age", "a", "house_of"];
            let names = &names[..1 + random.below(names.len())];
            let mut properties = serde_json::Map::new();
            for name in names {
                properties.insert((*name).to_owned(), random_schema(random, depth - 1));
            }
            let required: Vec<_> = names.iter().filter(|_| random.below(2) == 0).collect();
            json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
        }
    }
}

/// Whether a value is of a schema made by [`random_schema`].
fn accepts(schema: &Value, value: &Value) -> bool {
    if let Some(any) = schema["anyOf"].as_array() {
        return any.iter().any(|schema| accepts(schema, value));
    }
    if let Some(values) = schema["enum"].as_array() {
        return values.contains(value);
    }
    if let Some(constant) = schema.get("const") {
        return constant == value;
    }
    let len = |name: &str| schema[name].as_u64().map(|len| len as usize);
    match schema["type"].as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value
            .as_str()
            .is_some_and(|text| text.chars().count() <= len("maxLength").unwrap_or(usize::MAX)),
        // JSON has -0, an integer that parsers take for a float.
        Some("integer") => value.as_f64().is_some_and(|number| {
            let bound = |name: &str| schema[name].as_f64().unwrap();
            number.fract() == 0.0 && (bound("minimum")..=bound("maximum")).contains(&number)
        }),
        Some("array") => value.as_array().is_some_and(|items| {
            (len("minItems").unwrap()..=len("maxItems").unwrap()).contains(&items.len())
                && items.iter().all(|item| accepts(&schema["items"], item))
        }),
        Some("object") => value.as_object().is_some_and(|fields| {
            let required = schema["required"].as_array().unwrap();
            required
                .iter()
                .all(|name| fields.contains_key(name.as_str().unwrap()))
                && fields.iter().all(|(name, value)| {
                    let schema = schema["properties"].get(name);
                    schema.is_some_and(|schema| accepts(schema, value))
                })
        }),
        other => panic!("{other:?}"),
    }
}

#[test]
fn json_is_of_its_schema() {
    let engine = llmserve::serve(bard()).max_num_seqs(32).build().unwrap();
    let mut random = Random(22);
    let schemas: Vec<_> = (0..100).map(|_| random_schema(&mut random, 3)).collect();
    let streams: Vec<_> = (0..300u64)
        .map(|seed| {
            let schema = &schemas[seed as usize % schemas.len()];
            let request = Request::text("HAMLET:\n")
                .json_schema(schema.to_string())
                .seed(seed);
            let temperature = [0.0, 0.7, 1.5][seed as usize % 3];
            engine.generate(request.temperature(temperature).max_tokens(160))
        })
        .collect();
    let mut ended = 0;
    for (number, stream) in streams.into_iter().enumerate() {
        let schema = &schemas[number % schemas.len()];
        let response = stream
            .wait()
            .unwrap_or_else(|error| panic!("{schema}: {error}"));
        let choice = &response.choices[0];
        if choice.reason == Some(FinishReason::Length) {
            continue;
        }
        ended += 1;
        let value: Value = serde_json::from_str(&choice.text)
            .unwrap_or_else(|error| panic!("{schema}: {:?}: {error}", choice.text));
        assert!(accepts(schema, &value), "{schema}: {value}");
    }
    assert!(ended > 200, "{ended} of 300 ended by themselves");
    assert!(engine.stats().forced_tokens > 300);
    drained(&engine);
}

/// Drafts know nothing of grammars: they are cut to what may follow, verified under the masks, and
/// forced runs come between them.
#[test]
fn speculation_changes_no_answer_of_a_form() {
    let mut random = Random(5);
    let schemas: Vec<_> = (0..24).map(|_| random_schema(&mut random, 3)).collect();
    let requests = || {
        (0..72u64).map(|seed| {
            let schema = &schemas[seed as usize % schemas.len()];
            let request = Request::text("ROMEO:\n").seed(seed).max_tokens(64);
            let request = request.temperature([0.0, 0.8, 1.5][seed as usize % 3]);
            match seed % 5 {
                0 => request.regex("(ab|a ){2,9}[a-z ]*\\."),
                1 => request.n(2).json_schema(schema.to_string()),
                _ => request.json_schema(schema.to_string()),
            }
        })
    };
    let answers = |engine: &Engine| -> Vec<Response> {
        let streams: Vec<_> = requests().map(|r| engine.generate(r)).collect();
        let done = streams.into_iter().map(|stream| stream.wait().unwrap());
        let done = done.collect();
        drained(engine);
        done
    };
    let draft = bard().with_file_name("bard-draft");
    let plain = answers(&llmserve::serve(bard()).build().unwrap());
    for (seqs, tokens) in [(64, 2048), (5, 24)] {
        let engine = llmserve::serve(bard())
            .draft(&draft)
            .ngram()
            .spec_depth(4)
            .max_num_seqs(seqs)
            .scheduler(|scheduler| scheduler.max_batched_tokens(tokens))
            .build()
            .unwrap();
        for (one, other) in answers(&engine).iter().zip(&plain) {
            for (one, other) in one.choices.iter().zip(&other.choices) {
                assert_eq!((&one.ids, &one.reason), (&other.ids, &other.reason));
            }
        }
        let stats = engine.stats();
        assert!(
            stats.spec_accepted_tokens > 30 && stats.forced_tokens > 100,
            "{stats:?}"
        );
    }
    // A grammar that cannot take tokens back goes on without drafts.
    let limited = || {
        let lark = "start: \"[\" words \"]\"\nwords[max_tokens=6]: /[a-z ]*/";
        Request::text("ROMEO:\n").lark(lark).max_tokens(24).seed(4)
    };
    let plain = llmserve::serve(bard()).build().unwrap();
    let plain = plain.generate(limited()).wait().unwrap();
    let engine = llmserve::serve(bard()).ngram().draft(&draft).spec_depth(4);
    let engine = engine.build().unwrap();
    assert_eq!(
        engine.generate(limited()).wait().unwrap().ids(),
        plain.ids()
    );
    // By rejection the ids are others, and the form is kept.
    let engine = llmserve::serve(bard())
        .draft(&draft)
        .spec_depth(3)
        .verification(llmserve::Verification::Rejection)
        .build()
        .unwrap();
    for (number, response) in answers(&engine).iter().enumerate() {
        for choice in &response.choices {
            if number % 5 == 0 || choice.reason == Some(FinishReason::Length) {
                continue;
            }
            let value: Value = serde_json::from_str(&choice.text).unwrap();
            assert!(accepts(&schemas[number % schemas.len()], &value), "{value}");
        }
    }
    assert!(engine.stats().spec_accepted_tokens > 30);
}

#[test]
fn the_checker_can_say_no() {
    let schema = json!({ "type": "object", "properties": { "a": { "type": "integer", "minimum": 1, "maximum": 3 } },
        "required": ["a"], "additionalProperties": false });
    assert!(accepts(&schema, &json!({ "a": 2 })));
    for wrong in [
        json!({}),
        json!({ "a": 4 }),
        json!({ "a": 2, "b": 1 }),
        json!([]),
        json!({ "a": "2" }),
    ] {
        assert!(!accepts(&schema, &wrong), "{wrong}");
    }
}

#[test]
fn texts_match_their_expressions_and_choices() {
    let engine = llmserve::serve(bard()).build().unwrap();
    let expressions = [
        r"[A-Z][a-z]{2,8}( [a-z]{1,6}){0,4}[.!?]",
        r"^(to be|not to be)(, or (to be|not to be)){0,3}$",
        r"\d{4}-(0[1-9]|1[0-2])-[0-3]\d",
        r"(é|ü|☃){1,5}x?",
        r#"<[^<>"]{0,20}>"#,
    ];
    let choices = [
        "Montague",
        "Capulet",
        "the house of Montague",
        "a.b*c\\",
        "☃",
    ];
    let base = |seed| {
        Request::text("ROMEO:\n")
            .temperature(1.2)
            .seed(seed)
            .max_tokens(64)
    };
    let mut streams = Vec::new();
    for seed in 0..12 {
        for expression in expressions {
            streams.push((
                Some(expression),
                engine.generate(base(seed).regex(expression)),
            ));
        }
        streams.push((None, engine.generate(base(seed).one_of(choices))));
    }
    let mut seen = BTreeMap::new();
    for (expression, stream) in streams {
        let response = stream.wait().unwrap();
        let choice = &response.choices[0];
        assert_ne!(
            choice.reason,
            Some(FinishReason::Length),
            "{:?}",
            choice.text
        );
        match expression {
            Some(expression) => {
                let whole = Regex::new(&format!("^(?:{expression})$")).unwrap();
                assert!(
                    whole.is_match(&choice.text),
                    "{expression}: {:?}",
                    choice.text
                );
            }
            None => assert!(choices.contains(&choice.text.as_str()), "{:?}", choice.text),
        }
        *seen.entry(choice.text.clone()).or_insert(0) += 1;
    }
    assert!(seen.len() > 30, "{seen:?}");
    drained(&engine);
}

/// The same ids alone, in a batch with others, with logprobs (which pick every token), in small
/// chunks with few blocks, and as one of two choices.
#[test]
fn ids_are_the_same_in_any_company() {
    let schema = r#"{"type":"object","properties":{"speaker":{"enum":["HAMLET","HORATIO"]},
        "line":{"type":"string","maxLength":30},"act":{"type":"integer","minimum":1,"maximum":5}},
        "required":["speaker","line","act"],"additionalProperties":false}"#;
    let request = |seed: u64| {
        let temperature = [0.0, 1.0][seed as usize % 2];
        let request = Request::text("Enter HAMLET and HORATIO.\n").temperature(temperature);
        request.seed(seed).json_schema(schema).max_tokens(80)
    };
    let ids = |response: Response| response.choices[0].ids.clone();
    let alone: Vec<_> = {
        let engine = llmserve::serve(bard()).threads(1).build().unwrap();
        (0..12)
            .map(|seed| ids(engine.generate(request(seed)).wait().unwrap()))
            .collect()
    };
    let tight = |serve: llmserve::Serve| serve.kv_blocks(24).block_size(16).max_batched_tokens(32);
    for (logprobs, tight_kv) in [(false, false), (true, false), (false, true)] {
        let serve = llmserve::serve(bard()).threads(2);
        let engine = if tight_kv { tight(serve) } else { serve }.build().unwrap();
        let streams: Vec<_> = (0..12)
            .map(|seed| {
                let request = if logprobs {
                    request(seed).logprobs(1)
                } else {
                    request(seed)
                };
                engine.generate(request)
            })
            .collect();
        for (seed, stream) in streams.into_iter().enumerate() {
            let response = stream.wait().unwrap();
            assert_eq!(
                ids(response),
                alone[seed],
                "{seed}: logprobs {logprobs}, tight {tight_kv}"
            );
        }
        drained(&engine);
    }
    let engine = llmserve::serve(bard()).build().unwrap();
    let both = engine.generate(request(1).n(2)).wait().unwrap();
    assert_eq!(both.choices[0].ids, alone[1]);
    assert_ne!(both.choices[1].ids, alone[1]);
    drained(&engine);
}

#[test]
fn what_does_not_compile_fails_alone() {
    let engine = llmserve::serve(bard()).build().unwrap();
    let good = engine.generate(Request::text("A").one_of(["yes", "no"]));
    for constraint in [
        Constraint::JsonSchema("{".into()),
        Constraint::Regex("(".into()),
        Constraint::Lark("start: nothing".into()),
    ] {
        let error = engine
            .generate(Request::text("A").constraint(constraint.clone()))
            .wait()
            .unwrap_err();
        let compile = matches!(error, Error::Grammar(GrammarError::Compile(_)));
        assert!(compile, "{constraint:?}: {error}");
    }
    assert!(["yes", "no"].contains(&good.wait().unwrap().text()));
    drained(&engine);
}
