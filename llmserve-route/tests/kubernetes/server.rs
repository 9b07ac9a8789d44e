//! An API server that is none: each request takes the next reply of a script.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

/// What must never be told.
pub(crate) const TOKEN: &str = "s3cr3t-t0k3n";

/// How long a test waits for another thread.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) enum Reply {
    Json(u16, Value),
    /// Lines as they come, until the sender is dropped.
    Watch(Receiver<Value>),
    /// The connection is closed.
    Nothing,
    /// The connection is held, until the sender is dropped.
    Silence(Receiver<()>),
}

/// A request that came.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Method and path.
    pub(crate) line: String,
    pub(crate) authorized: bool,
    pub(crate) body: String,
}

pub(crate) struct Server {
    address: SocketAddr,
    script: Sender<Reply>,
    asked: Receiver<Asked>,
    pub(crate) runtime: Runtime,
}

impl Server {
    pub(crate) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (script, replies) = channel();
        let (ask, asked) = channel();
        let replies = Arc::new(Mutex::new(replies));
        // Its threads end with the test's process.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (replies, ask) = (replies.clone(), ask.clone());
                thread::spawn(move || answer(stream.expect("a connection"), &ask, &replies));
            }
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        Self {
            address,
            script,
            asked,
            runtime,
        }
    }

    /// A client with a token. For inside the runtime.
    pub(crate) fn client(&self) -> Client {
        let url = format!("http://{}", self.address).parse().expect("a URL");
        let mut config = Config::new(url);
        config.auth_info.token = Some(TOKEN.to_owned().into());
        Client::try_from(config).expect("a client")
    }

    pub(crate) fn will(&self, reply: Reply) {
        self.script.send(reply).expect("it listens");
    }

    pub(crate) fn will_answer(&self, value: Value) {
        self.will(Reply::Json(200, value));
    }

    pub(crate) fn will_refuse(&self, status: u16, reason: &str) {
        self.will(Reply::Json(status, refusal(status, reason)));
    }

    /// A watch, that the test then tells.
    pub(crate) fn will_watch(&self) -> Sender<Value> {
        let (sender, receiver) = channel();
        self.will(Reply::Watch(receiver));
        sender
    }

    /// The next request that came.
    #[track_caller]
    pub(crate) fn asked(&self) -> Asked {
        let asked = self.asked.recv_timeout(PATIENCE).expect("it is asked");
        assert!(asked.authorized, "{asked:?}");
        asked
    }

    pub(crate) fn was_asked_nothing(&self) -> bool {
        self.asked.try_recv().is_err()
    }
}

/// A status with words that repeat what nobody should.
pub(crate) fn refusal(status: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("not with {TOKEN}"), "reason": reason, "code": status })
}

/// Waits for what another thread tells.
#[track_caller]
pub(crate) fn next<T>(told: &Receiver<T>) -> T {
    told.recv_timeout(PATIENCE).expect("it is told")
}

fn answer(mut stream: TcpStream, ask: &Sender<Asked>, replies: &Mutex<Receiver<Reply>>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
    let mut line = String::new();
    if reader.read_line(&mut line).unwrap_or(0) == 0 {
        return;
    }
    let (mut authorized, mut length) = (false, 0);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).unwrap_or(0) == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').expect("a header");
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorized = value.trim() == format!("Bearer {TOKEN}"),
            "content-length" => length = value.trim().parse().expect("a length"),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    let asked = Asked {
        line: line.trim_end_matches("\r\n").to_owned(),
        authorized,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    if ask.send(asked).is_err() {
        return;
    }
    let Ok(reply) = replies.lock().expect("no panic").recv() else {
        return;
    };
    let head = |status: u16| {
        format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nconnection: close\r\n\r\n"
        )
    };
    match reply {
        Reply::Json(status, value) => {
            let _ = stream.write_all(format!("{}{value}", head(status)).as_bytes());
        }
        Reply::Watch(lines) => {
            let _ = stream.write_all(head(200).as_bytes());
            for line in lines {
                if stream.write_all(format!("{line}\n").as_bytes()).is_err() {
                    return;
                }
            }
        }
        Reply::Nothing => {}
        Reply::Silence(until) => drop(until.recv()),
    }
}
