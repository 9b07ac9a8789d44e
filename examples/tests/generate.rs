//! The `generate` example, run as a user runs it.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

/// `cargo test` builds the examples next to the tests.
fn generate() -> Command {
    let test = std::env::current_exe().expect("this test's own path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/TEST has a grandparent");
    Command::new(folder.join("examples").join("generate"))
}

fn golden(name: &str) -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../llmserve-model/tests/goldens"
    ))
    .join(name)
}

fn run(args: &[&str], stdin: &[u8]) -> Output {
    let mut child = generate()
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the example was built");
    let mut pipe = child.stdin.take().expect("stdin is piped");
    // A child that refuses its arguments closes its end early.
    let _ = pipe.write_all(stdin);
    drop(pipe);
    child.wait_with_output().expect("the child ran")
}

fn lines(output: &Output) -> Vec<Value> {
    let text = std::str::from_utf8(&output.stdout).expect("UTF-8");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}")))
        .collect()
}

fn summary(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stderr);
    let line = text.lines().last().unwrap_or_default();
    let summary: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{text}: {e}"));
    assert_eq!(summary["summary"], true);
    summary
}

#[test]
fn a_prompt_streams_text() {
    let output = run(&["--prompt", "HAMLET", "--max-tokens", "24"], b"");
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(text.contains("ACT V"), "{text}");
}

#[test]
fn a_folder_without_a_tokenizer_serves_ids() {
    let reference: Value = serde_json::from_slice(
        &std::fs::read(golden("llama").join("golden.json")).expect("the golden is there"),
    )
    .expect("JSON");
    let case = &reference["cases"][1];
    let folder = golden("llama");
    let request = json!({"id": 7, "prompt_ids": case["prompt_ids"], "max_tokens": 8,
        "ignore_eos": true, "logprobs": 3});
    let args = ["--json", "--dtype", "f32", "--requests", "-", "--model"];
    let args: Vec<&str> = args.into_iter().chain(folder.to_str()).collect();
    let output = run(&args, format!("{request}\n").as_bytes());
    let lines = lines(&output);
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(line["id"], 7);
    assert_eq!(line["text"], Value::Null);
    assert_eq!(line["prompt_ids"], case["prompt_ids"]);
    let expected = case["greedy_ids"].as_array().expect("ids");
    assert_eq!(
        line["output_ids"].as_array().expect("ids")[..],
        expected[..8]
    );
    assert_eq!(line["finish_reason"], "length");
    assert_eq!(line["usage"]["completion_tokens"], 8);
    let first = &line["logprobs"][0];
    let top = &case["first_step_top8"][0];
    let logsumexp = case["first_step_logsumexp"].as_f64().expect("a number");
    let expected = top[1].as_f64().expect("a logit") - logsumexp;
    assert_eq!(first["id"], top[0]);
    assert!((first["logprob"].as_f64().expect("a number") - expected).abs() < 1e-3);
    assert_eq!(first["top"].as_array().map(Vec::len), Some(3));
    assert!(line["ttft_ms"].as_f64() <= line["latency_ms"].as_f64());
}

#[test]
fn wrong_lines_are_answered_and_the_others_served() {
    // Some editors begin a file with a byte order mark.
    let mut input = b"\xef\xbb\xbf".to_vec();
    let good = |id: usize| json!({"id": id, "prompt": "KING", "max_tokens": 3}).to_string();
    let bad: [&[u8]; 17] = [
        b"[\"id\", \"HAMLET\", null, null, 1]",
        b"{\"id\": \"twice\", \"prompt\": \"a\", \"prompt\": \"b\"}",
        b"{\"id\": \"name\", \"messages\": [{\"role\": \"user\", \"content\": \"x\", \"name\": \"y\"}]}",
        b"not json",
        b"{\"prompt\": \"\xff\xfe\"}",
        b"[1, 2]",
        b"{\"id\": \"none\"}",
        b"{\"id\": \"both\", \"prompt\": \"a\", \"prompt_ids\": [1]}",
        b"{\"id\": \"typo\", \"prompt\": \"a\", \"max_token\": 3}",
        b"{\"id\": \"zero\", \"prompt\": \"a\", \"max_tokens\": 0}",
        b"{\"id\": \"cold\", \"prompt\": \"a\", \"temperature\": -1}",
        b"{\"id\": \"empty\", \"prompt_ids\": []}",
        b"{\"id\": \"range\", \"prompt_ids\": [2048]}",
        b"{\"id\": \"negative\", \"prompt_ids\": [-1]}",
        b"{\"id\": \"role\", \"messages\": [{\"content\": \"x\"}]}",
        b"{\"id\": \"stop\", \"prompt\": \"a\", \"stop\": \"\"}",
        b"{\"id\": \"n\", \"prompt\": \"a\", \"n\": 0}",
    ];
    for (i, line) in bad.iter().enumerate() {
        input.extend_from_slice(line);
        input.push(b'\n');
        input.extend_from_slice(good(i).as_bytes());
        input.push(b'\n');
    }
    let long = json!({"id": "long", "prompt_ids": vec![6; 1024]}).to_string();
    input.extend_from_slice(long.as_bytes());
    let output = run(&["--requests", "-", "--json"], &input);
    assert!(output.status.success(), "{output:?}");
    let lines = lines(&output);
    let (errors, answers): (Vec<_>, Vec<_>) = lines
        .into_iter()
        .partition(|line| line.get("error").is_some());
    assert_eq!(answers.len(), bad.len());
    assert_eq!(errors.len(), bad.len() + 1);
    for answer in &answers {
        assert_eq!(answer["output_ids"], answers[0]["output_ids"]);
    }
    for error in &errors {
        let kind = &error["error"]["kind"];
        let expected = if error["id"] == "long" {
            "prompt_too_long"
        } else {
            "invalid_request"
        };
        assert_eq!(kind, expected, "{error}");
        assert!(
            error["error"]["message"]
                .as_str()
                .is_some_and(|text| !text.is_empty())
        );
    }
    // A line that is no JSON object is called by its number.
    assert!(errors.iter().any(|error| error["id"] == 0));
    assert!(errors.iter().any(|error| error["id"] == 6));
    assert_eq!(summary(&output)["failed"], bad.len() + 1);
}

#[test]
fn lower_priorities_are_served_first_and_thousands_of_lines_are_no_overload() {
    let mut input = String::new();
    for i in 0..5000 {
        let priority = 5000 - i;
        let line = json!({"id": i, "prompt_ids": [6], "max_tokens": 1, "priority": priority});
        input.push_str(&line.to_string());
        input.push('\n');
    }
    let args = ["--requests", "-", "--json", "--max-num-seqs", "1"];
    let output = run(&args, input.as_bytes());
    let ids: Vec<_> = lines(&output)
        .iter()
        .filter_map(|line| line["id"].as_u64())
        .collect();
    assert_eq!(ids.len(), 5000);
    assert!(
        lines(&output)
            .iter()
            .all(|line| line.get("error").is_none())
    );
    // The last lines are the most urgent; what was admitted before they came goes first.
    let place = |id| ids.iter().position(|other| *other == id);
    assert!(
        place(4999) < place(2500),
        "{:?} {:?}",
        place(4999),
        place(2500)
    );
}

#[test]
fn a_chat_and_several_choices() {
    let input = concat!(
        r#"{"id":"chat","messages":[{"role":"user","content":"Who is there?"}],"max_tokens":30}"#,
        "\n",
        r#"{"id":"many","prompt":"ROMEO","n":3,"temperature":0.9,"seed":5,"max_tokens":12,"stop":["\n\n\n"]}"#,
        "\n",
    );
    let output = run(&["--requests", "-", "--json"], input.as_bytes());
    let lines = lines(&output);
    assert_eq!(lines.len(), 4);
    let chat = lines
        .iter()
        .find(|line| line["id"] == "chat")
        .expect("answered");
    assert_eq!(chat["prompt_ids"][0], 0, "one BOS");
    assert_ne!(chat["prompt_ids"][1], 0, "and not two");
    let mut indexes: Vec<_> = lines
        .iter()
        .filter(|l| l["id"] == "many")
        .map(|l| l["index"].as_u64())
        .collect();
    indexes.sort_unstable();
    assert_eq!(indexes, [Some(0), Some(1), Some(2)]);
    let summary = summary(&output);
    for key in [
        "requests",
        "tokens_per_s",
        "preemptions",
        "prefix_hit_tokens",
        "peak_kv_usage",
    ] {
        assert!(summary[key].is_number(), "{key} in {summary}");
    }
}

#[test]
fn options_that_cannot_be_honoured_are_errors_that_name_them() {
    for (args, expected) in [
        (
            &["--prompt", "x", "--model", "/nowhere/at/all"][..],
            "/nowhere/at/all",
        ),
        (&["--prompt", "x", "--kv-blocks", "0"], "block"),
        (&["--prompt", "x", "--block-size", "0"], "block"),
        (&["--prompt", "x", "--threads", "0"], "thread"),
        (&["--prompt", "x", "--max-num-seqs", "0"], "max_num_seqs"),
        (
            &["--prompt", "x", "--max-batched-tokens", "0"],
            "max_batched_tokens",
        ),
        (&["--prompt-ids", "1,x"], "\"x\""),
        (&["--prompt-ids", "1,,2"], "\"\""),
        (&["--prompt", "x", "--logprobs", "2"], "--json"),
        (
            &["--prompt", "x", "--block-size", "72057594037927936"],
            "block",
        ),
        (
            &["--prompt", "x", "--block-size", "18446744073709551615"],
            "block",
        ),
        (
            &["--prompt", "x", "--kv-blocks", "18446744073709551615"],
            "block",
        ),
        (&["--requests", "/nowhere.jsonl"], "/nowhere.jsonl"),
        (&[], "--prompt"),
    ] {
        let output = run(args, b"");
        assert!(!output.status.success(), "{args:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(expected), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{args:?}: {text}");
    }
}

#[test]
fn answers_have_the_form_asked_for() {
    let schema = tempfile::NamedTempFile::new().expect("a file");
    let text = r#"{"type":"object","properties":{"b":{"enum":[1,"x"]},"a":{"type":"boolean"}},
        "required":["b","a"],"additionalProperties":false}"#;
    std::fs::write(schema.path(), text).expect("written");
    let path = schema.path().to_str().expect("a path of text");
    let requests = [
        json!({ "prompt": "A" }),
        json!({ "prompt": "A", "regex": "[ab]{3}" }),
        json!({ "prompt": "A", "choice": ["yes", "no"], "temperature": 1.0, "seed": 3 }),
        json!({ "prompt": "A", "json_schema": { "const": [1, { "z": 1, "a": 2 }] } }),
        json!({ "prompt": "A", "json_schema": "{\"type\": \"null\"}", "n": 2 }),
        json!({ "prompt": "A", "json_schema": {}, "regex": "a" }),
        json!({ "prompt": "A", "regex": "(" }),
    ];
    let input = requests.map(|request| request.to_string()).join("\n");
    let args = ["--requests", "-", "--json", "--schema", path];
    let output = run(&args, input.as_bytes());
    let mut answers: Vec<_> = lines(&output);
    answers.sort_by_key(|line| (line["id"].as_u64(), line["index"].as_u64()));
    let text = |at: usize| answers[at]["text"].as_str().expect("text").to_owned();
    let json = |at: usize| serde_json::from_str::<Value>(&text(at)).expect("JSON");
    let first = json(0);
    assert!(first["a"].is_boolean() && [json!(1), json!("x")].contains(&first["b"]));
    assert!(
        text(0).starts_with("{\"b\": "),
        "in the schema's order: {}",
        text(0)
    );
    assert!(text(1).len() == 3 && text(1).bytes().all(|byte| b"ab".contains(&byte)));
    assert!(["yes", "no"].contains(&text(2).as_str()));
    assert_eq!(text(3), r#"[1, {"z": 1, "a": 2}]"#);
    assert_eq!([text(4), text(5)], ["null", "null"]);
    assert!(
        answers[..6]
            .iter()
            .all(|line| line["finish_reason"] == "stop")
    );
    let kind = |at: usize| answers[at]["error"]["kind"].as_str().expect("an error");
    assert_eq!([kind(6), kind(7)], ["invalid_request", "grammar"]);
    assert!(summary(&output)["forced_tokens"].as_u64() > Some(10));
    // Two forms at once are none.
    let both = run(&["--prompt", "A", "--regex", "a", "--choice", "a,b"], b"");
    assert!(!both.status.success());
    let choice = run(&["--prompt", "A", "--choice", "yes,no"], b"");
    let text = String::from_utf8_lossy(&choice.stdout);
    assert!(["yes\n", "no\n"].contains(&&*text), "{text}");
}

#[test]
fn speculation_changes_the_summary_and_nothing_else() {
    let draft = concat!(env!("CARGO_MANIFEST_DIR"), "/models/bard-draft");
    let lines_of = |speculative: bool| {
        let line = |id: usize, temperature: f64| {
            json!({"id": id, "prompt": "To be, or not", "max_tokens": 24, "seed": 3,
                "temperature": temperature, "speculative": speculative})
        };
        format!("{}\n{}\n", line(0, 0.0), line(1, 0.9))
    };
    let ids = |output: &Output| -> Vec<Value> {
        let mut lines = lines(output);
        lines.sort_by_key(|line| line["id"].as_u64());
        lines
            .iter()
            .map(|line| line["output_ids"].clone())
            .collect()
    };
    let plain = run(&["--json", "--requests", "-"], lines_of(true).as_bytes());
    assert_eq!(summary(&plain)["spec"], Value::Null);

    let args = [
        "--json",
        "--requests",
        "-",
        "--draft",
        draft,
        "--ngram",
        "--spec-depth",
        "3",
    ];
    let speculated = run(&args, lines_of(true).as_bytes());
    assert_eq!(ids(&speculated), ids(&plain));
    let spec = summary(&speculated)["spec"].clone();
    let number = |name: &str| spec[name].as_u64().unwrap_or(0);
    assert!(
        number("drafts") > 0 && number("draft_tokens") >= number("accepted"),
        "{spec}"
    );
    let by_position = spec["accepted_per_pos"].as_array().expect("a list");
    let sum: u64 = by_position.iter().filter_map(Value::as_u64).sum();
    assert_eq!(sum, number("accepted"), "{spec}");

    let without = run(&args, lines_of(false).as_bytes());
    assert_eq!(ids(&without), ids(&plain));
    assert_eq!(summary(&without)["spec"], Value::Null);

    let output = run(&["--prompt", "x", "--spec-depth", "3"], b"");
    assert!(!output.status.success());
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(error.contains("draft or ngram"), "{error}");
}
