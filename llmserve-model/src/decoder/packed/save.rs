//! Writing a packed file: aside, and renamed when it is whole.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use llmserve_core::Model;
use serde_json::{Map, Value, json};
use xxhash_rust::xxh3::Xxh3;

use super::super::CpuModel;
use super::super::slab::{EMBEDDING, Slab};
use super::{CHUNK, DATA_ALIGN, FORMAT, LAYOUT, VERSION, hex, key, parts, seal};
use crate::error::LoadError;
use crate::kernels::buffer::bytes_of;
use crate::weights::packed::Metadata;

impl CpuModel {
    /// Writes everything that [`build`](Self::build) made of the checkpoint, and the embedding, into
    /// one file, for [`open_packed`](Self::open_packed). It is written aside, flushed to the disk
    /// and renamed, so that nobody ever sees half a file, and a file that is there already, mapped
    /// or not, is replaced as a whole. The folder needs room for both.
    ///
    /// # Errors
    /// [`LoadError::Write`] with what the operating system said; what was written is removed again.
    pub fn save_packed(&self, path: &Path) -> Result<(), LoadError> {
        let slab = Slab::new(&self.config, self.dtype)?;
        self.write_packed(&slab, path)
            .map_err(|source| LoadError::Write {
                path: path.to_owned(),
                source,
            })
    }

    fn write_packed(&self, slab: &Slab, path: &Path) -> io::Result<()> {
        if cfg!(target_endian = "big") {
            let reason = "packed files hold little-endian numbers, and these are not";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        }
        let mut aside = Aside::create(path)?;
        let mut metadata = Metadata::from(
            [
                (key::FORMAT, FORMAT.to_owned()),
                (key::VERSION, VERSION.to_owned()),
                (key::LAYOUT, LAYOUT.to_owned()),
                (key::DTYPE, self.dtype.to_string()),
                (key::CONFIG, self.config.to_record()),
                (key::FINGERPRINT, hex(self.info().fingerprint)),
                (key::STAMP, hex(self.stamp)),
                (key::DATA, hex(0)),
                (key::SEAL, hex(0)),
            ]
            .map(|(key, value)| (key.to_owned(), value)),
        );
        // Once for its length, which the hashes do not change.
        let length = self.header(slab, &metadata).len();
        aside.file.seek(SeekFrom::Start(length as u64))?;
        let mut hash = Xxh3::new();
        for chunk in bytes_of(&self.words).chunks(CHUNK) {
            hash.update(chunk);
            aside.file.write_all(chunk)?;
        }
        for chunk in self.embedding.bytes().chunks(CHUNK) {
            hash.update(chunk);
            aside.file.write_all(chunk)?;
            self.embedding.release();
        }
        metadata.insert(key::DATA.to_owned(), hex(hash.digest128()));
        let seal = hex(seal(&metadata));
        metadata.insert(key::SEAL.to_owned(), seal);
        aside.file.seek(SeekFrom::Start(0))?;
        aside.file.write_all(&self.header(slab, &metadata))?;
        aside.persist(path)
    }

    /// The file's first bytes, up to the data.
    fn header(&self, slab: &Slab, metadata: &Metadata) -> Vec<u8> {
        let mut entries = Map::new();
        entries.insert("__metadata__".to_owned(), json!(metadata));
        let mut end = 0;
        let mut add = |name: String, format: &str, shape: &[usize], bytes: usize| {
            let entry = json!({
                "dtype": format,
                "shape": shape,
                "data_offsets": [end, end + bytes],
            });
            end += bytes;
            entries.insert(name, entry);
        };
        for part in parts(slab) {
            let bytes = part.len * size_of::<u32>();
            add(part.name, part.format, &part.shape, bytes);
        }
        add(
            EMBEDDING.to_owned(),
            self.embedding.dtype().safetensors(),
            &[self.config.vocab_size, self.config.hidden_size],
            self.embedding.bytes().len(),
        );
        let mut text = Value::Object(entries).to_string().into_bytes();
        let length = size_of::<u64>();
        text.resize(
            (length + text.len()).next_multiple_of(DATA_ALIGN) - length,
            b' ',
        );
        let mut header = (text.len() as u64).to_le_bytes().to_vec();
        header.append(&mut text);
        header
    }
}

/// A file beside the one that it will be, removed unless it becomes that.
struct Aside {
    file: File,
    path: PathBuf,
}

impl Aside {
    fn create(target: &Path) -> io::Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let mut aside = std::ffi::OsString::from(".");
        aside.push(name);
        // Processes of several containers may have the same number, and share the folder.
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        aside.push(format!(
            ".{}-{}-{}.tmp",
            std::process::id(),
            now.map_or(0, |now| now.as_nanos()),
            NUMBER.fetch_add(1, Ordering::Relaxed)
        ));
        let path = target.with_file_name(aside);
        // A file that is there is somebody's, and an error. A link is not followed.
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        Ok(Self { file, path })
    }

    fn persist(mut self, target: &Path) -> io::Result<()> {
        self.file.flush()?;
        // Or the new name could outlive a power failure that the data did not.
        self.file.sync_all()?;
        std::fs::rename(&self.path, target)?;
        self.path.clear();
        Ok(())
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // Nothing more can be done about it.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
