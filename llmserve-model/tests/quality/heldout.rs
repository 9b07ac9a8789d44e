//! Held-out text and what a model loses on it.

use std::error::Error;
use std::path::Path;

use llmserve_core::{
    Batch, BatchRow, BlockId, BlockTables, GroupId, KvLayout, LogitsWanted, Model, SequenceId,
    StepLimits, TokenId,
};
use serde_json::Value;

const BLOCK: usize = 16;

/// Windows of text that the embedded model has not seen, and the reference's figure for them.
pub(crate) struct HeldOut {
    /// Token ids; each window is a sequence of its own.
    pub(crate) windows: Vec<Vec<TokenId>>,
    /// The perplexity that the reference computes in `f32` over all windows.
    pub(crate) reference: f64,
}

impl HeldOut {
    /// Those of the embedded model.
    ///
    /// # Errors
    /// When the file is not there or not what it should be.
    pub(crate) fn bard() -> Result<Self, Box<dyn Error>> {
        // From whichever of the workspace's packages this module is compiled in.
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../llmserve-model/tests/goldens/bard-2m-heldout.json");
        let mut file: Value = serde_json::from_slice(&std::fs::read(path)?)?;
        Ok(Self {
            windows: serde_json::from_value(file["windows"].take())?,
            reference: serde_json::from_value(file["bard_2m"]["perplexity"].take())?,
        })
    }
}

/// Sequence `i` owns the `i`-th run of blocks.
struct Tables(Vec<Vec<BlockId>>);

impl BlockTables for Tables {
    fn table(&self, sequence: SequenceId, _: GroupId) -> &[BlockId] {
        &self.0[sequence.slot()]
    }
}

/// The negative log-likelihood of each window after its first token, in nats, in steps of up to
/// `budget` tokens.
///
/// # Errors
/// Those of the model; and for logits that are not finite.
pub(crate) fn losses(
    model: &mut dyn Model,
    windows: &[Vec<TokenId>],
    budget: usize,
) -> Result<Vec<f64>, Box<dyn Error>> {
    let longest = windows.iter().map(Vec::len).max().unwrap_or(0);
    let each = longest.div_ceil(BLOCK);
    let layout = KvLayout {
        block_size: BLOCK,
        blocks: vec![each * windows.len()],
    };
    let limits = StepLimits {
        tokens: budget,
        rows: windows.len(),
        logits: budget,
    };
    model.prepare(&layout, limits)?;
    let tables = (0..windows.len()).map(|s| (s * each..(s + 1) * each).map(|b| BlockId(b as u32)));
    let tables = Tables(tables.map(Iterator::collect).collect());

    let mut losses = vec![0.0; windows.len()];
    let mut at = vec![0; windows.len()];
    loop {
        let (mut tokens, mut rows) = (Vec::new(), Vec::new());
        for (slot, window) in windows.iter().enumerate() {
            let part = &window[at[slot]..];
            let len = part.len().min(budget - tokens.len());
            if len > 0 {
                rows.push(BatchRow {
                    sequence: SequenceId::new(slot as u32, 0),
                    start: at[slot],
                    offset: tokens.len(),
                    len,
                    logits: LogitsWanted::All,
                });
                tokens.extend_from_slice(&part[..len]);
            }
        }
        if rows.is_empty() {
            return Ok(losses);
        }
        let mut logits = model.submit(&Batch {
            tokens: &tokens,
            rows: &rows,
            tables: &tables,
        })?;
        for row in &rows {
            let slot = row.sequence.slot();
            at[slot] += row.len;
            for i in 0..row.len {
                // The last token's successor is outside the window.
                if let Some(&next) = windows[slot].get(row.start + i + 1) {
                    losses[slot] += loss(logits.row(row.offset + i)?, next)?;
                }
            }
        }
    }
}

fn loss(logits: &[f32], token: TokenId) -> Result<f64, Box<dyn Error>> {
    let most = f64::from(logits.iter().copied().fold(f32::MIN, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    let loss = most + sum.ln() - f64::from(logits[token as usize]);
    if loss.is_finite() {
        Ok(loss)
    } else {
        Err("a logit is not a finite number".into())
    }
}

/// The perplexity of `windows`: the exponential of the mean loss per predicted token.
///
/// # Errors
/// Those of [`losses`].
pub(crate) fn perplexity(
    model: &mut dyn Model,
    windows: &[Vec<TokenId>],
) -> Result<f64, Box<dyn Error>> {
    let losses = losses(model, windows, 512)?;
    let predicted: usize = windows.iter().map(|w| w.len().saturating_sub(1)).sum();
    Ok((losses.iter().sum::<f64>() / predicted as f64).exp())
}
