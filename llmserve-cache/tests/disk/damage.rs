//! Files that somebody else has been at.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use llmserve_cache::{Scope, Stamp, Store};

use crate::rig::{check, entry, open};

const ENTRIES: usize = 60;

/// A folder with something in it, and every file of it that is not empty.
fn filled(folder: &Path) -> (Stamp, Vec<(PathBuf, Vec<u8>)>) {
    let store = open(folder);
    store.epochs().invalidate(&Scope::tag("docs"));
    let stamp = store.epochs().stamp([&Scope::tag("docs")]);
    for number in 0..ENTRIES {
        store.put(entry(number, stamp));
    }
    assert!(store.flush(Duration::from_secs(30)));
    drop(store);
    let mut folders = vec![folder.to_owned()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => files.push((path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    files.retain(|(_, bytes)| bytes.iter().any(|byte| *byte != 0));
    (stamp, files)
}

/// Opens what somebody has been at: it opens, and whatever is found is right.
#[track_caller]
fn opens(folder: &Path) -> (Stamp, usize) {
    let store = open(folder);
    let found = check(&store, 0..ENTRIES);
    // And it works on.
    store.put(entry(1_000, Stamp::default()));
    assert!(store.flush(Duration::from_secs(30)));
    assert_eq!(check(&store, 1_000..1_001), 1);
    (store.epochs().stamp([&Scope::tag("docs")]), found)
}

fn put_back(files: &[(PathBuf, Vec<u8>)]) {
    for (path, bytes) in files {
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_flipped_byte_in_any_file_is_a_miss_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let (stamp, files) = filled(folder.path());
    assert!(files.len() > 2);
    let (mut missing, mut epochs) = (0, 0);
    for (path, bytes) in &files {
        let is_epochs = path.ends_with("epochs");
        // Everywhere in what is small; where blocks have their tables and their entries' heads, and
        // here and there.
        let places: Vec<usize> = match bytes.len() < 1_000 {
            true => (0..bytes.len()).collect(),
            false => (0..48)
                .step_by(5)
                .chain((4_096..4_136).step_by(6))
                .chain((0..bytes.len()).step_by(12_001))
                .collect(),
        };
        for place in places {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1 << (place % 8);
            put_back(&files);
            fs::write(path, damaged).unwrap();
            let (now, found) = opens(folder.path());
            missing += ENTRIES - found;
            assert_eq!(now != stamp, is_epochs, "{path:?} at {place}");
            epochs += usize::from(is_epochs);
        }
    }
    assert!(missing > 0 && epochs > 0, "nothing was hit");
}

#[test]
fn a_file_cut_short_or_gone_or_of_something_else_is_misses_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let (stamp, files) = filled(folder.path());
    for (path, bytes) in &files {
        let noise: Vec<u8> = (0..bytes.len()).map(|at| (at * 167 % 251) as u8).collect();
        for instead in [
            Some(bytes[..bytes.len() / 2].to_vec()),
            Some(Vec::new()),
            Some(noise),
            None,
        ] {
            put_back(&files);
            match instead {
                Some(instead) => fs::write(path, instead).unwrap(),
                None => fs::remove_file(path).unwrap(),
            }
            let (now, _) = opens(folder.path());
            assert_eq!(now != stamp, path.ends_with("epochs"), "{path:?}");
        }
    }
    // All of it is there once more.
    put_back(&files);
    assert_eq!(opens(folder.path()), (stamp, ENTRIES));
}
