//! Servers, a proxy before them, and services with a cache in front.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use llmserve_cache::{
    Answer, CacheLayer, Entry, Key, Lookup, RedisStore, RedisStoreBuilder, Stamp, Store,
};
use llmserve_core::{
    Event, EventStream, FinishReason, Finished, Generate, Prompt, Request, Started, Timings,
    TokenEvent, Usage,
};
use tempfile::TempDir;

/// Longer than anything here takes on a loaded machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A `redis-server`, killed when dropped.
pub(crate) struct Server {
    child: Child,
    pub(crate) port: u16,
    options: Vec<String>,
    folder: TempDir,
}

impl Server {
    /// None, said aloud: there is no such program here.
    pub(crate) fn start(options: &[&str]) -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").output();
        if let Err(error) = found {
            // Past the test harness, which hides what passing tests print.
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: redis-server cannot be run here ({error}), so nobody has tried the store"
            );
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let options: Vec<String> = options.iter().map(|&option| option.to_owned()).collect();
        loop {
            let port = free_port();
            // The port may have been taken meanwhile.
            if let Some(child) = run(port, &options, folder.path()) {
                return Some(Self {
                    child,
                    port,
                    options,
                    folder,
                });
            }
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// As `kill -9` does.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// On the same port, with what it had on disk.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let started = Instant::now();
        loop {
            if let Some(child) = run(self.port, &self.options, self.folder.path()) {
                self.child = child;
                return;
            }
            assert!(started.elapsed() < PATIENCE, "the port is taken");
        }
    }

    pub(crate) fn raw(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).unwrap();
        client.get_connection().unwrap()
    }

    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut asked = redis::cmd(command[0]);
        for argument in &command[1..] {
            asked.arg(*argument);
        }
        asked.query(&mut self.raw()).unwrap()
    }

    pub(crate) fn info(&self, field: &str) -> u64 {
        let info: String = self.ask(&["INFO"]);
        let mut lines = info.lines();
        let line = lines.find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap().parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(port: u16, options: &[String], folder: &Path) -> Option<Child> {
    let mut child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .args(["--save", "", "--dir"])
        .arg(folder)
        .args(options)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    loop {
        if TcpStream::connect(("127.0.0.1", port)).is_ok() {
            return Some(child);
        }
        if child.try_wait().unwrap().is_some() {
            return None;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    listener.local_addr().unwrap().port()
}

/// Passes everything on to a server, or, while it is shut, nothing that the server says.
pub(crate) struct Gate {
    pub(crate) port: u16,
    shut: Arc<AtomicBool>,
    /// Connections taken, ever.
    pub(crate) taken: Arc<AtomicUsize>,
}

impl Gate {
    pub(crate) fn before(server: &Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let gate = Self {
            port: listener.local_addr().unwrap().port(),
            shut: Arc::default(),
            taken: Arc::default(),
        };
        let (to, shut, taken) = (server.port, gate.shut.clone(), gate.taken.clone());
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                taken.fetch_add(1, Ordering::SeqCst);
                let Ok(far) = TcpStream::connect(("127.0.0.1", to)) else {
                    continue;
                };
                let (near2, far2) = (near.try_clone().unwrap(), far.try_clone().unwrap());
                let shut = shut.clone();
                thread::spawn(move || pass_on(near, far, &AtomicBool::new(false)));
                thread::spawn(move || pass_on(far2, near2, &shut));
            }
        });
        gate
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn set_shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::SeqCst);
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, shut: &AtomicBool) {
    let mut buffer = [0; 65_536];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break,
        };
        while shut.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

/// Says of every prompt what it is, and counts.
#[derive(Default)]
pub(crate) struct Echo {
    pub(crate) runs: AtomicUsize,
    /// Bytes that each answer has besides.
    pub(crate) padding: usize,
}

impl Generate for Echo {
    fn generate(&self, request: Request) -> EventStream {
        self.runs.fetch_add(1, Ordering::SeqCst);
        EventStream::ready(events(&request, self.padding).into_iter().map(Ok))
    }
}

fn events(request: &Request, padding: usize) -> Vec<Event> {
    let Prompt::Text(prompt) = &request.prompt else {
        panic!("only texts are asked here");
    };
    let token = TokenEvent {
        index: 0,
        id: 1,
        text: expected(prompt, padding),
        logprobs: None,
    };
    vec![
        Event::Started(Started::default()),
        Event::Token(token),
        Event::Finished(Finished {
            index: 0,
            reason: FinishReason::Eos(2),
            text: String::new(),
            usage: Usage::default(),
            timings: Timings::default(),
        }),
    ]
}

pub(crate) fn expected(prompt: &str, padding: usize) -> String {
    format!("{prompt}!{}", "x".repeat(padding))
}

/// A service, its store, and the cache between them.
pub(crate) struct Host {
    pub(crate) echo: Arc<Echo>,
    pub(crate) store: Arc<RedisStore>,
    pub(crate) cached: CacheLayer,
}

impl Host {
    pub(crate) fn of(builder: RedisStoreBuilder) -> Self {
        Self::padded(builder, 0)
    }

    pub(crate) fn padded(builder: RedisStoreBuilder, padding: usize) -> Self {
        let echo = Arc::new(Echo {
            padding,
            ..Echo::default()
        });
        let store = Arc::new(builder.build().unwrap());
        let cached = CacheLayer::builder(echo.clone())
            .store(store.clone())
            .build()
            .unwrap();
        Self {
            echo,
            store,
            cached,
        }
    }

    /// With its store connected.
    pub(crate) fn at(url: impl Into<String>) -> Self {
        let host = Self::of(quick(url));
        host.connected();
        host
    }

    #[track_caller]
    pub(crate) fn connected(&self) {
        eventually("connected", || self.store.is_connected());
    }

    #[track_caller]
    pub(crate) fn flushed(&self) {
        assert!(self.store.flush(PATIENCE));
    }

    #[track_caller]
    pub(crate) fn ask(&self, prompt: &str) {
        let answer = self.cached.generate(Request::text(prompt)).wait().unwrap();
        assert_eq!(answer.text(), expected(prompt, self.echo.padding));
    }

    pub(crate) fn runs(&self) -> usize {
        self.echo.runs.load(Ordering::SeqCst)
    }

    /// Runs that these prompts take.
    #[track_caller]
    pub(crate) fn runs_of(&self, prompts: impl IntoIterator<Item = usize>) -> usize {
        let before = self.runs();
        for prompt in prompts {
            self.ask(&prompt.to_string());
        }
        self.runs() - before
    }
}

/// A store with a time limit that a loaded machine keeps, and a refresh that tests can wait for.
pub(crate) fn quick(url: impl Into<String>) -> RedisStoreBuilder {
    RedisStore::builder(url)
        .time_limit(Duration::from_secs(5))
        .connect_timeout(Duration::from_secs(10))
        .epoch_refresh(Duration::from_millis(20))
        .breaker(5, Duration::from_millis(50))
}

pub(crate) fn key(prompt: &str) -> Arc<Key> {
    Arc::new(Key::new("", &Request::text(prompt)).unwrap())
}

/// Where the store keeps it.
pub(crate) fn place(prompt: &str) -> String {
    format!("llmserve:{:032x}", key(prompt).hash128())
}

pub(crate) fn entry(prompt: &str, stamp: Stamp) -> Entry {
    let answer = Answer::new(&events(&Request::text(prompt), 0)).unwrap();
    Entry::new(key(prompt), answer, stamp)
}

/// What a store finds, however long it takes.
pub(crate) fn look(store: &RedisStore, prompt: &str) -> Option<Entry> {
    match store.get(&key(prompt)) {
        Lookup::Ready(found) => found,
        Lookup::Pending(lookup) => block_on(lookup),
        _ => None,
    }
}

pub(crate) fn block_on<T>(mut future: impl Future<Output = T> + Unpin) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match std::pin::Pin::new(&mut future).poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
