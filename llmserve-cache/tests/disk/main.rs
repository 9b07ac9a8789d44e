//! `DiskStore`: what is there again after a restart, and what never is.

mod damage;
mod faults;
mod rig;

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use llmserve_cache::{DiskBuildError, DiskStore, Scope, Store};

use crate::rig::{CAPACITY, bytes_in, check, entry, found, key, open};

pub(crate) const FOLDER: &str = "LLMSERVE_TEST_DISK_FOLDER";

#[test]
fn what_was_put_is_there_next_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let stamp = store.epochs().stamp([]);
    let long = Some(Duration::from_secs(60));
    for number in 0..20 {
        store.put(entry(number, stamp).ttl(long));
    }
    store.put(entry(100, stamp).ttl(Some(Duration::from_millis(1))));
    assert!(store.flush(Duration::from_secs(30)));
    store.remove(&key(3));
    drop(store);

    let store = open(folder.path());
    assert_eq!(store.epochs().stamp([]), stamp);
    for number in (0..20).filter(|number| *number != 3) {
        let entry = found(&store, number).unwrap();
        assert_eq!(entry.stamp, stamp);
        assert!(entry.ttl.unwrap() <= Duration::from_secs(60));
    }
    assert!(found(&store, 3).is_none(), "removed");
    assert!(found(&store, 100).is_none(), "over");
    assert!(found(&store, 200).is_none(), "never there");
    let stats = store.stats();
    assert_eq!(
        (stats.failures, stats.unusable, stats.expirations),
        (0, 0, 1)
    );
}

#[test]
fn the_last_of_what_is_put_and_removed_counts() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..10 {
        let store = open(folder.path());
        let stamp = store.epochs().stamp([]);
        assert_eq!(found(&store, 1).is_some(), round % 2 == 0 && round > 0);
        store.put(entry(1, stamp));
        store.remove(&key(1));
        if round % 2 == 1 {
            store.put(entry(1, stamp));
        }
    }
}

#[test]
fn it_stays_within_its_capacity_and_keeps_the_latest() {
    let folder = tempfile::tempdir().unwrap();
    let more = DiskStore::builder(folder.path()).capacity(2 * CAPACITY);
    let store = more.build().unwrap();
    let stamp = store.epochs().stamp([]);
    let last = 4 * CAPACITY / 4_096;
    for number in 0..last {
        store.put(entry(number, stamp));
        if number % 64 == 63 {
            assert!(store.flush(Duration::from_secs(30)));
        }
    }
    assert!(store.flush(Duration::from_secs(30)));
    assert!(bytes_in(folder.path()) <= 2 * CAPACITY + 4_096);
    assert_eq!(check(&store, last - 50..last), 50);
    assert!(check(&store, 0..last) < last / 2);
    // Less than it had: the rest is removed.
    drop(store);
    let store = open(folder.path());
    assert!(bytes_in(folder.path()) <= CAPACITY + 4_096);
    check(&store, 0..last);
}

#[test]
fn one_folder_is_one_stores() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let second = DiskStore::builder(folder.path()).build().err();
    let folder_of = folder.path().to_owned();
    assert_eq!(second, Some(DiskBuildError::InUse { folder: folder_of }));
    drop(store);
    open(folder.path());

    let file = folder.path().join("lock");
    let error = DiskStore::builder(file).build().err();
    assert!(matches!(error, Some(DiskBuildError::Folder { .. })));
    let error = DiskStore::builder(folder.path()).time_limit(Duration::ZERO);
    assert_eq!(error.build().err(), Some(DiskBuildError::TimeLimit));
    for writes in [0, usize::MAX] {
        let error = DiskStore::builder(folder.path()).queue(writes, 1).build();
        assert!(
            matches!(error.err(), Some(DiskBuildError::Queue { given, .. }) if given == writes)
        );
    }
}

#[test]
fn a_full_queue_drops_and_counts_and_never_waits() {
    let folder = tempfile::tempdir().unwrap();
    let store = DiskStore::builder(folder.path())
        .capacity(CAPACITY)
        .queue(1, 1 << 20)
        .build()
        .unwrap();
    let stamp = store.epochs().stamp([]);
    for number in 0..10_000 {
        store.put(entry(number, stamp));
    }
    assert!(store.stats().failures > 0);
    assert!(store.flush(Duration::from_secs(30)));
    check(&store, 0..10_000);
}

#[test]
fn what_was_invalidated_stays_old() {
    let folder = tempfile::tempdir().unwrap();
    let scope = Scope::tag("docs");
    let mut stamps = Vec::new();
    for round in 0..5 {
        let store = open(folder.path());
        let stamp = || store.epochs().stamp([&scope]);
        if let Some(last) = stamps.last() {
            assert_eq!(stamp(), *last, "kept");
        }
        match round % 2 {
            0 => store.epochs().invalidate(&scope),
            _ => store.epochs().invalidate(&Scope::All),
        }
        assert!(!stamps.contains(&stamp()), "an epoch came back");
        stamps.push(stamp());
    }
}

#[test]
fn blocks_that_are_all_in_use_at_the_start_do_not_keep_it_from_writing() {
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    // Each start begins a block; put back, none is free any more.
    let mut saved = Vec::new();
    for number in 0..32 {
        let store = open(folder.path());
        store.put(entry(number, store.epochs().stamp([])));
        assert!(store.flush(Duration::from_secs(30)));
        assert!(found(&store, number).is_some(), "{number}");
        drop(store);
        let blocks = std::fs::read_dir(folder.path()).unwrap();
        let mut blocks = blocks.map(|entry| entry.unwrap().path());
        let blocks = blocks.find(|path| path.is_dir()).unwrap();
        for file in std::fs::read_dir(blocks).unwrap() {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            if bytes.iter().any(|byte| *byte != 0) {
                saved.retain(|(saved, _)| *saved != path);
                saved.push((path, bytes));
            }
        }
        for (path, bytes) in &saved {
            std::fs::write(path, bytes).unwrap();
        }
    }
    assert_eq!(saved.len(), 16, "all of them were in use");
}

#[test]
fn killed_at_any_moment_it_opens_again_with_nothing_wrong_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut survived = 0;
    for round in 0..50 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writes_until_it_is_killed", "--ignored"])
            .arg("--nocapture")
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        // At another place each time, from the very start to well beyond the capacity.
        let lines = said.lines().map_while(Result::ok);
        let mut batches = lines.filter(|line| line == "batch");
        assert!(
            batches.nth(round * 7 % 50).is_some(),
            "it stopped by itself"
        );
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(folder.path());
        assert!(bytes_in(folder.path()) <= CAPACITY + 4_096, "round {round}");
        survived += check(&store, 0..1_000);
    }
    assert!(survived > 50, "{survived}");
}

#[test]
#[ignore = "started, and killed, by the test before"]
fn writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let store = open(folder.as_ref());
    for number in (0..1_000).cycle() {
        if number % 8 == 0 {
            println!("\nbatch");
            store.epochs().invalidate(&Scope::tag("docs"));
            assert!(store.flush(Duration::from_secs(30)));
        }
        store.put(entry(number, store.epochs().stamp([])));
    }
}
