//! What was made old stays old, whatever becomes of the epochs.

use llmserve_cache::{Scope, Stamp, Store};

use crate::rig::{Host, Server, eventually, look};

const EPOCHS: &str = "llmserve:epochs";

fn stamp(host: &Host) -> Stamp {
    let scopes = [Scope::tenant("acme"), Scope::tag("docs")];
    host.store.epochs().stamp(&scopes)
}

/// Two hosts that agree, with an answer stored.
fn two(server: &Server) -> (Host, Host) {
    let (a, b) = (Host::at(server.url()), Host::at(server.url()));
    assert_eq!(stamp(&a), stamp(&b));
    a.ask("1");
    a.flushed();
    assert_eq!(b.runs_of([1]), 0);
    (a, b)
}

#[track_caller]
fn agree(a: &Host, b: &Host) -> Stamp {
    eventually("agreed", || stamp(a) == stamp(b));
    stamp(a)
}

#[test]
fn what_one_host_invalidates_is_old_for_all() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (a, b) = two(&server);
    for scope in [Scope::tenant("acme"), Scope::tag("docs"), Scope::All] {
        let before = stamp(&b);
        a.cached.invalidate(&scope);
        assert_ne!(stamp(&a), before, "here at once");
        assert_ne!(agree(&a, &b), before);
    }
    assert_eq!(b.runs_of([1]), 1);
    // A host that comes later knows all of it.
    a.flushed();
    let c = Host::at(server.url());
    assert_eq!(stamp(&c), stamp(&a));
    // Both at once end alike.
    for _ in 0..20 {
        let before = stamp(&a);
        a.cached.invalidate(&Scope::tag("docs"));
        b.cached.invalidate(&Scope::tag("docs"));
        a.flushed();
        b.flushed();
        assert_ne!(agree(&a, &b), before);
    }
}

#[test]
fn an_invalidation_survives_an_outage() {
    let Some(mut server) = Server::start(&[]) else {
        return;
    };
    let (a, b) = two(&server);
    // On disk is what was true before.
    server.ask::<String>(&["SAVE"]);
    server.kill();
    let before = stamp(&a);
    a.cached.invalidate(&Scope::All);
    let after = stamp(&a);
    assert!(!a.store.flush(std::time::Duration::ZERO));
    server.restart();
    assert!(look_raw(&server));
    a.connected();
    a.flushed();
    assert_eq!(stamp(&a), after);
    assert_eq!(agree(&a, &b), after);
    assert_ne!(after, before);
    assert_eq!((a.runs_of([1]), b.runs()), (1, 0));
}

/// Whether the old answer is still there to be found.
fn look_raw(server: &Server) -> bool {
    server.ask::<i64>(&["EXISTS", &crate::rig::place("1")]) == 1
}

#[test]
fn lost_epochs_make_everything_old() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (a, b) = two(&server);
    a.cached.invalidate(&Scope::tenant("acme"));
    a.flushed();
    let before = agree(&a, &b);
    // As an eviction does: the answers are still there.
    server.ask::<i64>(&["DEL", EPOCHS]);
    eventually("drawn anew", || stamp(&a) != before && stamp(&b) != before);
    let after = agree(&a, &b);
    assert!(look(&b.store, "1").unwrap().stamp != b.store.epochs().stamp([]));
    assert_eq!(b.runs_of([1]), 1);
    // They go on from there.
    a.cached.invalidate(&Scope::tenant("acme"));
    assert_ne!(agree(&a, &b), after);
    b.flushed();
    a.flushed();
    let settled = stamp(&a);
    assert_eq!(stamp(&Host::at(server.url())), settled);
}

#[test]
fn epochs_that_go_back_make_everything_old() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (a, b) = two(&server);
    a.cached.invalidate(&Scope::tag("docs"));
    a.flushed();
    let first = agree(&a, &b);
    let saved: Vec<String> = server.ask(&["HGETALL", EPOCHS]);
    a.cached.invalidate(&Scope::tag("docs"));
    a.flushed();
    let second = agree(&a, &b);
    assert_ne!(first, second);
    // A replica that had not heard of the second takes over.
    let mut back = vec!["HSET", EPOCHS];
    back.extend(saved.iter().map(String::as_str));
    server.ask::<i64>(&back);
    eventually("noticed", || stamp(&a) != second && stamp(&b) != second);
    let third = agree(&a, &b);
    assert!(third != first && third != second);
    assert_eq!(b.runs_of([1]), 1);
}

#[test]
fn a_single_epoch_that_is_gone_makes_everything_old() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let (a, b) = two(&server);
    let never = stamp(&a);
    a.cached.invalidate(&Scope::tag("docs"));
    a.flushed();
    let before = agree(&a, &b);
    let fields: Vec<String> = server.ask(&["HKEYS", EPOCHS]);
    for field in fields
        .iter()
        .filter(|field| !["0", "rev"].contains(&field.as_str()))
    {
        server.ask::<i64>(&["HDEL", EPOCHS, field]);
    }
    server.ask::<i64>(&["HINCRBY", EPOCHS, "rev", "1"]);
    eventually("noticed", || stamp(&a) != before && stamp(&b) != before);
    assert_ne!(agree(&a, &b), never);
    assert_eq!(b.runs_of([1]), 1);
}

#[test]
fn a_hash_that_somebody_else_wrote_into_is_made_usable() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    server.ask::<i64>(&["HSET", EPOCHS, "rev", "x", "0", "y", "name", "z"]);
    let (a, b) = two(&server);
    server.ask::<i64>(&["HSET", EPOCHS, "rev", "none"]);
    let before = stamp(&a);
    a.cached.invalidate(&Scope::tag("docs"));
    eventually("sent", || {
        a.store.flush(std::time::Duration::from_millis(1))
    });
    assert_ne!(agree(&a, &b), before);
}

/// A replica takes over that has not heard of one invalidation, and before anybody looks again it
/// hears of another: by its revision, as much has happened as before, or more.
#[test]
fn an_invalidation_lost_in_a_failover_is_noticed_though_others_came_after_it() {
    for later in ["1", "1000000000000"] {
        let Some(server) = Server::start(&[]) else {
            return;
        };
        let (a, b) = two(&server);
        a.cached.invalidate(&Scope::tag("docs"));
        a.flushed();
        let first = agree(&a, &b);
        let saved: Vec<String> = server.ask(&["HGETALL", EPOCHS]);
        a.cached.invalidate(&Scope::tag("docs"));
        a.flushed();
        let second = agree(&a, &b);
        let mut failover = redis::pipe();
        failover.atomic().cmd("DEL").arg(EPOCHS);
        failover.cmd("HSET").arg(EPOCHS).arg(&saved);
        failover.cmd("HSET").arg(EPOCHS).arg(&["7", "77"]);
        failover.cmd("HINCRBY").arg(EPOCHS).arg("rev").arg(later);
        failover.query::<()>(&mut server.raw()).unwrap();
        eventually("noticed", || stamp(&a) != second && stamp(&b) != second);
        let third = agree(&a, &b);
        assert!(third != first, "an epoch came back");
        assert_eq!(b.runs_of([1]), 1);
        // Once: what is made after that stays.
        a.flushed();
        b.flushed();
        let settled = agree(&a, &b);
        for _ in 0..20 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            assert_eq!((stamp(&a), stamp(&b)), (settled, settled));
        }
    }
}

#[test]
fn no_two_invalidations_move_the_revision_by_as_much() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    let host = Host::at(server.url());
    let mut steps = Vec::new();
    let mut last: i64 = server.ask(&["HGET", EPOCHS, "rev"]);
    for _ in 0..5 {
        host.cached.invalidate(&Scope::All);
        host.flushed();
        let now: i64 = server.ask(&["HGET", EPOCHS, "rev"]);
        steps.push(now - last);
        last = now;
    }
    steps.sort_unstable();
    steps.dedup();
    assert!(steps.len() == 5 && steps[0] > 0, "{steps:?}");
}

#[test]
fn a_host_alone_mends_what_refuses_its_invalidations() {
    let Some(server) = Server::start(&[]) else {
        return;
    };
    // It looks only when it has something to say.
    let refresh = std::time::Duration::from_secs(600);
    let host = Host::of(crate::rig::quick(server.url()).epoch_refresh(refresh));
    host.connected();
    let largest = i64::MAX.to_string();
    let spoils: [&[&str]; 3] = [
        &["HSET", EPOCHS, "rev", "none"],
        &["HSET", EPOCHS, "rev", &largest],
        &["SET", EPOCHS, "something else"],
    ];
    for spoil in spoils {
        server.ask::<redis::Value>(spoil);
        let before = stamp(&host);
        host.cached.invalidate(&Scope::tag("docs"));
        host.flushed();
        assert_ne!(stamp(&host), before);
        assert_eq!(stamp(&Host::at(server.url())), stamp(&host), "{spoil:?}");
    }
}
