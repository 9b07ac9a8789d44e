//! Speculation for [`serve`](crate::serve): which proposer, and how deep.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use llmserve_core::{
    FixedDepth, IdentityRoot, MAX_DRAFT_DEPTH, Model, Proposer, Speculation, Tokenizer,
    Verification,
};
use llmserve_kv::PagedKv;
use llmserve_model::{CpuModel, CpuOptions, DType, ModelFolder};
use llmserve_sched::speculation::{AdaptiveDepth, Composite, DraftModel, NGram};

use crate::serve::{ServeError, dtype_of};

/// How many tokens are drafted a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SpecDepth {
    /// As many as pay, from measured acceptance and cost; none where none do.
    #[default]
    Auto,
    /// Always this many, at most [`MAX_DRAFT_DEPTH`].
    Fixed(usize),
}

impl From<usize> for SpecDepth {
    fn from(drafts: usize) -> Self {
        Self::Fixed(drafts)
    }
}

/// A number, or `auto`.
///
/// ```
/// use llmserve::SpecDepth;
/// assert_eq!("auto".parse(), Ok(SpecDepth::Auto));
/// assert_eq!("4".parse(), Ok(SpecDepth::Fixed(4)));
/// assert!("four".parse::<SpecDepth>().is_err());
/// ```
impl FromStr for SpecDepth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            number => match number.parse() {
                Ok(drafts) if drafts <= MAX_DRAFT_DEPTH => Ok(Self::Fixed(drafts)),
                _ => Err(format!(
                    "{number:?} is neither auto nor a number up to {MAX_DRAFT_DEPTH}"
                )),
            },
        }
    }
}

/// What was asked for.
#[derive(Default)]
pub(crate) struct Speculative {
    pub(crate) draft: Option<PathBuf>,
    pub(crate) ngram: bool,
    pub(crate) depth: Option<SpecDepth>,
    pub(crate) verification: Verification,
}

/// What the draft model shares with its target.
pub(crate) struct Target<'a> {
    pub(crate) model: &'a CpuModel,
    pub(crate) options: &'a CpuOptions,
    pub(crate) dtype: Option<DType>,
    pub(crate) blocks: usize,
    pub(crate) block_size: usize,
    pub(crate) prefix_caching: bool,
    pub(crate) tokenizer: Option<&'a dyn Tokenizer>,
}

impl Speculative {
    /// The parts; none if nobody shall draft.
    pub(crate) fn build(self, target: &Target<'_>) -> Result<Option<Speculation>, ServeError> {
        let refused = |reason: &str| Err(ServeError::Speculation(reason.to_owned()));
        let depth = self.depth.unwrap_or_default();
        if matches!(depth, SpecDepth::Fixed(drafts) if drafts > MAX_DRAFT_DEPTH) {
            return refused(&format!("spec_depth is at most {MAX_DRAFT_DEPTH}"));
        }
        let draft = self.draft.as_deref();
        let draft = draft
            .map(|folder| draft_model(folder, target))
            .transpose()?;
        let proposer: Box<dyn Proposer> = match (self.ngram, draft) {
            (true, Some(draft)) => Box::new(Composite::new(NGram::default(), draft)),
            (true, None) => Box::new(NGram::default()),
            (false, Some(draft)) => Box::new(draft),
            (false, None) if self.depth.is_some() || self.verification != Verification::Coupled => {
                return refused("a depth or verification without a proposer: give draft or ngram");
            }
            (false, None) => return Ok(None),
        };
        let speculation = Speculation::new(proposer).verification(self.verification);
        Ok(Some(match depth {
            SpecDepth::Auto => speculation.depth(AdaptiveDepth::default()),
            SpecDepth::Fixed(drafts) => speculation.depth(FixedDepth(drafts)),
        }))
    }
}

/// The model in `folder` with KV of its own: as many blocks as the target's, each smaller.
fn draft_model(folder: &Path, target: &Target<'_>) -> Result<DraftModel, ServeError> {
    let folder = ModelFolder::open(folder)?;
    let mut options = target.options.clone();
    options.name = folder
        .path
        .file_name()
        .map(|name| name.to_string_lossy().into_owned());
    options.dtype = dtype_of(target.dtype, &folder);
    let mut loaded = folder.into_cpu(options)?;
    loaded.model.share_threads(target.model);
    if let (Some(ours), Some(theirs)) = (target.tokenizer, &loaded.tokenizer) {
        same_tokens(ours, &**theirs)?;
    }
    let info = loaded.model.info();
    let group = &info.kv.groups[0];
    let kv = PagedKv::builder()
        .blocks(target.blocks)
        .block_size(target.block_size)
        .root(IdentityRoot::new(
            info.fingerprint,
            &group.layout,
            target.block_size,
        ))
        .prefix_caching(target.prefix_caching)
        .build()?;
    Ok(DraftModel::new(loaded.model, kv))
}

/// Ids that mean other things would be drafts that are never right: said at once, not by a
/// speed that disappoints.
fn same_tokens(ours: &dyn Tokenizer, theirs: &dyn Tokenizer) -> Result<(), ServeError> {
    let text = "Speculation: the 3 quick brown foxes, naïve or not, jump over\n\tlazy_dogs(42);";
    let encode = |tokenizer: &dyn Tokenizer| tokenizer.encode(text, false).ok();
    if encode(ours) == encode(theirs) {
        return Ok(());
    }
    Err(ServeError::Speculation(
        "the draft model has another tokenizer than its target".to_owned(),
    ))
}
