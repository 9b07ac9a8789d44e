//! JSON files read field by field, so that an error names the field and shows its value.

use std::io::Read;
use std::path::Path;

use serde_json::{Map, Value};

use crate::error::LoadError;

/// Far above any real `config.json`.
const MAX_CONFIG: u64 = 16 << 20;

/// Reads the regular file at `path`, refusing one that is longer than `limit` bytes. `what` names
/// it, should it be missing.
pub(crate) fn read_bounded(path: &Path, what: &str, limit: u64) -> Result<Vec<u8>, LoadError> {
    let io = |source: std::io::Error| match source.kind() {
        std::io::ErrorKind::NotFound => LoadError::Missing {
            what: what.to_owned(),
            path: path.to_owned(),
        },
        _ => LoadError::Io {
            path: path.to_owned(),
            source,
        },
    };
    let metadata = std::fs::metadata(path).map_err(io)?;
    if !metadata.is_file() {
        return Err(LoadError::NotAFile {
            path: path.to_owned(),
        });
    }
    let too_large = |found| LoadError::TooLarge {
        path: path.to_owned(),
        found,
        limit,
    };
    if metadata.len() > limit {
        return Err(too_large(metadata.len()));
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .map_err(io)?
        // It may have grown since.
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(io)?;
    match bytes.len() as u64 {
        found if found > limit => Err(too_large(found)),
        _ => Ok(bytes),
    }
}

/// Whether there is nothing at `path`. A link that leads nowhere, or a folder that may not be
/// searched, is something: reading it says what is wrong, where taking it for absent would serve
/// the model without it.
pub(crate) fn is_absent(path: &Path) -> bool {
    let found = std::fs::symlink_metadata(path);
    matches!(found, Err(error) if error.kind() == std::io::ErrorKind::NotFound)
}

/// Reads a JSON object from the file at `path`; `Ok(None)` when there is no such file.
pub(crate) fn read_object(path: &Path) -> Result<Option<Fields>, LoadError> {
    if is_absent(path) {
        return Ok(None);
    }
    let bytes = read_bounded(path, "the file", MAX_CONFIG)?;
    Fields::parse(&bytes)
        .map(Some)
        .map_err(|reason| LoadError::Corrupt {
            path: path.to_owned(),
            reason,
        })
}

/// An object of a model's configuration. A field that is `null` counts as absent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    /// The path to this object, for errors: empty or `rope_parameters.`.
    prefix: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Parses an object.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, String> {
        match serde_json::from_slice(json) {
            Ok(Value::Object(map)) => Ok(Self {
                prefix: String::new(),
                map,
            }),
            Ok(_) => Err("it is not a JSON object".to_owned()),
            Err(e) => Err(format!("invalid JSON: {e}")),
        }
    }

    /// The field `name`, unless absent or null.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// Whether the field `name` is there, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// The names of all fields that are not null.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.map
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, _)| name.as_str())
    }

    /// The full name of a field, for errors.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The error of a field whose value is not what it should be.
    pub(crate) fn wrong(&self, name: &str, expected: &str) -> LoadError {
        let reason = match self.get(name) {
            None => format!("it is absent, expected {expected}"),
            Some(value) => format!("{}, expected {expected}", shown(value)),
        };
        LoadError::config(self.path(name), reason)
    }

    /// An integer of `1..=max`; an error when absent.
    pub(crate) fn size(&self, name: &str, max: usize) -> Result<usize, LoadError> {
        self.opt_size(name, max)?
            .ok_or_else(|| self.wrong(name, &format!("an integer of 1 to {max}")))
    }

    /// An integer of `1..=max`, if present.
    pub(crate) fn opt_size(&self, name: &str, max: usize) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=max).contains(n))
            .map(Some)
            .ok_or_else(|| self.wrong(name, &format!("an integer of 1 to {max}")))
    }

    /// A finite number, if present.
    pub(crate) fn opt_number(&self, name: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value
            .as_f64()
            .filter(|x| x.is_finite())
            .map(Some)
            .ok_or_else(|| self.wrong(name, "a finite number"))
    }

    /// A finite number; an error when absent.
    pub(crate) fn number(&self, name: &str) -> Result<f64, LoadError> {
        self.opt_number(name)?
            .ok_or_else(|| self.wrong(name, "a finite number"))
    }

    /// A truth value, if present.
    pub(crate) fn opt_bool(&self, name: &str) -> Result<Option<bool>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value
            .as_bool()
            .map(Some)
            .ok_or_else(|| self.wrong(name, "true or false"))
    }

    /// A string, if present.
    pub(crate) fn opt_str(&self, name: &str) -> Result<Option<&str>, LoadError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        value
            .as_str()
            .map(Some)
            .ok_or_else(|| self.wrong(name, "a string"))
    }

    /// A nested object, if present.
    pub(crate) fn opt_object(&self, name: &str) -> Result<Option<Fields>, LoadError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields {
                prefix: format!("{}.", self.path(name)),
                map: map.clone(),
            })),
            Some(_) => Err(self.wrong(name, "an object")),
        }
    }
}

/// A JSON value for an error message, cut where it gets long.
pub(crate) fn shown(value: &Value) -> String {
    const LONGEST: usize = 120;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        None => text,
        Some((at, _)) => format!("{}…", &text[..at]),
    }
}
