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
use llmserve_route::health::{BreakerConfig, Breakers};
use llmserve_route::reliability::{Hedge, RetryBudget, Timeouts};
use llmserve_route::remote::{Dialect, RemoteEndpoint};
use llmserve_route::{Replica, Router};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

use crate::server::Process;
use crate::service::{ERRORS, HUNG, QUICK, SLOW, WELL, token};

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

/// One place for a process.
struct Server {
    address: SocketAddr,
    /// None while it is killed.
    process: Option<Process>,
}

/// The whole stage.
pub struct Rig {
    servers: Vec<Server>,
    pub endpoints: Vec<RemoteEndpoint>,
    router: Router,
    pub clients: Runtime,
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

/// How long a server may say nothing, to the router.
pub fn timeouts() -> Timeouts {
    Timeouts::default()
        .first_token(SILENCE)
        .between_tokens(SILENCE)
        .avoid_after(SILENCE / 10)
}

impl Rig {
    pub fn new() -> Result<Self, Box<dyn Error>> {
        let clients = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let mut servers = Vec::new();
        let mut endpoints = Vec::new();
        for at in 0..4 {
            let process = Process::start(SocketAddr::from(([127, 0, 0, 1], 0)))?;
            let timeouts = llmserve_route::remote::Timeouts::default().connect(CONNECT);
            let url = format!("http://{}", process.address);
            let endpoint = RemoteEndpoint::builder(format!("server {at}"), url)
                .dialect(Dialect::Llmserve)
                .timeouts(timeouts)
                .runtime(clients.handle().clone())
                .build()?;
            endpoints.push(endpoint);
            servers.push(Server {
                address: process.address,
                process: Some(process),
            });
        }
        let breaker = BreakerConfig::default()
            .consecutive(3)
            .open_for(Duration::from_millis(500))
            .open_for_at_most(Duration::from_secs(2));
        let router = Router::builder()
            .replicas(endpoints.iter().map(|endpoint| {
                Replica::new(endpoint.name(), endpoint.clone()).identity("these weights")
            }))
            .availability(Breakers::new(breaker)?)
            .timeouts(timeouts())
            .max_attempts(8)
            .hedge(Hedge::After(SILENCE / 5))
            // Three of four servers fail at once: more retries than a fleet at peace needs.
            .retry_budget(RetryBudget::default().ratio(3.0))
            .build()?;
        Ok(Self {
            servers,
            endpoints,
            router,
            clients,
            seeds: AtomicU32::new(1),
        })
    }

    /// Whoever is killed stays killed.
    pub fn fault(&mut self, server: usize, fault: Fault) -> Result<(), Box<dyn Error>> {
        let process = &mut self.servers[server].process;
        let switch = match fault {
            Fault::Killed => {
                *process = None;
                return Ok(());
            }
            Fault::Hung => HUNG,
            Fault::Errors => ERRORS,
            Fault::Slow => SLOW,
        };
        if let Some(process) = process {
            process.tell(switch)?;
        }
        Ok(())
    }

    pub fn heal(&mut self, server: usize) -> Result<(), Box<dyn Error>> {
        let server = &mut self.servers[server];
        if let Some(process) = &mut server.process {
            return Ok(process.tell(WELL)?);
        }
        // A connection of somebody else's may have its port for a moment.
        for _ in 0..200 {
            if let Ok(process) = Process::start(server.address) {
                server.process = Some(process);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(format!("{} is still taken", server.address).into())
    }

    /// Every server answers as quickly as it can.
    pub fn hurry(&mut self) -> std::io::Result<()> {
        let mut processes = self.servers.iter_mut().filter_map(|s| s.process.as_mut());
        processes.try_for_each(|process| process.tell(QUICK))
    }

    pub fn dispatched(&self, server: usize) -> u64 {
        self.router.stats().replicas[server].dispatched
    }

    pub fn all_dispatched(&self) -> u64 {
        let stats = self.router.stats();
        stats.replicas.iter().map(|r| r.dispatched).sum()
    }

    /// `rate` requests a second for so long, to the router.
    pub fn start(&self, rate: u32, time: Duration) -> Traffic {
        self.start_at(Arc::new(self.router.clone()), rate, time)
    }

    /// The same to any service.
    pub fn start_at(&self, service: Arc<dyn Generate>, rate: u32, time: Duration) -> Traffic {
        let requests = (f64::from(rate) * time.as_secs_f64()) as u32;
        let first = self.seeds.fetch_add(requests, Ordering::Relaxed);
        let pause = time / requests.max(1);
        let sender = self.clients.spawn(async move {
            let began = tokio::time::Instant::now();
            let mut sent = Vec::new();
            for number in 0..requests {
                tokio::time::sleep_until(began + pause * number).await;
                let service = service.clone();
                let asks = async move { ask(&*service, first + number, 2).await };
                sent.push(tokio::spawn(asks));
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
    pub fn is_idle(&mut self) -> Result<(), Box<dyn Error>> {
        let mut counts = Vec::new();
        for _ in 0..500 {
            let stats = self.router.stats();
            counts = stats.replicas.iter().map(|r| r.outstanding).collect();
            for server in &mut self.servers {
                if let Some(process) = &mut server.process {
                    counts.push(process.live()?);
                }
            }
            if counts.iter().all(|count| *count == 0) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("outstanding at the router, live at the servers: {counts:?}").into())
    }
}

/// Asks for the answer to a prompt of so many tokens, and reads it.
pub async fn ask(service: &dyn Generate, prompt: u32, length: usize) -> Outcome {
    let tokens = 4 + prompt as usize % 13;
    let mut ids = vec![7; length];
    ids[0] = prompt;
    let request = Request::tokens(ids)
        .max_tokens(tokens)
        .seed(u64::from(prompt));
    let began = Instant::now();
    let mut stream = service.generate(request);
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

/// Memory of this process, without the servers', in KiB; 0 where it is not told.
pub fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
    kib.unwrap_or(0)
}
