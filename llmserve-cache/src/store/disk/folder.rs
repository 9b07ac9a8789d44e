//! The folder of a store: who has it, what stays in it, and its epochs.
//!
//! ```text
//!  folder/lock            held while a store has it open
//!  folder/epochs          checksum and epochs, replaced as a whole
//!  folder/blocks-<size>/  the entries, as foyer keeps them
//! ```

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::error::DiskBuildError;
use crate::epoch::{ALL, Epochs};

/// The first bytes of the epochs' file; the last digit is its format.
const MAGIC: [u8; 8] = *b"lsepoch1";

const BLOCKS: &str = "blocks-";

/// How often, and how far apart, a lock that is held is asked for again.
const LOCK_TRIES: u32 = 20;
const LOCK_PAUSE: std::time::Duration = std::time::Duration::from_millis(10);

/// How foyer names a block's file, before its number.
const BLOCK_FILE: &str = "foyer-storage-direct-fs-";

/// An open folder. Nobody else opens it until it is dropped.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    pub(super) fn open(path: &Path) -> Result<Self, DiskBuildError> {
        let failed = |error: io::Error| DiskBuildError::Folder {
            folder: path.to_owned(),
            reason: error.to_string(),
        };
        fs::create_dir_all(path).map_err(failed)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path.join("lock"))
            .map_err(failed)?;
        match acquired(&lock) {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DiskBuildError::InUse {
                folder: path.to_owned(),
            }),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Where blocks of this size are, at most so many; all others are removed.
    pub(super) fn blocks(&self, size: usize, most: usize) -> io::Result<PathBuf> {
        let own = format!("{BLOCKS}{size}");
        for file in fs::read_dir(&self.path)? {
            let file = file?;
            let name = file.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(BLOCKS) && name != own {
                fs::remove_dir_all(file.path())?;
            }
        }
        let blocks = self.path.join(own);
        fs::create_dir_all(&blocks)?;
        let mut in_use = Vec::new();
        for file in fs::read_dir(&blocks)? {
            let file = file?;
            let name = file.file_name();
            let name = name.to_string_lossy();
            let number = name.strip_prefix(BLOCK_FILE);
            let number = number.and_then(|digits| digits.parse::<usize>().ok());
            if number.is_none_or(|number| number >= most) {
                fs::remove_file(file.path())?;
            } else if begins(&file.path())? {
                in_use.push((file.metadata()?.modified()?, file.path()));
            }
        }
        // Foyer clears the oldest block when it takes the last free one. Killed between the two it
        // has none, and would wait for one for ever.
        if in_use.len() == most
            && let Some((_, oldest)) = in_use.iter().min()
        {
            fs::remove_file(oldest)?;
        }
        Ok(blocks)
    }

    /// Forgets every entry.
    pub(super) fn clear(&self, size: usize) -> io::Result<()> {
        fs::remove_dir_all(self.path.join(format!("{BLOCKS}{size}")))
    }

    /// The epochs that count here: those of last time, or, if they are not to be read, new ones, by
    /// which everything is old. From then on every change is on disk before it returns.
    pub(super) fn epochs(&self) -> io::Result<(Arc<Epochs>, Arc<EpochsFile>)> {
        let epochs = Arc::<Epochs>::default();
        let file = Arc::new(EpochsFile {
            path: self.path.join("epochs"),
            epochs: Arc::downgrade(&epochs),
            behind: Mutex::new(false),
        });
        match fs::read(&file.path).ok().and_then(|bytes| parse(&bytes)) {
            Some(known) => epochs.replace(known),
            None => file.write(&mut file.behind.lock())?,
        }
        let written = file.clone();
        epochs.listen(move |_, _| {
            // Where nothing can be written nor removed, what is there stays.
            let _ = written.write(&mut written.behind.lock());
        });
        Ok((epochs, file))
    }
}

/// Where the epochs are kept.
pub(super) struct EpochsFile {
    path: PathBuf,
    epochs: Weak<Epochs>,
    /// Whether what is there is not what counts.
    behind: Mutex<bool>,
}

impl EpochsFile {
    /// Writes them if they could not be written before.
    pub(super) fn mend(&self) {
        let mut behind = self.behind.lock();
        if *behind {
            let _ = self.write(&mut behind);
        }
    }

    /// Writes them or, if that is not possible, makes what is there unreadable: no epochs are better
    /// than old ones, as next time everything is old. A full disk has room for that.
    fn write(&self, behind: &mut bool) -> io::Result<()> {
        let Some(epochs) = self.epochs.upgrade() else {
            return Ok(());
        };
        *behind = write(&self.path, &epochs).is_err();
        if !*behind {
            return Ok(());
        }
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // A folder that may not be changed may have files that may.
                OpenOptions::new().write(true).open(&self.path)?.set_len(0)
            }
            _ => Ok(()),
        }
    }
}

/// Whether anything stands at the beginning of a block's file.
fn begins(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(64).read_to_end(&mut head)?;
    Ok(head.iter().any(|byte| *byte != 0))
}

fn write(path: &Path, epochs: &Epochs) -> io::Result<()> {
    let mut numbers = Vec::new();
    for (scope, epoch) in epochs.snapshot() {
        numbers.extend_from_slice(&scope.to_le_bytes());
        numbers.extend_from_slice(&epoch.to_le_bytes());
    }
    let next = path.with_extension("next");
    let mut file = File::create(&next)?;
    file.write_all(&MAGIC)?;
    file.write_all(&xxh3_64(&numbers).to_le_bytes())?;
    file.write_all(&numbers)?;
    file.sync_all()?;
    fs::rename(&next, path)?;
    // The name is the folder's to keep.
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

fn parse(bytes: &[u8]) -> Option<HashMap<u64, u64>> {
    let (checksum, numbers) = bytes.strip_prefix(&MAGIC)?.split_first_chunk()?;
    if u64::from_le_bytes(*checksum) != xxh3_64(numbers) {
        return None;
    }
    let (pairs, rest) = numbers.as_chunks::<16>();
    let known: HashMap<u64, u64> = pairs
        .iter()
        .filter_map(|pair| {
            let (scope, epoch) = pair.split_first_chunk()?;
            let epoch = epoch.first_chunk()?;
            Some((u64::from_le_bytes(*scope), u64::from_le_bytes(*epoch)))
        })
        .collect();
    (rest.is_empty() && known.contains_key(&ALL)).then_some(known)
}

/// The lock, if it is free now or in a moment: a process that this one has just begun holds all its
/// files for as long as it takes to become another program.
fn acquired(lock: &File) -> Result<(), TryLockError> {
    let mut tries = 0;
    loop {
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                tries += 1;
                std::thread::sleep(LOCK_PAUSE);
            }
            other => return other,
        }
    }
}
