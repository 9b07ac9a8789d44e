//! A model that says what its steps were.

use std::sync::Arc;

use llmserve::{Batch, KvLayout, Logits, Model, ModelError, ModelInfo, PageStore, StepLimits};
use parking_lot::Mutex;

use super::support::PageModel;

/// Of each step, its rows: the first position and how many.
pub(crate) type Steps = Arc<Mutex<Vec<Vec<(usize, usize)>>>>;

/// Wraps the model: notes each step's rows.
pub(crate) struct Noting(pub(crate) PageModel, pub(crate) Steps);

impl Model for Noting {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }
    fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError> {
        self.0.prepare(layout, limits)
    }
    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        self.1
            .lock()
            .push(batch.rows.iter().map(|row| (row.start, row.len)).collect());
        self.0.submit(batch)
    }
    fn pages(&mut self) -> &mut dyn PageStore {
        self.0.pages()
    }
}
