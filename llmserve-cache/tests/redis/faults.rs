//! Servers that are gone, slow, full, or say no.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use llmserve_cache::{Lookup, Store};

use crate::rig::{Gate, Host, Server, eventually, key, look, quick};

/// Asks from several threads until told to stop.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    pub(crate) asked: Arc<AtomicUsize>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    pub(crate) fn on(host: &Arc<Host>, prompts: usize) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let asked = Arc::<AtomicUsize>::default();
        let threads = (0..4)
            .map(|thread| {
                let (host, stop, asked) = (host.clone(), stop.clone(), asked.clone());
                thread::spawn(move || {
                    let mut prompt = thread * 7;
                    while !stop.load(Ordering::SeqCst) {
                        // Fails with any error and with any wrong answer.
                        host.ask(&(prompt % prompts).to_string());
                        asked.fetch_add(1, Ordering::SeqCst);
                        prompt += 1;
                    }
                })
            })
            .collect();
        Self {
            stop,
            asked,
            threads,
        }
    }

    /// Waits until so many more are answered.
    #[track_caller]
    pub(crate) fn pass(&self, more: usize) {
        let until = self.asked.load(Ordering::SeqCst) + more;
        eventually("answered", || self.asked.load(Ordering::SeqCst) >= until);
    }

    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}

/// All prompts are hits, once what is under way is stored.
#[track_caller]
pub(crate) fn recovers(host: &Host, prompts: usize) {
    host.connected();
    eventually("all hits again", || {
        host.flushed();
        host.runs_of(0..prompts) == 0
    });
}

/// Whether nothing is known, and that at once.
fn is_unknown(lookup: Lookup) -> bool {
    match lookup {
        Lookup::Pending(mut lookup) => {
            let mut cx = Context::from_waker(Waker::noop());
            matches!(lookup.as_mut().poll(&mut cx), Poll::Ready(None))
        }
        _ => false,
    }
}

#[test]
fn a_server_that_dies_and_comes_back_costs_hits_and_no_answers() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let host = Arc::new(Host::at(server.url()));
    let load = Load::on(&host, 50);
    for _ in 0..2 {
        load.pass(300);
        server.kill();
        eventually("noticed", || !host.store.is_connected());
        load.pass(300);
        // Nobody waits for what is not there.
        assert!(is_unknown(host.store.get(&key("1"))));
        server.restart();
        host.connected();
    }
    load.pass(300);
    load.end();
    recovers(&host, 50);
    assert!(host.store.stats().failures > 0);
    assert!(host.store.last_error().is_some());
}

#[test]
fn a_server_that_was_never_there_is_found_when_it_comes() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    server.kill();
    let host = Host::of(quick(server.url()));
    assert_eq!(host.runs_of([1, 1]), 2);
    server.restart();
    recovers(&host, 3);
}

#[test]
fn a_slow_server_is_given_its_time_and_no_more() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let gate = Gate::before(&server);
    let host = Host::of(
        quick(gate.url())
            .time_limit(Duration::from_millis(20))
            .breaker(3, Duration::from_millis(500))
            // Kept believed, so that it is the limit that is seen.
            .epoch_refresh(Duration::from_secs(60)),
    );
    host.connected();
    // On a loaded machine the limit may pass for no fault of the server's.
    eventually("a hit", || {
        host.flushed();
        host.runs_of([1]) == 0
    });
    gate.set_shut(true);
    // Answered, while the server says nothing at all. After three nobody asks it any more.
    let before = host.store.stats().failures;
    for _ in 0..3 {
        host.ask("1");
    }
    assert!(host.store.stats().failures >= before + 3);
    assert!(is_unknown(host.store.get(&key("1"))));
    gate.set_shut(false);
    eventually("a hit again", || {
        host.flushed();
        host.runs_of([1]) == 0
    });
}

#[test]
fn a_lookup_does_nothing_until_it_is_polled() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let host = Host::at(server.url());
    let gets = || {
        server
            .ask::<String>(&["INFO", "commandstats"])
            .contains("cmdstat_get:")
    };
    for _ in 0..100 {
        assert!(matches!(host.store.get(&key("1")), Lookup::Pending(_)));
    }
    assert!(look(&host.store, "2").is_none());
    assert!(gets());
    let stats: String = server.ask(&["INFO", "commandstats"]);
    assert!(stats.contains("cmdstat_get:calls=1,"), "{stats}");
}

#[test]
fn a_full_queue_drops_and_counts_and_never_waits() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let gate = Gate::before(&server);
    let host = Host::of(quick(gate.url()).queue(8, 1 << 20));
    host.connected();
    gate.set_shut(true);
    // 256 may be on their way and 8 queued; this thread waits for none.
    let stamp = host.store.epochs().stamp([]);
    for prompt in 0..1_000 {
        host.store
            .put(crate::rig::entry(&prompt.to_string(), stamp));
    }
    assert!(host.store.stats().failures >= 1_000 - 2 * 256 - 8);
    gate.set_shut(false);
    host.flushed();
}

#[test]
fn the_wrong_password_is_a_miss_and_is_not_told() {
    let Some(server) = Server::start(&["--requirepass", "open-sesame"]) else {
        return;
    };
    let at = |password: &str| format!("redis://:{password}@127.0.0.1:{}", server.port);
    let host = Host::of(quick(at("wrong-secret")));
    eventually("refused", || host.store.last_error().is_some());
    assert_eq!(host.runs_of([1, 1]), 2);
    assert!(host.store.stats().failures > 0);
    let told = format!("{:?} {:?}", host.store, host.store.last_error());
    assert!(told.contains("authentication failed"), "{told}");
    assert!(!told.contains("secret"), "{told}");

    let host = Host::at(at("open-sesame"));
    host.ask("1");
    host.flushed();
    assert_eq!(host.runs_of([1]), 0);
    // With none at all.
    let host = Host::of(quick(server.url()));
    eventually("refused", || host.store.last_error().is_some());
    assert_eq!(host.runs_of([1]), 1);
}

#[test]
fn a_server_at_its_memory_limit_evicts_and_answers_stay_right() {
    let limit = 4 << 20;
    let options = ["--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru"];
    let Some(server) = Server::start(&options) else {
        return;
    };
    let host = Host::padded(quick(server.url()), 8_000);
    host.connected();
    assert_eq!(host.runs_of(0..1_000), 1_000);
    host.flushed();
    assert!(server.info("evicted_keys") > 0);
    assert!(server.info("used_memory") <= limit + (1 << 20));
    // What is left of the last ones are hits, and all are right.
    let lately = host.runs_of((900..1_000).rev());
    assert!(lately < 100, "{lately}");
}

#[test]
fn a_full_server_that_evicts_nothing_costs_writes_and_no_answers() {
    let options = ["--maxmemory", "4mb", "--maxmemory-policy", "noeviction"];
    let Some(server) = Server::start(&options) else {
        return;
    };
    let host = Host::padded(quick(server.url()), 8_000);
    host.connected();
    host.runs_of(0..1_000);
    host.flushed();
    assert!(host.store.stats().failures > 0);
    assert!(host.store.last_error().unwrap().contains("OOM"));
    assert_eq!(host.runs_of([0]), 0);
}
