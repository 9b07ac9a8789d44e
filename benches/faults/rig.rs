//! Four servers, a router over endpoints that call them, and traffic.

use std::error::Error;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use futures_core::Stream;
use llmserve::{Event, Generate, Request};
use llmserve_route::gateway::Gateway;
use llmserve_route::health::{BreakerConfig, Breakers};
use llmserve_route::reliability::Timeouts;
use llmserve_route::remote::{Dialect, RemoteEndpoint};
use llmserve_route::{Replica, Router};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::service::{ERRORS, HUNG, SLOW, Service, WELL, token};

/// For a connection.
pub const CONNECT: Duration = Duration::from_millis(500);
/// For the first token and from one to the next.
pub const SILENCE: Duration = Duration::from_millis(1_000);

/// What may be wrong with a server.
#[derive(Clone, Copy)]
pub enum Fault {
    /// Its process is gone: connections break, new ones are refused.
    Killed,
    /// It takes requests and says nothing.
    Hung,
    /// It answers 500.
    Errors,
    /// It takes five times as long for a token.
    Slow,
}

struct Server {
    service: Arc<Service>,
    address: SocketAddr,
    /// None while it is killed.
    runtime: Option<Runtime>,
}

impl Server {
    fn start(&mut self) -> Result<(), Box<dyn Error>> {
        let runtime = runtime()?;
        let listener = runtime.block_on(tokio::net::TcpListener::bind(self.address))?;
        self.address = listener.local_addr()?;
        let app = Gateway::new(self.service.clone()).into_router();
        runtime.spawn(async move { axum::serve(listener, app).await });
        self.runtime = Some(runtime);
        Ok(())
    }
}

fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
}

/// The whole stage.
pub struct Rig {
    servers: Vec<Server>,
    router: Router,
    clients: Runtime,
    seeds: AtomicU32,
}

/// What became of a request.
pub struct Outcome {
    /// The answer is there from its first token to its end.
    pub whole: bool,
    /// A token is not the one that it should be, or there are too many.
    pub wrong: bool,
    /// How long the first token took, and the end.
    pub first: Option<Duration>,
    pub end: Duration,
    /// Servers that were asked, at least: those that are said to have begun.
    pub error: Option<String>,
}

/// Requests under way.
pub struct Traffic {
    requests: Vec<JoinHandle<Outcome>>,
    sender: Option<JoinHandle<Vec<JoinHandle<Outcome>>>>,
    clients: tokio::runtime::Handle,
}

impl Traffic {
    /// Waits for all of them.
    pub fn finish(&mut self) -> Vec<Outcome> {
        let clients = self.clients.clone();
        clients.block_on(async {
            if let Some(sender) = self.sender.take() {
                self.requests
                    .extend(sender.await.expect("requests are sent"));
            }
            let mut outcomes = Vec::new();
            for request in self.requests.drain(..) {
                outcomes.push(request.await.expect("a request does not panic"));
            }
            outcomes
        })
    }
}

impl Rig {
    pub fn new() -> Result<Self, Box<dyn Error>> {
        let clients = runtime()?;
        let mut servers = Vec::new();
        let mut router = Router::builder();
        for at in 0..4 {
            let mut server = Server {
                service: Arc::default(),
                address: SocketAddr::from(([127, 0, 0, 1], 0)),
                runtime: None,
            };
            server.start()?;
            let name = format!("server {at}");
            let timeouts = llmserve_route::remote::Timeouts::default().connect(CONNECT);
            let endpoint = RemoteEndpoint::builder(&name, format!("http://{}", server.address))
                .dialect(Dialect::Llmserve)
                .timeouts(timeouts)
                .runtime(clients.handle().clone())
                .build()?;
            router = router.replica(Replica::new(name, endpoint).identity("these weights"));
            servers.push(server);
        }
        let breaker = BreakerConfig::default()
            .consecutive(3)
            .open_for(Duration::from_millis(500))
            .open_for_at_most(Duration::from_secs(2));
        let silence = Timeouts::default()
            .first_token(SILENCE)
            .between_tokens(SILENCE);
        let router = router
            .availability(Breakers::new(breaker)?)
            .timeouts(silence)
            .max_attempts(8)
            // Three of four servers fail at once: more retries than a fleet at peace needs.
            .retry_budget(llmserve_route::reliability::RetryBudget::default().ratio(3.0))
            .build()?;
        Ok(Self {
            servers,
            router,
            clients,
            seeds: AtomicU32::new(1),
        })
    }

    pub fn fault(&mut self, server: usize, fault: Fault) -> Result<(), Box<dyn Error>> {
        let server = &mut self.servers[server];
        let switch = match fault {
            Fault::Killed => {
                if let Some(runtime) = server.runtime.take() {
                    runtime.shutdown_background();
                }
                return Ok(());
            }
            Fault::Hung => HUNG,
            Fault::Errors => ERRORS,
            Fault::Slow => SLOW,
        };
        server.service.fault.store(switch, Ordering::Relaxed);
        Ok(())
    }

    pub fn heal(&mut self, server: usize) -> Result<(), Box<dyn Error>> {
        let server = &mut self.servers[server];
        server.service.fault.store(WELL, Ordering::Relaxed);
        // Its former self may not have let go of the port yet.
        for _ in 0..200 {
            if server.runtime.is_some() || server.start().is_ok() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{} is still taken", server.address).into())
    }

    pub fn dispatched(&self, server: usize) -> u64 {
        self.router.stats().replicas[server].dispatched
    }

    pub fn all_dispatched(&self) -> u64 {
        let stats = self.router.stats();
        stats.replicas.iter().map(|r| r.dispatched).sum()
    }

    /// `rate` requests a second for so long.
    pub fn start(&self, rate: u32, time: Duration) -> Traffic {
        let requests = (f64::from(rate) * time.as_secs_f64()) as u32;
        let first = self.seeds.fetch_add(requests, Ordering::Relaxed);
        let router = self.router.clone();
        let pause = time / requests.max(1);
        let sender = self.clients.spawn(async move {
            let began = tokio::time::Instant::now();
            let mut sent = Vec::new();
            for number in 0..requests {
                tokio::time::sleep_until(began + pause * number).await;
                sent.push(tokio::spawn(ask(router.clone(), first + number)));
            }
            sent
        });
        Traffic {
            requests: Vec::new(),
            sender: Some(sender),
            clients: self.clients.handle().clone(),
        }
    }

    /// Nothing runs any more, as the router and the servers count.
    pub fn is_idle(&self) -> Result<(), String> {
        let busy = || {
            let stats = self.router.stats();
            let mut counts: Vec<_> = stats.replicas.iter().map(|r| r.outstanding).collect();
            let live = self
                .servers
                .iter()
                .map(|s| s.service.live.load(Ordering::SeqCst));
            counts.extend(live);
            counts
        };
        for _ in 0..500 {
            if busy().iter().all(|count| *count == 0) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!(
            "outstanding at the router, live at the servers: {:?}",
            busy()
        ))
    }
}

async fn ask(router: Router, prompt: u32) -> Outcome {
    let tokens = 4 + prompt as usize % 13;
    let request = Request::tokens([prompt, 7])
        .max_tokens(tokens)
        .seed(u64::from(prompt));
    let began = Instant::now();
    let mut stream = router.generate(request);
    let mut outcome = Outcome {
        whole: false,
        wrong: false,
        first: None,
        end: Duration::ZERO,
        error: None,
    };
    let mut at = 0;
    while let Some(event) = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx)).await {
        match event {
            Ok(Event::Token(event)) => {
                outcome.first.get_or_insert_with(|| began.elapsed());
                outcome.wrong |= outcome.whole || event.id != token(prompt, at);
                at += 1;
            }
            Ok(Event::Finished(finished)) => {
                outcome.wrong |= outcome.whole || finished.usage.completion_tokens != tokens;
                outcome.whole = at == tokens;
            }
            Ok(_) => {}
            Err(error) => outcome.error = Some(error.to_string()),
        }
    }
    outcome.wrong |= at > tokens || (outcome.error.is_none() && !outcome.whole);
    outcome.end = began.elapsed();
    outcome
}

/// Memory of this process, servers and all, in MiB; 0 where it is not told.
pub fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0) / 1_024
}
