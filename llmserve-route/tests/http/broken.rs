//! Servers that do what no server should: every failure is typed, in time, and tells no secret.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use llmserve_core::{Error, Event, FinishReason, Generate, Request};
use llmserve_route::remote::{Dialect, RemoteBuildError, RemoteEndpoint, Timeouts};

use super::support::raw::{EVENTS, Raw, chunk};
use super::support::{Scripted, Server, Step, eventually, says, started, token};

const KEY: &str = "sk-secret-of-ours";
const PROMPT: &str = "a prompt that nobody else shall read";

/// Long enough for any machine, and short where a test waits for it.
fn timeouts() -> Timeouts {
    let long = Duration::from_secs(60);
    Timeouts::default()
        .connect(long)
        .first_token(long)
        .between_tokens(long)
}

fn endpoint(url: &str, timeouts: Timeouts) -> RemoteEndpoint {
    RemoteEndpoint::builder("far", url)
        .dialect(Dialect::Vllm)
        .key(KEY)
        .timeouts(timeouts)
        .build()
        .expect("an endpoint")
}

fn ask() -> Request {
    Request::text(PROMPT).model("m").max_tokens(4)
}

/// The events that come, and the error they end with. No secret is told.
#[track_caller]
fn fails(endpoint: &RemoteEndpoint) -> (Vec<Event>, Error) {
    let (mut events, mut failed) = (Vec::new(), None);
    for item in endpoint.generate(ask()) {
        match item {
            Ok(event) => events.push(event),
            Err(error) => failed = Some(error),
        }
    }
    let error = failed.expect("an error");
    for text in [
        format!("{error}"),
        format!("{error:?}"),
        format!("{endpoint:?}"),
    ] {
        assert!(!text.contains(KEY) && !text.contains(PROMPT), "{text}");
        assert!(!text.contains("127.0.0.1"), "{text}");
    }
    (events, error)
}

fn event(text: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"text\":\"{text}\"}}]}}\n\n")
}

#[test]
fn statuses_and_the_words_that_come_with_them() {
    let answer = |status: &str, headers: &str, body: &str| {
        let length = body.len();
        format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
    };
    let named = format!(
        r#"{{"error":{{"type":"server_error","code":"overloaded","message":"{PROMPT} {KEY}"}}}}"#
    );
    let html = format!("<html><h1>{PROMPT}</h1>{KEY}</html>");
    let old = format!(r#"{{"object":"error","type":"BadRequestError","message":"{PROMPT}"}}"#);
    let prompt_as_code = format!(r#"{{"error":{{"code":"{PROMPT}"}}}}"#);
    let cases = [
        (
            answer("500 X", "", &html),
            500,
            "an error without a name",
            None,
        ),
        (
            answer("503 X", "retry-after: 3\r\n", &named),
            503,
            "server_error, overloaded",
            Some(3000),
        ),
        (
            answer("429 X", "retry-after-ms: 70\r\n", "{}"),
            429,
            "an error without a name",
            Some(70),
        ),
        (answer("400 X", "", &old), 400, "BadRequestError", None),
        (
            answer("401 X", "", &prompt_as_code),
            401,
            "an error without a name",
            None,
        ),
        (
            answer("302 X", "location: http://127.0.0.1:1/\r\n", ""),
            302,
            "an error without a name",
            None,
        ),
        (
            answer("404 X", "", "[1"),
            404,
            "an error without a name",
            None,
        ),
    ];
    for (bytes, status, message, retry_after) in cases {
        let server = Raw::says(bytes);
        let (events, error) = fails(&endpoint(&server.url(), timeouts()));
        assert_eq!(events, []);
        let expected = Error::Upstream {
            endpoint: "far".into(),
            status: Some(status),
            message: message.into(),
            retry_after: retry_after.map(Duration::from_millis),
        };
        assert_eq!(error, expected);
        // The key was sent, where it belongs, and once only.
        let seen = server.seen.lock();
        assert_eq!(seen.len(), 1);
        assert!(seen[0].0.contains(&format!("authorization: Bearer {KEY}")));
    }
}

#[test]
fn streams_that_are_none_or_break_off() {
    let two = format!("{}{}", event("to"), event(" be"));
    let cases = [
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}".to_owned(),
            0,
        ),
        ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), 0),
        ("nonsense\r\n\r\n".to_owned(), 0),
        (String::new(), 0),
        (EVENTS.to_owned(), 0),
        (format!("{EVENTS}{two}"), 3),
        (format!("{EVENTS}{two}data: [DONE]\n\n"), 3),
        (format!("{EVENTS}{two}data: garbage\n\n"), 3),
        (
            format!("{EVENTS}{two}data: {{\"choices\":[{{\"index\":9,\"text\":\"x\"}}]}}\n\n"),
            3,
        ),
        (
            format!("{EVENTS}{two}data: {{\"choices\":[{{\"index\":-1}}]}}\n\n"),
            3,
        ),
        // A body that ends before its last chunk does.
        (
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\
                 transfer-encoding: chunked\r\n\r\n{}40\r\n{}",
                String::from_utf8_lossy(&chunk(event("to").as_bytes())),
                event(" be")
            ),
            3,
        ),
    ];
    for (bytes, events) in cases {
        let server = Raw::says(bytes.clone());
        let (came, error) = fails(&endpoint(&server.url(), timeouts()));
        assert_eq!(came.len(), events, "{bytes}: {came:?}");
        assert!(
            matches!(&error, Error::Upstream { status: None, .. }),
            "{bytes}: {error}"
        );
    }
    // Its own error within the stream.
    let error = r#"data: {"error":{"message":"x","type":"server_error","code":503}}"#;
    let server = Raw::says(format!("{EVENTS}{two}{error}\n\n"));
    let (came, error) = fails(&endpoint(&server.url(), timeouts()));
    assert_eq!(came.len(), 3);
    let Error::Upstream {
        status, message, ..
    } = error
    else {
        panic!("{error}");
    };
    assert_eq!((status, message.as_str()), (Some(503), "server_error"));
}

#[test]
fn an_event_without_end_is_given_up() {
    let server = Raw::new(|stream| {
        let _ = stream.write_all(EVENTS.as_bytes());
        while stream.write_all(&[b'a'; 4096]).is_ok() {}
    });
    let endpoint = RemoteEndpoint::builder("far", server.url())
        .timeouts(timeouts())
        .max_event(1 << 16)
        .build()
        .expect("an endpoint");
    let error = endpoint.generate(ask()).wait().expect_err("no end");
    assert!(error.to_string().contains("65536"), "{error}");
}

#[test]
fn pieces_may_end_anywhere() {
    let text = "é\u{1f600}";
    let body = format!(
        ": ping\r\n{}data: {{\"choices\":[{{\"index\":0,\r\ndata: \"text\":\"!\",\"finish_reason\":\"stop\"}}]}}\r\n\r\n\
         data: {{\"choices\":[],\"usage\":{{\"prompt_tokens\":3,\"completion_tokens\":5}}}}\r\n\r\ndata: [DONE]",
        event(text).replace('\n', "\r\n")
    );
    for size in [1, 2, 3, 7] {
        let body = body.clone();
        let server = Raw::new(move |stream| {
            let _ = stream.set_nodelay(true);
            let head = "HTTP/1.1 200 OK\r\ncontent-type: Text/Event-Stream; charset=utf-8\r\n\
                        transfer-encoding: chunked\r\n\r\n";
            let _ = stream.write_all(head.as_bytes());
            for piece in body.as_bytes().chunks(size) {
                let _ = stream.write_all(&chunk(piece));
            }
            let _ = stream.write_all(&chunk(b""));
        });
        let response = endpoint(&server.url(), timeouts())
            .generate(ask())
            .wait()
            .expect("whole");
        assert_eq!(response.text(), format!("{text}!"));
        let choice = &response.choices[0];
        assert_eq!(choice.reason, Some(FinishReason::Stop));
        assert_eq!(
            (choice.usage.prompt_tokens, choice.usage.completion_tokens),
            (3, 5)
        );
    }
}

#[test]
fn an_answer_that_is_complete_but_for_its_end() {
    let end = r#"data: {"choices":[{"index":0,"text":"","finish_reason":"length"}]}"#;
    let body = format!("{EVENTS}{}{end}\n\n", event("to"));
    // The connection closes, or hangs, where the usage would be.
    let closes = Raw::says(body.clone());
    let hangs = Raw::new(move |stream| {
        let _ = stream.write_all(body.as_bytes());
        hang(stream);
    });
    let short = timeouts().between_tokens(Duration::from_millis(50));
    for server in [closes, hangs] {
        let response = endpoint(&server.url(), short)
            .generate(ask())
            .wait()
            .expect("complete");
        assert_eq!(response.text(), "to");
        assert_eq!(response.choices[0].reason, Some(FinishReason::Length));
    }
}

/// Until the other side closes.
fn hang(stream: &mut TcpStream) {
    let mut rest = [0; 64];
    while matches!(stream.read(&mut rest), Ok(count) if count > 0) {}
}

#[test]
fn every_wait_has_its_limit() {
    let short = Duration::from_millis(60);
    let silent = Raw::new(hang);
    let head_only = Raw::new(|stream| {
        // Who will speak, and nothing said: another could still begin.
        let role = r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}"#;
        let _ = stream.write_all(format!("{EVENTS}{role}\n\n: ping\n\n").as_bytes());
        hang(stream);
    });
    for server in [&silent, &head_only] {
        let (events, error) = fails(&endpoint(&server.url(), timeouts().first_token(short)));
        assert_eq!(events, []);
        let expected = Error::TimedOut {
            what: "first token",
            limit: short,
        };
        assert_eq!(error, expected);
    }
    let one = Raw::new(|stream| {
        let _ = stream.write_all(format!("{EVENTS}{}", event("to")).as_bytes());
        // Comments are no tokens.
        for _ in 0..200 {
            if stream.write_all(b": ping\n\n").is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        hang(stream);
    });
    let (events, error) = fails(&endpoint(&one.url(), timeouts().between_tokens(short)));
    assert_eq!(events.len(), 2);
    let expected = Error::TimedOut {
        what: "next token",
        limit: short,
    };
    assert_eq!(error, expected);
    let (events, error) = fails(&endpoint(
        &one.url(),
        timeouts().total(Duration::from_millis(200)),
    ));
    assert!(events.len() <= 2);
    let expected = Error::TimedOut {
        what: "end",
        limit: Duration::from_millis(200),
    };
    assert_eq!(error, expected);
    // A deadline is the request's own: it ends the answer, and is no failure.
    let endpoint = endpoint(&silent.url(), timeouts());
    let response = endpoint
        .generate(ask().n(2).deadline(short))
        .wait()
        .expect("an end");
    let reasons: Vec<_> = response
        .choices
        .iter()
        .map(|choice| choice.reason.clone())
        .collect();
    assert_eq!(reasons, vec![Some(FinishReason::Deadline); 2]);
}

#[test]
fn nobody_there() {
    let gone = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address")
    };
    let (_, error) = fails(&endpoint(&format!("http://{gone}"), timeouts()));
    let Error::Upstream {
        status: None,
        message,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert!(message.starts_with("no connection"), "{message}");
}

#[test]
fn dropping_the_stream_closes_the_connection() {
    for script in [
        vec![Step::Hang],
        vec![started(&[1]), token(0, 1, "to"), Step::Hang],
    ] {
        let reads = script.len() > 1;
        let service = Scripted::always(script);
        let server = Server::of(service.clone());
        let endpoint = server.endpoint(|endpoint| endpoint.dialect(Dialect::Llmserve));
        let mut stream = endpoint.generate(Request::text("x"));
        eventually(|| service.live() == 1);
        if reads {
            assert!(matches!(
                stream.blocking_next(),
                Some(Ok(Event::Started(_)))
            ));
            assert!(matches!(stream.blocking_next(), Some(Ok(Event::Token(_)))));
        }
        drop(stream);
        eventually(|| service.live() == 0);
    }
}

#[test]
fn a_stream_outlives_its_endpoint() {
    let server = Server::of(Scripted::always(says(&["to", " be"])));
    let endpoint = server.endpoint(|endpoint| endpoint.dialect(Dialect::Llmserve));
    let stream = endpoint.generate(Request::text("x"));
    drop(endpoint);
    assert_eq!(stream.wait().expect("an answer").text(), "to be");
}

#[test]
fn a_slow_reader_slows_the_endpoint_down() {
    let written = Arc::new(AtomicBool::new(false));
    let all = written.clone();
    let long = "x".repeat(1 << 16);
    let server = Raw::new(move |stream| {
        let _ = stream.write_all(EVENTS.as_bytes());
        for _ in 0..1000 {
            if stream.write_all(event(&long).as_bytes()).is_err() {
                return;
            }
        }
        all.store(true, Ordering::SeqCst);
        let end = r#"data: {"choices":[{"index":0,"finish_reason":"length"}]}"#;
        let _ = stream.write_all(format!("{end}\n\ndata: [DONE]\n\n").as_bytes());
    });
    // The time between tokens is the endpoint's, not the reader's.
    let short = timeouts().between_tokens(Duration::from_secs(5));
    let endpoint = endpoint(&server.url(), short);
    let mut stream = endpoint.generate(ask());
    assert!(matches!(
        stream.blocking_next(),
        Some(Ok(Event::Started(_)))
    ));
    std::thread::sleep(Duration::from_millis(300));
    // 64 events and what sockets hold, not 64 MB.
    assert!(!written.load(Ordering::SeqCst));
    let mut bytes = 0;
    for event in stream {
        bytes += event.expect("an event").text().len();
    }
    assert_eq!(bytes, 1000 << 16);
}

#[test]
fn connections_are_used_again() {
    let connections = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = connections.clone();
    let server = Raw::new(move |stream| {
        count.fetch_add(1, Ordering::SeqCst);
        let end = r#"data: {"choices":[{"index":0,"text":"a","finish_reason":"length"}]}"#;
        let body = format!("{end}\n\ndata: [DONE]\n\n");
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut buffer = [0; 8192];
        loop {
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
            // The next request, small enough to come at once.
            match stream.read(&mut buffer) {
                Ok(count) if count > 0 => {}
                _ => return,
            }
        }
    });
    let endpoint = endpoint(&server.url(), timeouts());
    for _ in 0..5 {
        assert_eq!(
            endpoint.generate(ask()).wait().expect("an answer").text(),
            "a"
        );
        // The answer is there before the connection is back.
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(connections.load(Ordering::SeqCst) <= 2);
}

#[test]
fn addresses_and_keys_that_cannot_be_used() {
    for url in [
        "",
        "rack-1:8000",
        "ftp://rack-1",
        "http://",
        "http://user:secret@rack-1",
        "http://rack-1/v1?key=secret",
        "http://rack-1/#x",
    ] {
        let builder = RemoteEndpoint::builder("far", url).key("secret");
        assert!(!format!("{builder:?}").contains("secret"));
        let error = builder.build().expect_err(url);
        assert!(matches!(error, RemoteBuildError::Address { .. }), "{url}");
        assert!(!format!("{error:?}").contains("secret"));
    }
    let error = RemoteEndpoint::builder("far", "http://rack-1")
        .key("a\nb")
        .build();
    let error = error.expect_err("no header has a line break");
    assert!(matches!(error, RemoteBuildError::Key { .. }), "{error:?}");
}
