//! What becomes of a text before the encoder sees it, and of what the encoder makes of it: the files
//! of the `sentence-transformers` project.
//!
//! ```text
//!  modules.json                        Transformer, Pooling, perhaps Normalize: no other parts
//!  sentence_bert_config.json           tokens at most, lower-casing
//!  1_Pooling/config.json               mean of all tokens, or the first one
//!  config_sentence_transformers.json   no prompt in front, cosine
//!  tokenizer_config.json               which end of a long text is cut
//! ```

use std::path::{Component, Path, PathBuf};

use serde_json::Value;
use xxhash_rust::xxh3::Xxh3;

use super::config::EncoderConfig;
use crate::config::fields::{Fields, read_bounded, read_object, shown};
use crate::error::LoadError;
use crate::weights::fingerprint::number;

/// Far above any real list of modules.
const MAX_MODULES: u64 = 1 << 20;

/// How the vectors of a text's tokens become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pooling {
    /// Their mean.
    Mean,
    /// The first one's.
    First,
}

/// Where an encoder's parts lie.
#[derive(Debug)]
pub(super) struct Modules {
    /// The folder of configuration, weights and tokenizer.
    pub(super) transformer: PathBuf,
    pooling: PathBuf,
    /// Whether the folder itself says that vectors are brought to length 1.
    normalised: bool,
}

/// What is done around the encoder.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Recipe {
    pub(super) pooling: Pooling,
    /// Tokens of a text at most, those that frame it among them; the rest is cut.
    pub(super) max_tokens: usize,
    /// Whether texts are lower-cased before the tokenizer has them.
    pub(super) lowercase: bool,
    /// Whether a long text loses its beginning, and not its end.
    pub(super) cut_front: bool,
}

impl Modules {
    pub(super) fn read(dir: &Path) -> Result<Self, LoadError> {
        let path = dir.join("modules.json");
        let bytes = read_bounded(
            &path,
            "the list of modules of a sentence embedder (modules.json, as sentence-transformers \
             saves it; without it nothing says how tokens are pooled)",
            MAX_MODULES,
        )?;
        let corrupt = |reason: String| LoadError::Corrupt {
            path: path.clone(),
            reason,
        };
        let list: Value =
            serde_json::from_slice(&bytes).map_err(|e| corrupt(format!("invalid JSON: {e}")))?;
        let list = list
            .as_array()
            .ok_or_else(|| corrupt("it is not a list of modules".to_owned()))?;
        let mut found = Vec::with_capacity(list.len());
        for module in list {
            let text = |name: &str| module.get(name).and_then(Value::as_str);
            let (Some(kind), Some(at)) = (text("type"), text("path")) else {
                return Err(corrupt(format!(
                    "{}: a module has a type and a path",
                    shown(module)
                )));
            };
            found.push((kind, folder(dir, at).map_err(corrupt)?));
        }
        let named = |kind: &str, name: &str| {
            // A module of somebody else's may do anything, whatever its name.
            kind.starts_with("sentence_transformers.") && kind.rsplit('.').next() == Some(name)
        };
        match found.as_slice() {
            [(first, transformer), (second, pooling), rest @ ..]
                if named(first, "Transformer")
                    && named(second, "Pooling")
                    && rest.len() <= 1
                    && rest.iter().all(|(kind, _)| named(kind, "Normalize")) =>
            {
                Ok(Self {
                    transformer: transformer.clone(),
                    pooling: pooling.clone(),
                    normalised: !rest.is_empty(),
                })
            }
            _ => {
                let kinds: Vec<_> = found.iter().map(|(kind, _)| *kind).collect();
                Err(LoadError::unsupported(
                    "modules.json",
                    format!(
                        "{}; supported: sentence_transformers' Transformer, Pooling, and Normalize \
                         after it or not",
                        kinds.join(", ")
                    ),
                ))
            }
        }
    }
}

/// A folder inside of `dir`: a stranger's file points nowhere else.
fn folder(dir: &Path, path: &str) -> Result<PathBuf, String> {
    let inside = Path::new(path)
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    match inside {
        true => Ok(dir.join(path)),
        false => Err(format!("the path {path:?} leads out of the folder")),
    }
}

impl Recipe {
    pub(super) fn read(
        dir: &Path,
        modules: &Modules,
        config: &EncoderConfig,
    ) -> Result<Self, LoadError> {
        refuse_prompts(dir, modules.normalised)?;
        let object = |path: PathBuf| read_object(&path);
        let tokenizer = object(modules.transformer.join("tokenizer_config.json"))?;
        let tokenizer = tokenizer.unwrap_or_default();
        let transformer = object(modules.transformer.join("sentence_bert_config.json"))?;
        let transformer = transformer.unwrap_or_default();
        let max_tokens = match transformer.opt_size("max_seq_length", usize::MAX)? {
            Some(most) if most > config.positions => {
                return Err(transformer.wrong(
                    "max_seq_length",
                    &format!("at most max_position_embeddings, {}", config.positions),
                ));
            }
            Some(most) => most,
            // Tokenizers without a limit of their own say so with a number beyond any integer.
            None => match tokenizer.opt_number("model_max_length")? {
                Some(most) if most < 1.0 => {
                    return Err(tokenizer.wrong("model_max_length", "a number of at least 1"));
                }
                Some(most) if most < config.positions as f64 => most as usize,
                _ => config.positions,
            },
        };
        Ok(Self {
            pooling: pooling(&modules.pooling, config.hidden)?,
            max_tokens,
            lowercase: transformer.opt_bool("do_lower_case")?.unwrap_or(false),
            cut_front: match tokenizer.opt_str("truncation_side")? {
                None | Some("right") => false,
                Some("left") => true,
                Some(_) => return Err(tokenizer.wrong("truncation_side", "left or right")),
            },
        })
    }

    /// Adds everything that changes a vector to a hash.
    pub(super) fn hash(&self, all: &mut Xxh3) {
        number(
            all,
            match self.pooling {
                Pooling::Mean => 0,
                Pooling::First => 1,
            },
        );
        number(all, self.max_tokens as u64);
        number(all, u64::from(self.lowercase));
        number(all, u64::from(self.cut_front));
    }
}

/// A prompt that goes in front of every text, and likeness that is not told by cosine.
fn refuse_prompts(dir: &Path, normalised: bool) -> Result<(), LoadError> {
    let fields = read_object(&dir.join("config_sentence_transformers.json"))?.unwrap_or_default();
    if let Some(prompt) = fields.get("default_prompt_name") {
        return Err(LoadError::unsupported(
            "default_prompt_name",
            format!(
                "{}; supported: null, texts as they are. Put the prompt in front of the texts, if \
                 they need one, and null here",
                shown(prompt)
            ),
        ));
    }
    match fields.opt_str("similarity_fn_name")? {
        // Of vectors of length 1, all of them put pairs into the same order.
        None | Some("cosine") => Ok(()),
        Some(_) if normalised => Ok(()),
        Some(other) => Err(LoadError::unsupported(
            "similarity_fn_name",
            format!("{other:?} of vectors that are not normalised; supported: cosine"),
        )),
    }
}

fn pooling(dir: &Path, hidden: usize) -> Result<Pooling, LoadError> {
    const MODE: &str = "pooling_mode";
    let path = dir.join("config.json");
    let fields = read_object(&path)?.ok_or_else(|| LoadError::Missing {
        what: "the configuration of the pooling that modules.json names".to_owned(),
        path,
    })?;
    for name in ["word_embedding_dimension", "embedding_dimension"] {
        if fields
            .opt_size(name, usize::MAX)?
            .is_some_and(|d| d != hidden)
        {
            return Err(fields.wrong(name, &format!("config.json's hidden_size, {hidden}")));
        }
    }
    let mut modes = modes(&fields)?;
    if let Some(mode) = fields.opt_str(MODE)? {
        modes.push(mode.to_owned());
    }
    match modes.as_slice() {
        [mode] if mode == "mean_tokens" || mode == "mean" => Ok(Pooling::Mean),
        [mode] if mode == "cls_token" || mode == "cls" => Ok(Pooling::First),
        [] => Err(fields.wrong("pooling_mode_mean_tokens", "true, or another mode")),
        several => Err(LoadError::unsupported(
            MODE,
            format!(
                "{}; supported: mean_tokens, or cls_token, one of them",
                several.join(" with ")
            ),
        )),
    }
}

/// The modes that are switched on, by their names without what all begin with.
fn modes(fields: &Fields) -> Result<Vec<String>, LoadError> {
    let mut modes = Vec::new();
    for name in fields.names() {
        if let Some(mode) = name.strip_prefix("pooling_mode_")
            && fields.opt_bool(name)? == Some(true)
        {
            modes.push(mode.to_owned());
        }
    }
    Ok(modes)
}
