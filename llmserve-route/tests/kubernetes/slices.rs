//! Endpoint slices.

use std::sync::mpsc::{Receiver, Sender, channel};

use llmserve_core::{Error, EventStream, Generate, Request};
use llmserve_route::remote::discovery::{Change, EndpointSlices, Watch, members};
use llmserve_route::{KubernetesError, Replica, Router};
use serde_json::{Value, json};

use super::server::{Reply, Server, TOKEN, next, refusal};

/// An endpoint: its address, and which conditions hold (`r`eady, `s`erving, `t`erminating).
type Endpoint<'a> = (&'a str, &'a str);

fn slice(name: &str, version: u32, endpoints: &[Endpoint<'_>]) -> Value {
    let endpoints = endpoints.iter().map(|(address, conditions)| {
        let holds = |condition: char| conditions.contains(condition);
        json!({ "addresses": [address], "conditions": {
            "ready": holds('r'), "serving": holds('s'), "terminating": holds('t') } })
    });
    let ipv6 = name.ends_with("-v6");
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "metadata": { "name": name, "namespace": "default", "resourceVersion": version.to_string(),
            "labels": { "kubernetes.io/service-name": "model" } },
        "endpoints": endpoints.collect::<Vec<_>>(),
        "ports": [{ "name": "metrics", "port": 9 }, { "name": "http", "port": 8000 }],
    })
}

fn list(version: u32, slices: &[Value]) -> Value {
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSliceList",
        "metadata": { "resourceVersion": version.to_string() }, "items": slices })
}

fn event(kind: &str, object: Value) -> Value {
    json!({ "type": kind, "object": object })
}

/// A watch, what it tells, and what goes wrong.
struct Watched {
    watch: Watch,
    changes: Receiver<Vec<Change>>,
    errors: Receiver<KubernetesError>,
}

fn watch(server: &Server, with: impl FnOnce(EndpointSlices) -> EndpointSlices) -> Watched {
    let _inside = server.runtime.enter();
    let (change, changes) = channel();
    let (err, errors): (Sender<KubernetesError>, _) = channel();
    let slices = EndpointSlices::new(server.client(), "default", "model").port("http");
    let watch = with(slices)
        .on_error(move |error| drop(err.send(error)))
        .watch(move |changes| drop(change.send(changes)))
        .expect("a runtime is here");
    Watched {
        watch,
        changes,
        errors,
    }
}

impl Watched {
    /// What it tells next: a sign and an address for each.
    #[track_caller]
    fn next(&self) -> Vec<String> {
        let changes = next(&self.changes).into_iter();
        let words = changes.map(|change| {
            let (sign, found) = match change {
                Change::Added(found) => ('+', found),
                Change::Draining(found) => ('~', found),
                Change::Resumed(found) => ('^', found),
                Change::Removed(found) => ('-', found),
            };
            assert_eq!(found.base_url, "http://model.default.svc/v1");
            assert_eq!(
                found.address.map(|address| address.to_string()).as_ref(),
                Some(&found.name)
            );
            format!("{sign}{}", found.name.trim_end_matches(":8000"))
        });
        words.collect()
    }
}

#[test]
fn endpoints_come_rest_and_go_with_their_slices() {
    let server = Server::new();
    // Of four one is ready; two were never, and one answers nobody any more.
    let endpoints = [
        ("10.0.0.1", "rs"),
        ("10.0.0.2", ""),
        ("10.0.0.3", "st"),
        ("10.0.0.4", "t"),
    ];
    server.will_answer(list(10, &[slice("a", 1, &endpoints)]));
    let tell = server.will_watch();
    let watched = watch(&server, |slices| slices);
    assert_eq!(watched.next(), ["+10.0.0.1"]);
    let line = server.asked().line;
    let path = "GET /apis/discovery.k8s.io/v1/namespaces/default/endpointslices?";
    assert!(line.starts_with(path), "{line}");
    assert!(
        line.contains("labelSelector=kubernetes.io%2Fservice-name%3Dmodel"),
        "{line}"
    );
    let line = server.asked().line;
    assert!(
        line.contains("watch=true") && line.contains("resourceVersion=10"),
        "{line}"
    );
    let modified = |version, endpoints: &[_]| {
        let modified = event("MODIFIED", slice("a", version, endpoints));
        tell.send(modified).expect("it watches");
    };
    modified(11, &[("10.0.0.1", "rs"), ("10.0.0.2", "rs")]);
    assert_eq!(watched.next(), ["+10.0.0.2"]);
    // No longer ready, and ready again.
    modified(12, &[("10.0.0.1", ""), ("10.0.0.2", "rs")]);
    assert_eq!(watched.next(), ["~10.0.0.1"]);
    modified(13, &[("10.0.0.1", "rs"), ("10.0.0.2", "rs")]);
    assert_eq!(watched.next(), ["^10.0.0.1"]);
    // It ends, with what it has begun, and then without.
    modified(14, &[("10.0.0.1", "st"), ("10.0.0.2", "rs")]);
    assert_eq!(watched.next(), ["~10.0.0.1"]);
    modified(15, &[("10.0.0.1", "t"), ("10.0.0.2", "rs")]);
    assert_eq!(watched.next(), ["-10.0.0.1"]);
    // One moves to a slice of its own and is one all the while, in the better state of the two.
    tell.send(event("ADDED", slice("b", 16, &[("10.0.0.2", "rs")])))
        .expect("it watches");
    modified(17, &[("10.0.0.2", "")]);
    modified(18, &[("10.0.0.5", "rs"), ("10.0.0.5", "")]);
    assert_eq!(watched.next(), ["+10.0.0.5"]);
    tell.send(event("DELETED", slice("b", 19, &[])))
        .expect("it watches");
    assert_eq!(watched.next(), ["-10.0.0.2"]);
    // An address that is none, and a slice without the port.
    modified(
        20,
        &[
            ("model.example", "rs"),
            ("10.0.0.5", "rs"),
            ("10.0.0.6", "rs"),
        ],
    );
    assert_eq!(watched.next(), ["+10.0.0.6"]);
    let mut other = slice("a", 21, &[("10.0.0.5", "rs")]);
    other["ports"] = json!([{ "name": "metrics", "port": 9 }]);
    tell.send(event("MODIFIED", other)).expect("it watches");
    assert_eq!(watched.next(), ["-10.0.0.5", "-10.0.0.6"]);
    // Dropped, it tells nobody any more.
    assert!(watched.errors.try_recv().is_err());
    drop(watched.watch);
    assert!(watched.changes.recv().is_err());
}

#[test]
fn conditions_nobody_tells_are_those_of_a_ready_endpoint() {
    let server = Server::new();
    let mut silent = slice("a", 1, &[("10.0.0.1", ""), ("10.0.0.2", "")]);
    silent["endpoints"][0]["conditions"] = json!({});
    silent["endpoints"][1]
        .as_object_mut()
        .expect("one")
        .remove("conditions");
    server.will_answer(list(1, &[silent]));
    let _tell = server.will_watch();
    let watched = watch(&server, |slices| slices);
    assert_eq!(watched.next(), ["+10.0.0.1", "+10.0.0.2"]);
}

#[test]
fn a_pod_with_two_addresses_is_one_endpoint() {
    for ipv6 in [false, true] {
        let server = Server::new();
        let slices = [
            slice("a", 1, &[("10.0.0.1", "rs"), ("10.0.0.2", "rs")]),
            slice("a-v6", 1, &[("fd00::1", "rs"), ("fd00::2", "rs")]),
        ];
        server.will_answer(list(1, &slices));
        let tell = server.will_watch();
        let watched = watch(
            &server,
            |slices| if ipv6 { slices.prefer_ipv6() } else { slices },
        );
        let (four, six) = (["+10.0.0.1", "+10.0.0.2"], ["+[fd00::1]", "+[fd00::2]"]);
        assert_eq!(watched.next(), if ipv6 { six } else { four });
        // Where there is one kind only it is taken, whichever was preferred.
        let gone = if ipv6 { "a-v6" } else { "a" };
        tell.send(event("DELETED", slice(gone, 2, &[])))
            .expect("it watches");
        let told = watched.next();
        assert_eq!(&told[2..], if ipv6 { four } else { six });
    }
}

#[test]
fn a_watch_that_breaks_goes_on_where_it_was_and_one_too_old_begins_anew() {
    let server = Server::new();
    server.will_answer(list(
        10,
        &[slice("a", 1, &[("10.0.0.1", "rs"), ("10.0.0.2", "rs")])],
    ));
    let tell = server.will_watch();
    let watched = watch(&server, |slices| slices);
    assert_eq!(watched.next(), ["+10.0.0.1", "+10.0.0.2"]);
    let bookmark = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "resourceVersion": "17", "annotations": {} } });
    tell.send(event("BOOKMARK", bookmark)).expect("it watches");
    // The connection ends; the bookmark was the last that was seen.
    let again = server.will_watch();
    drop(tell);
    let (_list, _watch) = (server.asked(), server.asked());
    let line = server.asked().line;
    assert!(
        line.contains("watch=true") && line.contains("resourceVersion=17"),
        "{line}"
    );
    // Too long ago: all is listed anew, and only what is different is told.
    server.will_answer(list(
        30,
        &[slice("a", 25, &[("10.0.0.2", "rs"), ("10.0.0.3", "rs")])],
    ));
    again
        .send(event("ERROR", refusal(410, "Expired")))
        .expect("it watches");
    // The next watch is refused for the same reason, at once; and the list comes a third time.
    server.will_refuse(410, "Expired");
    assert_eq!(watched.next(), ["-10.0.0.1", "+10.0.0.3"]);
    server.will_answer(list(40, &[slice("a", 35, &[("10.0.0.3", "rs")])]));
    let last = server.will_watch();
    assert_eq!(watched.next(), ["-10.0.0.2"]);
    let lines = [
        server.asked(),
        server.asked(),
        server.asked(),
        server.asked(),
    ];
    assert!(lines[3].line.contains("resourceVersion=40"), "{lines:?}");
    last.send(event("DELETED", slice("a", 41, &[])))
        .expect("it watches");
    assert_eq!(watched.next(), ["-10.0.0.3"]);
    // None of it was worth telling.
    assert!(watched.errors.try_recv().is_err());
}

#[test]
fn refusals_are_told_by_name_and_take_nobody_away() {
    let server = Server::new();
    let told = |error: &KubernetesError| {
        let told = format!("{error} {error:?}");
        assert!(!told.contains(TOKEN), "{told}");
    };
    server.will_refuse(401, "Unauthorized");
    let watched = watch(&server, |slices| slices);
    let error = next(&watched.errors);
    told(&error);
    assert_eq!(
        error,
        KubernetesError::Unauthorized {
            what: "list endpointslices"
        }
    );
    // The token is good now, for lists.
    server.will_answer(list(10, &[slice("a", 1, &[("10.0.0.1", "rs")])]));
    server.will_refuse(403, "Forbidden");
    assert_eq!(watched.next(), ["+10.0.0.1"]);
    let error = next(&watched.errors);
    told(&error);
    assert_eq!(
        error,
        KubernetesError::Forbidden {
            what: "watch endpointslices"
        }
    );
    // A server that is gone says nothing about its pods.
    server.will(Reply::Nothing);
    let error = next(&watched.errors);
    told(&error);
    assert!(
        matches!(error, KubernetesError::Unreachable { .. }),
        "{error:?}"
    );
    assert!(watched.changes.try_recv().is_err());
}

#[test]
fn without_a_runtime_it_is_an_error() {
    let server = Server::new();
    let slices = {
        let _inside = server.runtime.enter();
        EndpointSlices::new(server.client(), "default", "model")
    };
    assert!(matches!(
        slices.watch(drop),
        Err(KubernetesError::NoRuntime { .. })
    ));
    assert!(server.was_asked_nothing());
}

struct Closed;
impl Generate for Closed {
    fn generate(&self, _request: Request) -> EventStream {
        EventStream::failed(Error::ShutDown)
    }
}

#[test]
fn a_routers_replicas_follow() {
    let server = Server::new();
    server.will_answer(list(
        10,
        &[slice("a", 1, &[("10.0.0.1", "rs"), ("10.0.0.2", "rs")])],
    ));
    let tell = server.will_watch();
    let router = Router::builder()
        .allow_empty(true)
        .replica(Replica::new("mine", Closed))
        .build()
        .expect("a router");
    let mut follow = members(router.clone(), |found| {
        (found.name != "10.0.0.9:8000").then(|| Replica::new("?", Closed))
    });
    let (sender, done) = channel();
    let _inside = server.runtime.enter();
    let watch = EndpointSlices::new(server.client(), "default", "model").port("http");
    let watch = watch.watch(move |changes| {
        follow(changes);
        let _ = sender.send(());
    });
    let state = || {
        next(&done);
        let replicas = router.stats().replicas.into_iter();
        let all: Vec<_> = replicas
            .map(|replica| (replica.name.replace(":8000", ""), replica.draining))
            .collect();
        all
    };
    let of = |name: &str, draining| (name.to_owned(), draining);
    let mine = of("mine", false);
    assert_eq!(
        state(),
        [mine.clone(), of("10.0.0.1", false), of("10.0.0.2", false)]
    );
    let modified = |version, endpoints: &[_]| {
        let modified = event("MODIFIED", slice("a", version, endpoints));
        tell.send(modified).expect("it watches");
    };
    modified(11, &[("10.0.0.1", "st"), ("10.0.0.2", "rs")]);
    assert_eq!(
        state(),
        [mine.clone(), of("10.0.0.1", true), of("10.0.0.2", false)]
    );
    modified(12, &[("10.0.0.1", "rs"), ("10.0.0.2", "")]);
    assert_eq!(
        state(),
        [mine.clone(), of("10.0.0.1", false), of("10.0.0.2", true)]
    );
    modified(13, &[("10.0.0.2", "rs"), ("10.0.0.9", "rs")]);
    assert_eq!(state(), [mine, of("10.0.0.2", false)]);
    drop(watch);
}
