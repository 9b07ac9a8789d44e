//! What hosts have of one server.

use std::process::{Command, Stdio};
use std::time::Duration;

use llmserve_cache::{CacheLayer, RedisBuildError, RedisStore, Stamp, Store};
use llmserve_core::{Generate, Request};

use crate::rig::{Host, Server, entry, eventually, key, look, place, quick};

const URL: &str = "LLMSERVE_TEST_REDIS_URL";
const PROMPTS: usize = 20;

#[test]
fn two_processes_share_their_answers() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    for runs in [PROMPTS, 0] {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sharing::a_process_of_its_own", "--ignored"])
            .arg("--nocapture")
            .env(URL, server.url())
            .stdout(Stdio::piped())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success(), "{said}");
        assert!(said.contains(&format!("runs: {runs}.")), "{said}");
    }
}

#[test]
#[ignore = "started by the test before"]
fn a_process_of_its_own() {
    let Ok(url) = std::env::var(URL) else { return };
    let host = Host::at(url);
    let runs = host.runs_of(0..PROMPTS);
    host.flushed();
    println!("runs: {runs}.");
}

#[test]
fn an_entry_comes_back_as_it_was_put_and_goes_when_it_is_removed() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let host = Host::at(server.url());
    let stamp = host.store.epochs().stamp([]);
    let put = entry("a", stamp).ttl(Some(Duration::from_secs(60)));
    host.store.put(put.clone());
    host.flushed();
    let found = look(&host.store, "a").unwrap();
    assert_eq!((&found.answer, found.stamp), (&put.answer, put.stamp));
    assert!(found.ttl.unwrap() <= Duration::from_secs(60));
    assert!(look(&host.store, "b").is_none());

    // The last of what is queued for one key is what counts.
    for round in 0..50 {
        host.store.put(put.clone());
        host.store.remove(&key("a"));
        if round % 2 == 1 {
            host.store.put(put.clone());
        }
        host.flushed();
        assert_eq!(look(&host.store, "a").is_some(), round % 2 == 1);
    }
    assert_eq!(host.store.stats().failures, 0);
}

#[test]
fn the_server_keeps_the_time_to_live() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let host = Host::at(server.url());
    let put = |prompt, ttl| {
        host.store.put(entry(prompt, Stamp::default()).ttl(ttl));
        host.flushed();
        server.ask::<i64>(&["PTTL", &place(prompt)])
    };
    let left = put("minute", Some(Duration::from_secs(60)));
    assert!((1..=60_000).contains(&left), "{left}");
    assert_eq!(put("for ever", None), -1);
    assert!(put("ages", Some(Duration::MAX)) > 0);
    put("moment", Some(Duration::from_millis(30)));
    eventually("over", || {
        server.ask::<i64>(&["EXISTS", &place("moment")]) == 0
    });
    assert!(look(&host.store, "moment").is_none());
    assert!(look(&host.store, "ages").is_some());
    assert_eq!(host.store.stats().failures, 0);
}

#[test]
fn what_is_no_entry_of_this_version_is_skipped_and_counted() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let host = Host::at(server.url());
    host.ask("a");
    host.flushed();
    let place = place("a");
    let good: Vec<u8> = server.ask(&["GET", &place]);
    let mut newer = good.clone();
    newer[4] += 1;
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let others = [
        newer,
        flipped,
        good[..good.len() / 2].to_vec(),
        b"garbage".to_vec(),
        Vec::new(),
        entry("b", Stamp::default()).to_bytes(),
    ];
    for (unusable, bytes) in others.iter().enumerate() {
        let mut raw = server.raw();
        let set = redis::cmd("SET").arg(&place).arg(bytes).exec(&mut raw);
        set.unwrap();
        assert_eq!(host.store.stats().unusable, unusable as u64);
        let before = host.runs();
        host.ask("a");
        assert_eq!(host.runs(), before + 1, "value {unusable}");
        // And is replaced.
        host.flushed();
        host.ask("a");
        assert_eq!(host.runs(), before + 1);
    }
    // A value of another kind altogether.
    server.ask::<i64>(&["DEL", &place]);
    server.ask::<i64>(&["LPUSH", &place, "a", "b"]);
    assert!(look(&host.store, "a").is_none());
    let stats = host.store.stats();
    assert_eq!(
        (stats.unusable, stats.failures),
        (others.len() as u64 + 1, 0)
    );
}

#[test]
fn prefixes_keep_caches_apart() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let host = Host::at(server.url());
    let other = Host::of(quick(server.url()).prefix("other:"));
    other.connected();
    host.ask("a");
    host.flushed();
    assert_eq!(other.runs_of([]), 0);
    other.ask("a");
    assert_eq!((host.runs(), other.runs()), (1, 1));
}

#[test]
fn it_works_on_the_hosts_runtime_and_survives_its_end() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let host = Host::of(quick(server.url()).runtime(runtime.handle().clone()));
    let serving = std::thread::spawn(move || {
        let _ = runtime.block_on(stopped);
    });
    host.connected();
    host.ask("a");
    host.flushed();
    host.ask("a");
    assert_eq!(host.runs(), 1);
    stop.send(()).unwrap();
    serving.join().unwrap();
    // Misses, and nothing worse.
    host.ask("a");
    host.ask("b");
    assert_eq!(host.runs(), 3);
    assert!(host.store.stats().failures > 0);
}

#[test]
fn what_no_store_could_work_with_is_refused_by_name() {
    #[track_caller]
    fn error(builder: llmserve_cache::RedisStoreBuilder) -> RedisBuildError {
        builder.build().expect_err("no such store")
    }
    for url in ["", "http://host", "redis://", "redis://:se/cret@host", "x"] {
        let built = RedisStore::builder(url).build();
        let error = built.err().unwrap_or_else(|| panic!("{url:?} was taken"));
        assert_eq!(error, RedisBuildError::Url { position: 0 }, "{url}");
        assert!(!error.to_string().contains("cret"));
    }
    let good = || RedisStore::builder("redis://:secret@localhost");
    let second = error(good().node("redis//second"));
    assert_eq!(second, RedisBuildError::Url { position: 1 });
    let different = error(good().node("redis://:hidden@second"));
    assert!(matches!(different, RedisBuildError::Nodes(_)));
    assert!(!different.to_string().contains("hidden"));
    let certificate = RedisStore::builder("rediss://localhost").root_certificate("none");
    let certificate = error(certificate);
    assert!(matches!(certificate, RedisBuildError::Certificate(_)));
    for (setting, builder) in [
        ("time_limit", good().time_limit(Duration::ZERO)),
        ("connect_timeout", good().connect_timeout(Duration::ZERO)),
        ("epoch_refresh", good().epoch_refresh(Duration::ZERO)),
        ("connections", good().connections(0)),
        ("queue", good().queue(0, 1)),
        ("breaker", good().breaker(0, Duration::ZERO)),
    ] {
        let error = error(builder);
        assert!(
            matches!(error, RedisBuildError::Setting { setting: named, .. } if named == setting),
            "{error}"
        );
    }
    assert!(!format!("{:?}", good()).contains("secret"));
}

#[test]
fn no_answer_is_sent_that_is_larger_than_allowed() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let host = Host::of(quick(server.url()).max_entry_size(100));
    host.connected();
    let most = host.store.max_entry_size();
    assert!(entry(&"long".repeat(100), Stamp::default()).size() > most);
    host.ask(&"long".repeat(100));
    host.flushed();
    let cached = CacheLayer::builder(host.echo.clone())
        .store(host.store.clone())
        .build()
        .unwrap();
    cached
        .generate(Request::text("long".repeat(100)))
        .wait()
        .unwrap();
    assert_eq!(host.runs(), 2);
    assert_eq!(host.store.stats().failures, 0);
}

#[test]
fn the_longest_times_are_times() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let most = Duration::MAX;
    let host = Host::of(
        RedisStore::builder(server.url())
            .time_limit(most)
            .connect_timeout(most)
            .epoch_refresh(most)
            .breaker(1, most),
    );
    host.connected();
    host.ask("1");
    host.flushed();
    assert_eq!(host.runs_of([1]), 0);
    assert_eq!(host.store.stats().failures, 0);
}
