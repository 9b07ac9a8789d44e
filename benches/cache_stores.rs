//! What a hit costs in the stores outside this process: Redis beside a bare `GET` of the same bytes
//! with the same client, and a local disk.
//!
//! Two ways to wait, for the store and for the bare `GET` alike: on a thread, for a connection that
//! another thread serves, as callers of a layer do; and as a task of the runtime that serves it.
//! Lookups of both kinds take turns, and medians are compared. Starts a `redis-server` of its own.

use std::error::Error;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use clap::Parser;
use llmserve_benches::{Common, Report, median};
use llmserve_cache::{Answer, DiskStore, Entry, Key, Lookup, RedisStore, Store};
use llmserve_core::{Event, Request, TextEvent};
use redis::aio::MultiplexedConnection;

/// Hits in stores outside the process.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Bytes of an answer.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 16_000])]
    bytes: Vec<usize>,
    /// Lookups of each kind.
    #[arg(long, default_value_t = 10_000)]
    lookups: usize,
}

const LONG: Duration = Duration::from_secs(30);

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = Args::parse();
    if args.common.quick {
        args.lookups = 200;
    }
    let title = format!("a hit, median of {} lookups", args.lookups);
    let mut report = Report::new(&title, args.common.json);
    match Server::start() {
        Ok(server) => {
            for &bytes in &args.bytes {
                redis_hits(&server, bytes, args.lookups, &mut report)?;
            }
        }
        Err(error) => eprintln!("SKIPPED: redis-server cannot be run here ({error})"),
    }
    let mut report = Report::new("", args.common.json);
    for &bytes in &args.bytes {
        let folder = tempfile::tempdir()?;
        let store = DiskStore::builder(folder.path()).build()?;
        let entry = entry(bytes, &store);
        store.put(entry.clone());
        store.flush(LONG);
        let mut times = Vec::with_capacity(args.lookups);
        for _ in 0..args.lookups {
            times.push(timed(|| block_on(hit(&store, &entry.key))));
        }
        let hit_us = median(times.into_iter());
        report.row(
            "disk",
            &[("answer_bytes", bytes.into()), ("hit_us", hit_us.into())],
        );
    }
    Ok(())
}

fn redis_hits(
    server: &Server,
    bytes: usize,
    lookups: usize,
    report: &mut Report,
) -> Result<(), Box<dyn Error>> {
    let url = format!("redis://127.0.0.1:{}", server.port);
    let client = redis::Client::open(url.as_str())?;
    let serving = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    };
    let builder = || {
        RedisStore::builder(&url)
            .connections(1)
            .time_limit(Duration::from_secs(5))
    };

    // Callers wait on a thread of theirs.
    let store = builder().build()?;
    let (key, get) = stored(&store, bytes)?;
    let elsewhere = serving()?;
    let bare = elsewhere.block_on(connect(&client))?;
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let thread = thread::spawn(move || drop(elsewhere.block_on(stopped)));
    let (mut hits, mut gets) = (Vec::new(), Vec::new());
    for _ in 0..lookups {
        hits.push(timed(|| block_on(hit(&store, &key))));
        gets.push(timed(|| block_on(asked(bare.clone(), &get))));
    }
    row(report, "redis, awaited on a thread", bytes, hits, gets);
    let _ = stop.send(());
    let _ = thread.join();

    // Callers are tasks of the same runtime.
    let runtime = serving()?;
    let store = builder().runtime(runtime.handle().clone()).build()?;
    let (hits, gets) = runtime.block_on(async {
        let bare = connect(&client).await?;
        while !store.is_connected() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let (mut hits, mut gets) = (Vec::new(), Vec::new());
        for _ in 0..lookups {
            let began = Instant::now();
            hit(&store, &key).await;
            hits.push(1e6 * began.elapsed().as_secs_f64());
            let began = Instant::now();
            asked(bare.clone(), &get).await;
            gets.push(1e6 * began.elapsed().as_secs_f64());
        }
        redis::RedisResult::Ok((hits, gets))
    })?;
    row(report, "redis, awaited in its runtime", bytes, hits, gets);
    Ok(())
}

/// As the store connects: without the client's own time limit.
async fn connect(client: &redis::Client) -> redis::RedisResult<MultiplexedConnection> {
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
    let connection = client.get_multiplexed_async_connection_with_config(&config);
    connection.await
}

/// Puts an answer into Redis; its key, and the `GET` of its bytes.
fn stored(store: &RedisStore, bytes: usize) -> Result<(Arc<Key>, redis::Cmd), Box<dyn Error>> {
    let began = Instant::now();
    while !store.is_connected() {
        if began.elapsed() > LONG {
            return Err("the server cannot be reached".into());
        }
        thread::sleep(Duration::from_millis(1));
    }
    let entry = entry(bytes, store);
    store.put(entry.clone());
    store.flush(LONG);
    let mut get = redis::cmd("GET");
    get.arg(format!("llmserve:{:032x}", entry.key.hash128()));
    Ok((entry.key, get))
}

fn entry(bytes: usize, store: &impl Store) -> Entry {
    let key = Key::new("", &Request::text(bytes.to_string())).expect("cacheable");
    let text = TextEvent {
        index: 0,
        text: "x".repeat(bytes),
    };
    let answer = Answer::new(&[Event::Text(text)]).expect("known events");
    Entry::new(Arc::new(key), answer, store.epochs().stamp([]))
}

async fn hit(store: &impl Store, key: &Arc<Key>) {
    let found = match store.get(key) {
        Lookup::Pending(lookup) => lookup.await,
        Lookup::Ready(found) => found,
        _ => None,
    };
    assert!(found.is_some(), "what was put is there");
}

async fn asked(mut bare: MultiplexedConnection, get: &redis::Cmd) {
    let bytes: redis::RedisResult<Option<Vec<u8>>> = get.query_async(&mut bare).await;
    assert!(matches!(bytes, Ok(Some(_))), "what was put is there");
}

fn row(report: &mut Report, name: &str, bytes: usize, hits: Vec<f64>, gets: Vec<f64>) {
    let (hit_us, get_us) = (median(hits.into_iter()), median(gets.into_iter()));
    report.row(
        name,
        &[
            ("answer_bytes", bytes.into()),
            ("hit_us", hit_us.into()),
            ("bare_get_us", get_us.into()),
            ("ratio", (hit_us / get_us).into()),
        ],
    );
}

/// Microseconds.
fn timed(work: impl FnOnce()) -> f64 {
    let began = Instant::now();
    work();
    1e6 * began.elapsed().as_secs_f64()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = std::pin::pin!(future);
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

/// A `redis-server` without a disk, killed when dropped.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start() -> std::io::Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let child = Command::new("redis-server")
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", ""])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { child, port })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
