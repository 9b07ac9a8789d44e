//! The `simulate` example, run as a user runs it.

use std::process::{Command, Output};

use serde_json::Value;

/// `cargo test` builds the examples next to the tests.
fn simulate(args: &[&str]) -> Output {
    let test = std::env::current_exe().expect("this test's own path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/TEST has a grandparent");
    Command::new(folder.join("examples").join("simulate"))
        .args(args)
        .output()
        .expect("the example was built")
}

fn report(args: &[&str]) -> Value {
    let output = simulate(args);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

#[test]
fn a_trace_replays_as_the_traffic_it_was_written_from() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (trace, plot) = (path("trace.jsonl"), path("plot.svg"));
    let traffic = [
        "--requests",
        "300",
        "--tenants",
        "3",
        "--prefixes",
        "2",
        "--deadline",
        "20",
        "--flood",
        "50",
    ];
    let with = |more: &[&'static str]| -> Vec<&str> { [&traffic[..], more].concat() };
    let written = simulate(&[&traffic[..], &["--write-trace", &trace]].concat());
    assert!(written.status.success(), "{written:?}");
    let direct = report(&with(&["--json", "--fair"]));
    let replayed = report(&["--trace", &trace, "--json", "--fair", "--plot", &plot]);
    assert_eq!(direct["requests"]["total"], 350);
    assert_eq!(direct["tenants"].as_array().map(Vec::len), Some(4));
    // The trace's seconds are decimal numbers: the last nanosecond may be another.
    for field in ["total", "finished", "refused"] {
        assert_eq!(
            direct["requests"][field], replayed["requests"][field],
            "{field}"
        );
    }
    let seconds = |report: &Value| report["seconds"].as_f64().expect("a number");
    assert!((seconds(&direct) / seconds(&replayed) - 1.0).abs() < 1e-3);
    let svg = std::fs::read_to_string(plot).expect("it was drawn");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<polyline").count(), 7);
}

#[test]
fn a_report_for_people_names_what_matters() {
    let output = simulate(&[
        "--requests",
        "100",
        "--policy",
        "shortest",
        "--kv-blocks",
        "512",
    ]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    for word in [
        "100 finished",
        "time to first token",
        "preemptions:",
        "fairness:",
    ] {
        assert!(text.contains(word), "{word} is not in:\n{text}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace.jsonl");
    let line = r#"{"arrival": 0, "prompt_tokens": 1, "output_tokens": 1}"#;
    std::fs::write(&trace, format!("{line}\n\n{{\"arrival\": 1}}\n")).expect("written");
    let trace = trace.display().to_string();
    let wrong: [(&[&str], &str); 4] = [
        (&["--rate", "0"], "arrivals"),
        (&["--cancel-share", "2"], "cancels"),
        (&["--decode-ms=-1"], "--decode-ms"),
        (&["--trace", &trace], "trace.jsonl:3"),
    ];
    for (args, reason) in wrong {
        let output = simulate(args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && message.contains(reason),
            "{args:?}: {message}"
        );
    }
}
