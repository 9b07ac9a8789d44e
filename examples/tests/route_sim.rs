//! The `route_sim` example, run as a user runs it.

use std::process::{Command, Output};

use serde_json::Value;

/// `cargo test` builds the examples next to the tests.
fn route_sim(args: &[&str]) -> Output {
    let test = std::env::current_exe().expect("this test's own path");
    let folder = test
        .ancestors()
        .nth(2)
        .expect("target/PROFILE/deps/TEST has a grandparent");
    Command::new(folder.join("examples").join("route_sim"))
        .args(args)
        .output()
        .expect("the example was built")
}

#[test]
fn one_line_of_json_for_each_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    let plot = folder.path().join("plot.svg").display().to_string();
    let args = "--clients 200 --kv-tokens 16384 --requests 400 --policy round-robin,kv-aware --json --plot";
    let args: Vec<&str> = args.split(' ').chain([plot.as_str()]).collect();
    let output = route_sim(&args);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let fields = "policy trace requests mean_ttft_ms p50_ttft_ms p99_ttft_ms throughput_rps hit_rate imbalance";
    for line in &lines {
        let line = line.as_object().expect("an object");
        assert!(fields.split(' ').all(|field| line.contains_key(field)));
        assert_eq!(line.len(), 9);
        assert!(line["requests"].as_u64() >= Some(400));
    }
    let policies: Vec<_> = lines.iter().map(|line| &line["policy"]).collect();
    assert_eq!(policies, ["round-robin", "kv-aware"]);
    assert!(lines[1]["hit_rate"].as_f64() > lines[0]["hit_rate"].as_f64());
    let svg = std::fs::read_to_string(plot).expect("it was drawn");
    assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<polyline").count(), 6);
}

#[test]
fn a_file_is_replayed_and_what_is_wrong_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace.jsonl");
    let line = r#"{"arrival": 0, "prompt": [[1, 64]], "answer": [2, 8]}"#;
    std::fs::write(&trace, format!("{line}\n\n{line}\n")).expect("written");
    let path = trace.display().to_string();
    let output = route_sim(&["--trace", &path, "--policy", "random"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("hit rate"),
        "{output:?}"
    );
    std::fs::write(&trace, format!("{line}\n{{}}\n")).expect("written");
    let wrong: [(&[&str], &str); 5] = [
        (&["--trace", &path], "trace.jsonl:2"),
        (&["--trace", "nowhere"], "multi-turn, shared-prefix, random"),
        (&["--policy", "best"], "there is no strategy"),
        (&["--clients", "0"], "clients"),
        (&["--think=-1"], "--think"),
    ];
    for (args, reason) in wrong {
        let output = route_sim(args);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && message.contains(reason),
            "{args:?}: {message}"
        );
    }
}
