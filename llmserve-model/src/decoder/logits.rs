//! Rows of logits and their surveys, in memory that is used again.

use std::fmt;
use std::sync::Arc;

use llmserve_core::{Logits, ModelError, Survey};
use parking_lot::Mutex;

use crate::kernels::buffer::Buffer;
use crate::kernels::survey::survey_len;

/// Buffers that wait for their next step. Whoever holds logits longer than a step makes the model
/// take another one.
pub(super) struct LogitsPool {
    vocab: usize,
    /// Rows of the largest buffer that is kept.
    rows: usize,
    free: Mutex<Vec<Buffer<f32>>>,
}

/// Spare buffers that are kept: the host reads one step's logits while the next is computed.
const SPARE: usize = 4;

impl LogitsPool {
    /// A pool with one buffer for `rows` rows of `vocab` logits: as many as steps commonly want. For
    /// one that wants more a buffer is made, and given back to the system after it.
    pub(super) fn new(vocab: usize, rows: usize) -> Result<Arc<Self>, ModelError> {
        let pool = Self {
            vocab,
            rows,
            free: Mutex::new(Vec::with_capacity(SPARE)),
        };
        let buffer = pool.allocate(rows).map_err(ModelError::Prepare)?;
        pool.free.lock().push(buffer);
        Ok(Arc::new(pool))
    }

    /// Bytes of a buffer that is kept.
    pub(super) fn bytes(&self) -> usize {
        size_of::<f32>() * self.row_len() * self.rows
    }

    /// Numbers of a row: logits and survey.
    fn row_len(&self) -> usize {
        self.vocab + survey_len(self.vocab)
    }

    fn allocate(&self, rows: usize) -> Result<Buffer<f32>, String> {
        let len = self.row_len().checked_mul(rows);
        len.and_then(Buffer::try_zeroed).ok_or_else(|| {
            let vocab = self.vocab;
            format!("no memory for {rows} rows of {vocab} logits: ask for fewer rows")
        })
    }

    /// A buffer for `rows` rows, its content undefined.
    pub(super) fn take(self: &Arc<Self>, rows: usize) -> Result<CpuLogits, ModelError> {
        let spare = {
            let mut free = self.free.lock();
            let fits = free.iter().position(|b| b.len() / self.row_len() >= rows);
            fits.map(|at| free.swap_remove(at))
        };
        let buffer = match spare {
            Some(buffer) => buffer,
            None => self.allocate(rows).map_err(ModelError::Backend)?,
        };
        Ok(CpuLogits {
            buffer: Some(buffer),
            rows,
            pool: self.clone(),
        })
    }
}

impl fmt::Debug for LogitsPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogitsPool({} free)", self.free.lock().len())
    }
}

/// The logits of one step, complete, and then the surveys of all rows.
pub(super) struct CpuLogits {
    buffer: Option<Buffer<f32>>,
    rows: usize,
    pool: Arc<LogitsPool>,
}

impl CpuLogits {
    /// The logits of all rows, one after the other, and so their surveys.
    pub(super) fn all(&mut self) -> (&mut [f32], &mut [f32]) {
        let (rows, vocab) = (self.rows, self.pool.vocab);
        let (logits, rest) = self
            .buffer
            .as_deref_mut()
            .map_or(Default::default(), |b| b.split_at_mut(rows * vocab));
        (logits, &mut rest[..rows * survey_len(vocab)])
    }
}

fn missing(index: usize, rows: usize) -> ModelError {
    ModelError::Backend(format!("row {index} of logits; the step has {rows}"))
}

impl Logits for CpuLogits {
    fn rows(&self) -> usize {
        self.rows
    }

    fn row(&mut self, index: usize) -> Result<&[f32], ModelError> {
        let (rows, vocab) = (self.rows, self.pool.vocab);
        let row = self.all().0.chunks_exact(vocab).nth(index);
        row.ok_or_else(|| missing(index, rows))
    }

    fn survey(&mut self, index: usize, survey: &mut Survey) -> Result<(), ModelError> {
        let (rows, len) = (self.rows, survey_len(self.pool.vocab));
        let row = self.all().1.chunks_exact(len).nth(index);
        let row = row.and_then(|row| row.split_last());
        let (sum, greatest) = row.ok_or_else(|| missing(index, rows))?;
        survey.fill(greatest, !sum.is_nan());
        Ok(())
    }
}

impl Drop for CpuLogits {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take()
            && buffer.len() <= self.pool.rows * self.pool.row_len()
        {
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
