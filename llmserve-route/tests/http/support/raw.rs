//! A server of bytes: reads a request and does with the connection what the test says.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

/// A server on a port of its own. Its threads end with the test's process.
pub(crate) struct Raw {
    pub(crate) address: SocketAddr,
    /// Heads and bodies of the requests that came.
    pub(crate) seen: Arc<Mutex<Vec<(String, String)>>>,
}

impl Raw {
    /// Each connection is given to `answer` after its first request has been read.
    pub(crate) fn new(answer: impl Fn(&mut TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let seen: Arc<Mutex<Vec<_>>> = Arc::default();
        let answer = Arc::new(answer);
        let requests = seen.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, answer) = (stream.expect("a connection"), answer.clone());
                let requests = requests.clone();
                thread::spawn(move || {
                    if let Some(request) = read(&mut stream) {
                        requests.lock().push(request);
                        answer(&mut stream);
                    }
                });
            }
        });
        Self { address, seen }
    }

    /// Answers every request with these bytes, and closes.
    pub(crate) fn says(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::new(move |stream| {
            let _ = stream.write_all(&bytes);
        })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Head and body of the last request.
    pub(crate) fn last(&self) -> (String, serde_json::Value) {
        let seen = self.seen.lock();
        let (head, body) = seen.last().expect("a request came");
        (head.clone(), serde_json::from_str(body).expect("JSON"))
    }
}

/// A head that announces events and a body that ends with the connection.
pub(crate) const EVENTS: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

/// One chunk of a chunked body.
pub(crate) fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut out = format!("{:x}\r\n", bytes.len()).into_bytes();
    out.extend_from_slice(bytes);
    out.extend_from_slice(b"\r\n");
    out
}

fn read(stream: &mut TcpStream) -> Option<(String, String)> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok())
        .unwrap_or(0);
    let mut body = bytes.split_off(end);
    while body.len() < length {
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => body.extend_from_slice(&buffer[..count]),
        }
    }
    Some((head, String::from_utf8_lossy(&body).into_owned()))
}
