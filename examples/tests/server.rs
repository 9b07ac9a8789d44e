//! The `server` example, run as a user runs it.
#![cfg(unix)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start() -> Self {
        let test = std::env::current_exe().expect("this test's own path");
        let folder = test.ancestors().nth(2).expect("target/PROFILE");
        let mut child = Command::new(folder.join("examples").join("server"))
            .args(["--port", "0", "--dtype", "f32"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example was built");
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("stdout is piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let address = line.trim().strip_prefix("listening on http://");
        let address = address.unwrap_or_else(|| panic!("{line}")).to_owned();
        Self { child, address }
    }

    /// Sends a request, whose answer ends with the connection.
    fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .expect("sent");
        stream
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> (String, String) {
        let mut answer = String::new();
        let mut stream = self.send(method, path, body);
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_owned(), body.to_owned())
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = Command::new("kill").args([name, &id]).status();
        assert!(status.expect("kill is there").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serves_until_it_is_told_to_leave_and_says_the_last_answer_to_its_end() {
    let mut server = Server::start();
    assert!(
        server
            .ask("GET", "/ready", "")
            .0
            .starts_with("HTTP/1.1 200")
    );
    let (_, models) = server.ask("GET", "/v1/models", "");
    let models: Value = serde_json::from_str(&models).expect("JSON");
    assert_eq!(models["data"][0]["id"], "bard-2m");
    let body = json!({"prompt": "HAMLET", "max_tokens": 24, "temperature": 0, "logprobs": 1,
        "return_token_ids": true});
    let (_, answer) = server.ask("POST", "/v1/completions", &body.to_string());
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let choice = &answer["choices"][0];
    assert!(choice["text"].as_str().expect("text").contains("ACT V"));
    assert_eq!(choice["token_ids"].as_array().map(Vec::len), Some(24));
    let tokens = choice["logprobs"]["tokens"].as_array().expect("a list");
    let named: String = tokens.iter().filter_map(Value::as_str).collect();
    assert_eq!(
        Some(named.trim_start()),
        choice["text"].as_str().map(str::trim_start)
    );
    assert_eq!(answer["usage"]["completion_tokens"], 24);
    let (head, error) = server.ask("POST", "/v1/completions", r#"{"prompt":"x","top_p":7}"#);
    assert!(
        head.starts_with("HTTP/1.1 400") && error.contains("top_p"),
        "{error}"
    );
    let form = json!({"messages": [{"role": "user", "content": "Is he dead?"}],
        "structured_outputs": {"choice": ["yes", "no"]}});
    let (_, answer) = server.ask("POST", "/v1/chat/completions", &form.to_string());
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    let said = answer["choices"][0]["message"]["content"].as_str();
    assert!(matches!(said, Some("yes" | "no")), "{answer}");
    let (_, metrics) = server.ask("GET", "/metrics", "");
    assert!(
        metrics.contains("llmserve_http_requests_total{"),
        "{metrics}"
    );

    let body = json!({"prompt": "KING", "max_tokens": 400, "temperature": 0, "stream": true,
        "ignore_eos": true});
    let mut stream = server.send("POST", "/v1/completions", &body.to_string());
    let mut first = [0; 64];
    stream.read_exact(&mut first).expect("it has begun");
    server.signal("-INT");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("its end");
    assert!(rest.contains("data: [DONE]"), "{rest}");
    assert!(server.child.wait().expect("it ended").success());
}
