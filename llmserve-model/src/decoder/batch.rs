//! A batch, checked, and laid out for the kernels.

use llmserve_core::{Batch, BlockId, GroupId, LogitsWanted, ModelError, SequenceId, StepLimits};

use crate::kernels::attention::{Agenda, Geometry, Slot};
use crate::pages::PageShape;

/// What one step computes. Tokens are numbered row after row.
#[derive(Debug)]
pub(super) struct Plan {
    /// Of each token, its id.
    pub(super) ids: Vec<u32>,
    /// Of each token, where its key and value go.
    pub(super) slots: Vec<Slot>,
    /// How attention is cut into tasks.
    pub(super) agenda: Agenda,
    /// Tokens whose logits are wanted, in order.
    pub(super) wanted: Vec<usize>,
    /// For finding a sequence that occurs twice.
    sequences: Vec<SequenceId>,
    /// Empty between steps; kept for its memory.
    tables: Vec<&'static [BlockId]>,
}

fn invalid<T>(reason: String) -> Result<T, ModelError> {
    Err(ModelError::InvalidBatch(reason))
}

/// What is wrong with a table that has a block which does not exist.
pub(super) fn table_names(row: usize, sequence: SequenceId, block: u32, blocks: usize) -> String {
    format!("the table of row {row} ({sequence:?}) names block {block}; there are {blocks}")
}

impl Plan {
    pub(super) fn new(geometry: Geometry, limits: StepLimits, positions: usize) -> Self {
        Self {
            ids: Vec::with_capacity(limits.tokens),
            slots: Vec::with_capacity(limits.tokens),
            agenda: Agenda::new(geometry, limits.tokens, limits.rows, positions),
            wanted: Vec::with_capacity(limits.tokens),
            sequences: Vec::with_capacity(limits.rows),
            tables: Vec::with_capacity(limits.rows),
        }
    }

    /// Lays out `batch` and returns the rows' block tables; give them back to
    /// [`recycle`](Self::recycle).
    pub(super) fn fill<'b>(
        &mut self,
        batch: &Batch<'b>,
        vocab: usize,
        positions: usize,
        shape: PageShape,
        limits: StepLimits,
    ) -> Result<Vec<&'b [BlockId]>, ModelError> {
        let mut tables: Vec<&'b [BlockId]> = std::mem::take(&mut self.tables);
        match self.lay_out(batch, vocab, positions, shape, limits, &mut tables) {
            Ok(()) => Ok(tables),
            Err(error) => {
                self.recycle(tables);
                Err(error)
            }
        }
    }

    /// Keeps the memory of `tables` for the next step.
    pub(super) fn recycle(&mut self, mut tables: Vec<&[BlockId]>) {
        tables.clear();
        // An empty vector collected in place: the lifetime changes, the allocation stays.
        self.tables = tables
            .into_iter()
            .map(|_| -> &'static [BlockId] { &[] })
            .collect();
    }

    fn lay_out<'b>(
        &mut self,
        batch: &Batch<'b>,
        vocab: usize,
        positions: usize,
        shape: PageShape,
        limits: StepLimits,
        tables: &mut Vec<&'b [BlockId]>,
    ) -> Result<(), ModelError> {
        self.ids.clear();
        self.slots.clear();
        self.wanted.clear();
        self.sequences.clear();
        if batch.rows.len() > limits.rows {
            return invalid(format!(
                "{} rows, the limit told was {}",
                batch.rows.len(),
                limits.rows
            ));
        }
        for (index, row) in batch.rows.iter().enumerate() {
            let (sequence, size) = (row.sequence, shape.block_size);
            let end = match (row.start.checked_add(row.len), row.len) {
                (_, 0) => return invalid(format!("row {index} ({sequence:?}) has no tokens")),
                (Some(end), _) if end <= positions => end,
                _ => {
                    return invalid(format!(
                        "row {index} ({sequence:?}) has {} tokens from position {} on; there are {positions} positions",
                        row.len, row.start
                    ));
                }
            };
            let tokens = row.offset.checked_add(row.len);
            let Some(tokens) = tokens.and_then(|to| batch.tokens.get(row.offset..to)) else {
                return invalid(format!(
                    "row {index} ({sequence:?}) has {} tokens from {} on; the batch has {}",
                    row.len,
                    row.offset,
                    batch.tokens.len()
                ));
            };
            let first = self.ids.len();
            if first + row.len > limits.tokens {
                return invalid(format!(
                    "at least {} tokens, the limit told was {}",
                    first + row.len,
                    limits.tokens
                ));
            }
            if let Some(token) = tokens.iter().find(|&&token| token as usize >= vocab) {
                return invalid(format!(
                    "row {index} ({sequence:?}) has token {token}; the vocabulary has {vocab}"
                ));
            }
            let Some(table) = batch
                .tables
                .table(sequence, GroupId::MAIN)
                .get(..end.div_ceil(size))
            else {
                return invalid(format!(
                    "row {index} ({sequence:?}) ends at position {end}, its table has {} blocks of {size}",
                    batch.tables.table(sequence, GroupId::MAIN).len()
                ));
            };
            // Those that the row writes, for work in the order of its tokens; attention checks the
            // others when it comes to read them.
            let written = &table[row.start / size..];
            if let Some(block) = written.iter().find(|block| block.index() >= shape.blocks) {
                return invalid(table_names(index, sequence, block.0, shape.blocks));
            }
            self.ids.extend_from_slice(tokens);
            for position in row.start..end {
                self.slots.push(Slot {
                    block: table[position / size].0,
                    slot: (position % size) as u32,
                    position: position as u32,
                });
            }
            match row.logits {
                LogitsWanted::None => {}
                LogitsWanted::Last => self.wanted.push(first + row.len - 1),
                LogitsWanted::All => self.wanted.extend(first..first + row.len),
            }
            tables.push(table);
            self.sequences.push(sequence);
        }
        self.agenda
            .fill(batch.rows.iter().map(|row| (row.len, row.start)));
        self.sequences.sort_unstable();
        if let Some(pair) = self.sequences.windows(2).find(|pair| pair[0] == pair[1]) {
            return invalid(format!("{:?} has two rows", pair[0]));
        }
        Ok(())
    }
}
