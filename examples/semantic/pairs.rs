//! Pairs of questions, of which it is known whether one answer serves both.

use std::error::Error;
use std::fs;
use std::path::Path;

use serde::Deserialize;

/// Two questions.
#[derive(Deserialize)]
pub struct Pair {
    /// The one that is stored.
    pub a: String,
    /// The one that is asked.
    pub b: String,
    /// Whether the answer to the one is the answer to the other.
    pub same: bool,
}

impl Pair {
    /// Reads a file of one JSON object a line.
    pub fn read(file: &Path) -> Result<Vec<Self>, Box<dyn Error>> {
        let text = fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        let mut pairs = Vec::new();
        for (number, line) in text.lines().enumerate() {
            if line.trim().is_empty() {
                continue;
            }
            let pair = serde_json::from_str(line)
                .map_err(|e| format!("{}:{}: {e}", file.display(), number + 1))?;
            pairs.push(pair);
        }
        Ok(pairs)
    }

    /// Whether the pair was held out when thresholds were chosen: a third of all, by a hash of the
    /// text (FNV-1a), so that the split does not depend on the order of lines.
    pub fn held_out(&self) -> bool {
        let bytes = self.a.bytes().chain([b'\n']).chain(self.b.bytes());
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        (hash >> 32).is_multiple_of(3)
    }
}
