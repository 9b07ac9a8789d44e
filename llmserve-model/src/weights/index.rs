//! `model.safetensors.index.json`: which shard holds which tensor.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::Deserialize;

use crate::config::fields::read_bounded;
use crate::error::LoadError;

/// Far above any real index (a trillion-parameter mixture of experts has about 10 MB).
const MAX_INDEX: u64 = 256 << 20;

/// Tensor → shard, as the index says.
#[derive(Debug, Deserialize)]
pub(crate) struct ShardMap {
    weight_map: BTreeMap<String, String>,
}

impl ShardMap {
    /// Parses and checks the index `text` of the file at `path`.
    pub(crate) fn parse(path: &Path, text: &[u8]) -> Result<Self, LoadError> {
        let corrupt = |reason: String| LoadError::Corrupt {
            path: path.to_owned(),
            reason,
        };
        let map: ShardMap = serde_json::from_slice(text).map_err(|e| corrupt(e.to_string()))?;
        if map.weight_map.is_empty() {
            return Err(corrupt("it names no tensor".to_owned()));
        }
        // An index comes from whoever made the model: it may not point out of the folder.
        for shard in map.weight_map.values() {
            let mut parts = Path::new(shard).components();
            let plain = matches!(
                (parts.next(), parts.next()),
                (Some(Component::Normal(_)), None)
            ) && !shard.contains(['/', '\\', '\0']);
            if !plain {
                return Err(corrupt(format!("shard {shard:?} is not a plain file name")));
            }
        }
        Ok(map)
    }

    /// The shards, each once, in lexical order.
    pub(crate) fn shards(&self) -> BTreeSet<&str> {
        self.weight_map.values().map(String::as_str).collect()
    }

    /// Every tensor and the shard it lies in.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.weight_map
            .iter()
            .map(|(tensor, shard)| (tensor.as_str(), shard.as_str()))
    }
}

/// Reads the index at `path`.
pub(super) fn read(path: &Path) -> Result<ShardMap, LoadError> {
    ShardMap::parse(path, &read_bounded(path, "the index", MAX_INDEX)?)
}
