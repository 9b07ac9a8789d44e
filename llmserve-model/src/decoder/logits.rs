//! Rows of logits, in memory that is used again.

use std::fmt;
use std::sync::Arc;

use llmserve_core::{Logits, ModelError};
use parking_lot::Mutex;

use crate::kernels::buffer::Buffer;

/// Buffers that wait for their next step. Whoever holds logits longer than a step makes the model
/// take another one.
pub(super) struct LogitsPool {
    vocab: usize,
    free: Mutex<Vec<Buffer<f32>>>,
}

/// Spare buffers that are kept: the host reads one step's logits while the next is computed.
const SPARE: usize = 4;

impl LogitsPool {
    /// A pool with one buffer for `rows` rows of `vocab` logits.
    pub(super) fn new(vocab: usize, rows: usize) -> Result<Arc<Self>, ModelError> {
        let buffer = allocate(vocab, rows).map_err(ModelError::Prepare)?;
        let mut free = Vec::with_capacity(SPARE);
        free.push(buffer);
        Ok(Arc::new(Self {
            vocab,
            free: Mutex::new(free),
        }))
    }

    /// A buffer for `rows` rows, its content undefined.
    pub(super) fn take(self: &Arc<Self>, rows: usize) -> Result<CpuLogits, ModelError> {
        let spare = {
            let mut free = self.free.lock();
            let fits = free.iter().position(|b| b.len() / self.vocab >= rows);
            fits.map(|at| free.swap_remove(at))
        };
        let buffer = match spare {
            Some(buffer) => buffer,
            None => allocate(self.vocab, rows).map_err(ModelError::Backend)?,
        };
        Ok(CpuLogits {
            buffer: Some(buffer),
            rows,
            pool: self.clone(),
        })
    }
}

fn allocate(vocab: usize, rows: usize) -> Result<Buffer<f32>, String> {
    let len = vocab.checked_mul(rows);
    len.and_then(Buffer::try_zeroed)
        .ok_or_else(|| format!("no memory for {rows} rows of {vocab} logits: ask for fewer rows"))
}

impl fmt::Debug for LogitsPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogitsPool({} free)", self.free.lock().len())
    }
}

/// The logits of one step, complete.
pub(super) struct CpuLogits {
    buffer: Option<Buffer<f32>>,
    rows: usize,
    pool: Arc<LogitsPool>,
}

impl CpuLogits {
    /// All rows, one after the other.
    pub(super) fn all(&mut self) -> &mut [f32] {
        let len = self.rows * self.pool.vocab;
        self.buffer
            .as_deref_mut()
            .map_or(&mut [], |b| &mut b[..len])
    }
}

impl Logits for CpuLogits {
    fn rows(&self) -> usize {
        self.rows
    }

    fn row(&mut self, index: usize) -> Result<&[f32], ModelError> {
        let (rows, vocab) = (self.rows, self.pool.vocab);
        let row = self.all().chunks_exact(vocab).nth(index);
        row.ok_or_else(|| {
            ModelError::Backend(format!("row {index} of logits; the step has {rows}"))
        })
    }
}

impl Drop for CpuLogits {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            let mut free = self.pool.free.lock();
            if free.len() < SPARE {
                free.push(buffer);
            } else if let Some(least) = free.iter_mut().min_by_key(|b| b.len())
                && least.len() < buffer.len()
            {
                *least = buffer;
            }
        }
    }
}
