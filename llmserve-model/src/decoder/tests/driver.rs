//! Sequences with block tables of their own, driven step by step.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmserve_core::{
    Batch, BatchRow, BlockId, BlockTables, GroupId, KvLayout, LogitsWanted, Model, ModelError,
    SequenceId, StepLimits, Survey, TokenId,
};

use crate::{CpuModel, CpuOptions, DecoderConfig, Weights};

pub(super) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/goldens")
        .join(name)
}

pub(super) fn build(dir: &Path, options: &CpuOptions) -> CpuModel {
    let config = DecoderConfig::from_dir(dir).unwrap();
    let weights = Arc::new(Weights::open(dir).unwrap());
    CpuModel::build(&config, weights, options).unwrap()
}

/// Tables by slot.
#[derive(Default)]
pub(super) struct Tables(pub(super) Vec<Vec<BlockId>>);

impl BlockTables for Tables {
    fn table(&self, sequence: SequenceId, _: GroupId) -> &[BlockId] {
        self.0.get(sequence.slot()).map_or(&[], Vec::as_slice)
    }
}

/// A model and tables in which sequence `i` owns every block `≡ i` modulo `sequences`.
pub(super) struct Driver {
    pub(super) model: CpuModel,
    pub(super) tables: Tables,
}

/// A part of a step: sequence, first position, tokens, which logits.
pub(super) type Part<'a> = (usize, usize, &'a [TokenId], LogitsWanted);

impl Driver {
    pub(super) fn new(
        mut model: CpuModel,
        block_size: usize,
        sequences: usize,
        tokens: usize,
    ) -> Self {
        let each = tokens.div_ceil(block_size);
        let layout = KvLayout {
            block_size,
            blocks: vec![each * sequences],
        };
        let limits = StepLimits {
            tokens: tokens * sequences,
            rows: sequences,
            logits: sequences,
        };
        model.prepare(&layout, limits).unwrap();
        let block = |i: usize, sequence: usize| BlockId((i * sequences + sequence) as u32);
        let tables = (0..sequences).map(|s| (0..each).map(|i| block(i, s)).collect());
        Self {
            model,
            tables: Tables(tables.collect()),
        }
    }

    /// One step; the rows of logits.
    pub(super) fn step(&mut self, parts: &[Part<'_>]) -> Result<Vec<Vec<f32>>, ModelError> {
        let mut tokens = Vec::new();
        let mut rows = Vec::new();
        for &(sequence, start, part, logits) in parts {
            rows.push(BatchRow {
                sequence: SequenceId::new(sequence as u32, 0),
                start,
                offset: tokens.len(),
                len: part.len(),
                logits,
            });
            tokens.extend_from_slice(part);
        }
        let batch = Batch {
            tokens: &tokens,
            rows: &rows,
            tables: &self.tables,
        };
        let wanted = batch.logits_rows();
        let mut logits = self.model.submit(&batch)?;
        assert_eq!(logits.rows(), wanted);
        let (mut survey, mut expected) = (Survey::default(), Survey::default());
        assert!(logits.row(wanted).is_err());
        assert!(logits.survey(wanted, &mut survey).is_err());
        let mut rows = Vec::new();
        for i in 0..wanted {
            logits.survey(i, &mut survey)?;
            let row = logits.row(i)?;
            expected.take(row);
            assert_eq!(survey, expected);
            rows.push(row.to_vec());
        }
        Ok(rows)
    }

    /// The logits of every position of `tokens`, computed in chunks of `chunk`.
    pub(super) fn all(
        &mut self,
        sequence: usize,
        tokens: &[TokenId],
        chunk: usize,
    ) -> Vec<Vec<f32>> {
        let mut all = Vec::new();
        for (i, part) in tokens.chunks(chunk).enumerate() {
            all.extend(
                self.step(&[(sequence, i * chunk, part, LogitsWanted::All)])
                    .unwrap(),
            );
        }
        all
    }

    /// Greedy ids after `prompt`, each with the margin to the runner-up; and the first logits.
    pub(super) fn greedy(
        &mut self,
        prompt: &[TokenId],
        count: usize,
    ) -> (Vec<(TokenId, f32)>, Vec<f32>) {
        let mut logits = self
            .step(&[(0, 0, prompt, LogitsWanted::Last)])
            .unwrap()
            .remove(0);
        let first = logits.clone();
        let mut ids = Vec::new();
        for position in prompt.len().. {
            let best = best(&logits);
            ids.push(best);
            if ids.len() == count {
                break;
            }
            let next = [best.0];
            logits = self
                .step(&[(0, position, &next, LogitsWanted::Last)])
                .unwrap()
                .remove(0);
        }
        (ids, first)
    }
}

/// The highest logit's index and its lead.
fn best(logits: &[f32]) -> (TokenId, f32) {
    let mut at = 0;
    for (i, x) in logits.iter().enumerate() {
        if *x > logits[at] {
            at = i;
        }
    }
    let others = logits.iter().enumerate().filter(|&(i, _)| i != at);
    let second = others.map(|(_, x)| *x).fold(f32::MIN, f32::max);
    (at as TokenId, logits[at] - second)
}
