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
}
