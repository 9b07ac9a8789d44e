//! Disks that fill up, and folders that somebody takes away, while a store has them open.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use llmserve_cache::{CacheLayer, DiskStore, Scope, Stamp, Store};
use llmserve_core::{
    Event, EventStream, FinishReason, Finished, Generate, Request, Started, TextEvent, Timings,
    Usage,
};

use crate::FOLDER;
use crate::rig::{check, entry, open};

const PATIENCE: Duration = Duration::from_secs(30);

/// Runs a test of this program in a shell, after `before` there. False, said aloud: `before` is
/// not possible here.
fn run_after(before: &str, test: &str, folder: &Path) -> bool {
    let ran = Command::new("sh")
        .args([
            "-c",
            &format!("{{ {before}; }} || exit 77; exec \"$0\" \"$@\""),
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .env(FOLDER, folder)
        .output()
        .unwrap();
    if ran.status.code() == Some(77) {
        // Past the test harness, which hides what passing tests print.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {test} needs `{before}`, which is not possible here: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
        return false;
    }
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(
        ran.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&ran.stderr)
    );
    true
}

fn folder() -> Option<std::path::PathBuf> {
    std::env::var_os(FOLDER).map(Into::into)
}

/// Takes all the room there is but for so many bytes.
fn fill(ballast: &Path, but: usize) {
    let mut file = File::create(ballast).unwrap();
    let mut taken = 0;
    while file.write_all(&[1; 4_096]).is_ok() {
        taken += 4_096;
    }
    file.set_len(taken - but as u64).unwrap();
}

#[test]
fn a_full_disk_is_misses_until_there_is_room() {
    let point = tempfile::tempdir().unwrap();
    // A mount that nobody else sees, and that goes with the process.
    let mount = "unshare --mount true && exec unshare --mount sh -c 'mount -t tmpfs -o size=8m tmpfs \
                 \"$LLMSERVE_TEST_DISK_FOLDER\" || exit 77; exec \"$0\" \"$@\"' \"$0\" \"$@\"";
    run_after(mount, "faults::on_a_disk_of_8_mib", point.path());
}

#[test]
#[ignore = "started by the test before, on a disk of its own"]
fn on_a_disk_of_8_mib() {
    let Some(point) = folder() else { return };
    let (ballast, folder) = (point.join("ballast"), point.join("answers"));
    fill(&ballast, 400_000);
    let store = open(&folder);
    let stamp = store.epochs().stamp([]);
    put_all(&store, 0..300, stamp);
    let failures = store.stats().failures;
    assert!(failures > 0, "more was put than there is room for");
    // For a second all is a miss; then what was written is there.
    eventually("opened anew", || check(&store, 0..300) > 0);
    assert_eq!(store.stats().unusable, 0);
    drop(store);

    // Not a byte left: it opens, answers, makes old, and opens again.
    fill(&ballast, 0);
    let store = open(&folder);
    check(&store, 0..300);
    let (docs, all) = (Scope::tag("docs"), Scope::All);
    let before = [&docs, &all].map(|scope| store.epochs().stamp([scope]));
    store.epochs().invalidate(&docs);
    let cached = CacheLayer::builder(Says("fine")).store(store);
    let cached = cached.build().unwrap();
    for _ in 0..3 {
        let answer = cached.generate(Request::text("?")).wait().unwrap();
        assert_eq!(answer.text(), "fine");
    }
    drop(cached);
    fill(&ballast, 0);
    let store = open(&folder);
    let after = [&docs, &all].map(|scope| store.epochs().stamp([scope]));
    assert_ne!(after[0], before[0], "an epoch came back");

    // Room again.
    fs::remove_file(&ballast).unwrap();
    let stamp = store.epochs().stamp([]);
    eventually("written again", || {
        put_all(&store, 400..401, stamp);
        check(&store, 400..401) == 1
    });
    let failures = store.stats().failures;
    put_all(&store, 500..550, stamp);
    assert_eq!(check(&store, 500..550), 50);
    assert_eq!(store.stats().failures, failures, "it has recovered");
    let epochs = store.epochs().stamp([&docs]);
    drop(store);
    let store = open(&folder);
    assert_eq!(
        store.epochs().stamp([&docs]),
        epochs,
        "and knows its epochs"
    );
    assert_eq!(check(&store, 500..550), 50);
}

#[test]
fn a_folder_made_read_only_forgets_nothing_that_was_invalidated() {
    let folder = tempfile::tempdir().unwrap();
    // Root may write everywhere, unless it may not.
    let bound = "if test \"$(id -u)\" = 0; then b=-dac_override,-dac_read_search; \
                 setpriv --bounding-set=$b true && exec setpriv --bounding-set=$b \"$0\" \"$@\"; fi";
    run_after(bound, "faults::in_a_folder_made_read_only", folder.path());
}

#[test]
#[ignore = "started by the test before, without root's rights"]
fn in_a_folder_made_read_only() {
    let Some(folder) = folder() else { return };
    let scope = Scope::tag("docs");
    let store = open(&folder);
    store.epochs().invalidate(&Scope::tag("others"));
    let before = store.epochs().stamp([&scope]);
    put_all(&store, 0..20, before);
    let writable = fs::metadata(&folder).unwrap().permissions();
    let mut only = writable.clone();
    only.set_readonly(true);
    fs::set_permissions(&folder, only).unwrap();
    assert!(
        File::create(folder.join("tried")).is_err(),
        "it is not read-only"
    );

    store.epochs().invalidate(&scope);
    assert_ne!(store.epochs().stamp([&scope]), before);
    put_all(&store, 20..40, before);
    check(&store, 0..40);
    drop(store);
    fs::set_permissions(&folder, writable).unwrap();
    let store = open(&folder);
    assert_ne!(store.epochs().stamp([&scope]), before, "an epoch came back");
}

#[test]
fn a_folder_taken_away_is_misses() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("answers");
    let store = open(&folder);
    let stamp = store.epochs().stamp([]);
    put_all(&store, 0..20, stamp);
    fs::remove_dir_all(&folder).unwrap();
    check(&store, 0..20);
    put_all(&store, 20..40, stamp);
    check(&store, 0..40);
    store.epochs().invalidate(&Scope::All);
    assert_ne!(store.epochs().stamp([]), stamp);
    // Another in its place is no business of the first.
    let next = open(&folder);
    put_all(&next, 100..120, next.epochs().stamp([]));
    store.epochs().invalidate(&Scope::All);
    drop(store);
    assert_eq!(check(&next, 100..120), 20);
    assert_eq!(check(&next, 0..40), 0);
    let (before, docs) = (next.epochs().stamp([]), Scope::tag("docs"));
    next.epochs().invalidate(&docs);
    drop(next);
    assert_eq!(open(&folder).epochs().stamp([]), before);
}

#[test]
fn a_large_store_does_not_take_all_the_files_a_process_may_open() {
    let folder = tempfile::tempdir().unwrap();
    run_after("ulimit -n 400", "faults::with_few_files", folder.path());
}

#[test]
#[ignore = "started by the test before, with few files"]
fn with_few_files() {
    let Some(folder) = folder() else { return };
    // The files are as large as what is in them.
    let store = DiskStore::builder(&folder)
        .capacity(64 << 30)
        .time_limit(PATIENCE)
        .build()
        .unwrap();
    put_all(&store, 0..50, store.epochs().stamp([]));
    assert_eq!(check(&store, 0..50), 50);
    assert_eq!(store.stats().failures, 0);
}

#[track_caller]
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "never {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn put_all(store: &DiskStore, numbers: std::ops::Range<usize>, stamp: Stamp) {
    for number in numbers {
        store.put(entry(number, stamp));
    }
    assert!(store.flush(PATIENCE));
}

/// Answers everything with one text.
struct Says(&'static str);

impl Generate for Says {
    fn generate(&self, _: Request) -> EventStream {
        let text = TextEvent {
            index: 0,
            text: self.0.to_owned(),
        };
        EventStream::ready([
            Ok(Event::Started(Started::default())),
            Ok(Event::Text(text)),
            Ok(Event::Finished(Finished {
                index: 0,
                reason: FinishReason::Stop,
                text: String::new(),
                usage: Usage::default(),
                timings: Timings::default(),
            })),
        ])
    }
}
