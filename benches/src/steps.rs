//! A model that keeps a record of its steps: what each computed, and how long it took.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llmserve::{
    Batch, KvLayout, Logits, Model, ModelError, ModelInfo, PageStore, StepLimits, Survey,
};

/// One step of the engine.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// When it was submitted.
    pub began: Instant,
    /// When the engine let go of its logits.
    pub ended: Instant,
    /// Time inside the model: in `submit`, and in its logits.
    pub inside: Duration,
    /// Rows of the batch.
    pub rows: usize,
    /// Tokens of the batch.
    pub tokens: usize,
    /// Rows of logits asked for.
    pub logits: usize,
    /// Sum over rows of the tokens whose keys and values the row reads.
    pub context: usize,
    /// Sum over tokens of the positions each attends to, its own included.
    pub visible: usize,
}

impl Step {
    /// Whether every row is one token that another follows. The last token of a prompt, computed
    /// by itself, looks the same.
    pub fn is_decode(&self) -> bool {
        self.tokens == self.rows && self.logits == self.rows
    }
}

/// The steps of a [`TimedModel`], readable while an engine owns the model.
#[derive(Clone, Debug, Default)]
pub struct StepLog(Arc<Mutex<Vec<Step>>>);

impl StepLog {
    /// Takes the steps since the last call out.
    pub fn take(&self) -> Vec<Step> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Step>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A model that delegates to another and records its steps.
#[derive(Debug)]
pub struct TimedModel<M> {
    inner: M,
    log: StepLog,
}

impl<M: Model> TimedModel<M> {
    /// A model that does what `inner` does.
    pub fn new(inner: M) -> Self {
        Self {
            inner,
            log: StepLog::default(),
        }
    }

    /// Where its steps go.
    pub fn log(&self) -> StepLog {
        self.log.clone()
    }
}

impl<M: Model> Model for TimedModel<M> {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn prepare(&mut self, layout: &KvLayout, limits: StepLimits) -> Result<(), ModelError> {
        self.inner.prepare(layout, limits)
    }

    fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
        let began = Instant::now();
        let inner = self.inner.submit(batch)?;
        let ended = Instant::now();
        let mut step = Step {
            began,
            ended,
            inside: ended - began,
            rows: batch.rows.len(),
            tokens: batch.tokens.len(),
            logits: batch.logits_rows(),
            context: 0,
            visible: 0,
        };
        for row in batch.rows {
            step.context += row.start + row.len;
            // start + 1, start + 2, … start + len.
            step.visible += row.start * row.len + row.len * (row.len + 1) / 2;
        }
        Ok(Box::new(TimedLogits {
            inner: Some(inner),
            step,
            log: self.log.clone(),
        }))
    }

    fn pages(&mut self) -> &mut dyn PageStore {
        self.inner.pages()
    }
}

struct TimedLogits {
    /// None only while it is dropped.
    inner: Option<Box<dyn Logits>>,
    step: Step,
    log: StepLog,
}

impl Logits for TimedLogits {
    fn rows(&self) -> usize {
        self.inner.as_ref().map_or(0, |inner| inner.rows())
    }

    fn row(&mut self, index: usize) -> Result<&[f32], ModelError> {
        let Some(inner) = &mut self.inner else {
            return Err(ModelError::Backend("the logits were dropped".to_owned()));
        };
        let began = Instant::now();
        let row = inner.row(index);
        self.step.inside += began.elapsed();
        row
    }

    fn survey(&mut self, index: usize, survey: &mut Survey) -> Result<(), ModelError> {
        let Some(inner) = &mut self.inner else {
            return Err(ModelError::Backend("the logits were dropped".to_owned()));
        };
        let began = Instant::now();
        let surveyed = inner.survey(index, survey);
        self.step.inside += began.elapsed();
        surveyed
    }
}

impl Drop for TimedLogits {
    fn drop(&mut self) {
        let began = Instant::now();
        self.inner = None;
        self.step.ended = Instant::now();
        self.step.inside += self.step.ended - began;
        self.log.lock().push(self.step);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve::LogitsWanted::{Last, None as Nothing};
    use llmserve::{BatchRow, BlockId, BlockTables, GroupId, KvGroupSpec, SequenceId};

    struct Still(ModelInfo);

    struct Zeros(usize);

    impl Logits for Zeros {
        fn rows(&self) -> usize {
            self.0
        }

        fn row(&mut self, _: usize) -> Result<&[f32], ModelError> {
            Ok(&[0.0])
        }
    }

    impl Model for Still {
        fn info(&self) -> &ModelInfo {
            &self.0
        }

        fn prepare(&mut self, _: &KvLayout, _: StepLimits) -> Result<(), ModelError> {
            Ok(())
        }

        fn submit(&mut self, batch: &Batch<'_>) -> Result<Box<dyn Logits>, ModelError> {
            Ok(Box::new(Zeros(batch.logits_rows())))
        }

        fn pages(&mut self) -> &mut dyn PageStore {
            unreachable!("no test copies pages")
        }
    }

    struct Tables;

    impl BlockTables for Tables {
        fn table(&self, _: SequenceId, _: GroupId) -> &[BlockId] {
            &[]
        }
    }

    #[test]
    fn a_step_is_recorded_when_its_logits_are_let_go() -> Result<(), ModelError> {
        let info = ModelInfo::new("still", 1, 64, KvGroupSpec::full(4, "none"));
        let mut model = TimedModel::new(Still(info));
        let log = model.log();
        let row = |index, start, offset, len, logits| BatchRow {
            sequence: SequenceId::new(index, 0),
            start,
            offset,
            len,
            logits,
        };
        let mixed = [row(0, 5, 0, 3, Nothing), row(1, 9, 3, 1, Last)];
        let decode = [row(0, 8, 0, 1, Last), row(1, 10, 1, 1, Last)];
        for (tokens, rows) in [(4, mixed), (2, decode)] {
            let batch = Batch {
                tokens: &vec![0; tokens],
                rows: &rows,
                tables: &Tables,
            };
            let mut logits = model.submit(&batch)?;
            assert_eq!(logits.rows(), batch.logits_rows());
            logits.row(0)?;
            assert!(log.take().is_empty(), "recorded before it ended");
            drop(logits);
            let steps = log.take();
            let [step] = steps[..] else {
                panic!("{} steps", steps.len());
            };
            assert!(step.ended >= step.began + step.inside);
            let counts = (
                step.rows,
                step.tokens,
                step.logits,
                step.context,
                step.visible,
            );
            // Positions 5, 6 and 7 see 6, 7 and 8; position 9 sees 10.
            let expected = if tokens == 4 {
                (2, 4, 1, 18, 31)
            } else {
                (2, 2, 2, 20, 20)
            };
            assert_eq!(counts, expected);
            assert_eq!(step.is_decode(), tokens == 2);
        }
        Ok(())
    }
}
