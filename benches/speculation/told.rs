//! A model that computes, and then says what it was told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use llmserve::model::CpuModel;
use llmserve::{
    Batch, KvLayout, Logits, LogitsWanted, Model, ModelError, ModelInfo, PageStore, SequenceId,
    StepLimits, Survey, TokenId,
};
use llmserve_benches::Workload;

/// All tokens of each sequence to come, by the first of its prompt.
#[derive(Clone, Default)]
pub struct Texts(Arc<Mutex<HashMap<TokenId, Vec<TokenId>>>>);

impl Texts {
    /// What the sequence whose prompt begins with `first` will say, prompt included.
    pub fn tell(&self, first: TokenId, text: Vec<TokenId>) {
        lock(&self.0).insert(first, text);
    }
}

pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A model of a real shape that takes the time it takes and says what it was told to.
pub struct Told {
    inner: CpuModel,
    texts: Texts,
    /// How often it says the truth.
    share: f64,
    begun: HashMap<SequenceId, TokenId>,
}

impl Told {
    pub fn new(inner: CpuModel, texts: Texts, share: f64) -> Self {
        Self {
            inner,
            texts,
            share,
            begun: HashMap::new(),
        }
    }
}

struct ToldLogits {
    inner: Box<dyn Logits>,
    tokens: Vec<TokenId>,
    row: Vec<f32>,
    greatest: Vec<f32>,
}

impl Logits for ToldLogits {
    fn rows(&self) -> usize {
        self.tokens.len()
    }

    fn row(&mut self, index: usize) -> Result<&[f32], ModelError> {
        self.inner.row(index)?;
        self.row.fill(0.0);
        self.row[self.tokens[index] as usize] = 1.0;
        Ok(&self.row)
    }

    fn survey(&mut self, index: usize, survey: &mut Survey) -> Result<(), ModelError> {
        self.greatest.fill(0.0);
        self.greatest[self.tokens[index] as usize / Survey::BLOCK] = 1.0;
        survey.fill(&self.greatest, true);
        Ok(())
    }
}

impl Model for Told {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError> {
        self.inner.prepare(layout, limits)
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        let vocab = self.inner.info().vocab_size;
        let texts = lock(&self.texts.0);
        let mut tokens = Vec::new();
        for row in batch.rows {
            if row.start == 0 {
                self.begun.insert(row.sequence, batch.tokens[row.offset]);
            }
            let first = match row.logits {
                LogitsWanted::None => continue,
                LogitsWanted::Last => row.len - 1,
                LogitsWanted::All => 0,
            };
            let begun = self.begun.get(&row.sequence).copied().unwrap_or(0);
            for at in row.start + first..row.start + row.len {
                let next = texts.get(&begun).and_then(|text| text.get(at + 1));
                let next = next.copied().unwrap_or(0);
                let place = u64::from(begun) << 32 | at as u64;
                let right = Workload::new(place ^ 0x5eed).unit() < self.share;
                tokens.push(if right {
                    next
                } else {
                    (next + 1) % vocab as TokenId
                });
            }
        }
        drop(texts);
        Ok(Box::new(ToldLogits {
            inner: self.inner.submit(batch)?,
            tokens,
            row: vec![0.0; vocab],
            greatest: vec![0.0; vocab.div_ceil(Survey::BLOCK)],
        }))
    }

    fn pages(&mut self) -> &mut dyn PageStore {
        self.inner.pages()
    }
}
