//! Making a prompt layer.

use std::sync::Arc;

use llmserve_core::{Generate, GuardedRecorder, KeepPrefix, NoopRecorder, Recorder};

use super::super::census::{Reach, SharedPrefix};
use super::{PromptLayer, Shared};
use crate::error::BuildError;

/// The parts of a [`PromptLayer`].
#[must_use = "a layer is made by build()"]
pub struct PromptLayerBuilder {
    inner: Arc<dyn Generate>,
    keeper: Option<Arc<dyn KeepPrefix>>,
    automatic: usize,
    reach: Reach,
    recall: Vec<SharedPrefix>,
    recorder: Arc<dyn Recorder>,
}

impl PromptLayerBuilder {
    pub(super) fn new(inner: Arc<dyn Generate>) -> Self {
        Self {
            inner,
            keeper: None,
            automatic: 16,
            reach: Reach {
                prompt: 16 << 10,
                memory: 4 << 20,
                window: 10_000,
                requests: 4,
                bytes: 256,
            },
            recall: Vec::new(),
            recorder: Arc::new(NoopRecorder),
        }
    }

    /// Who keeps prefixes: an engine, or a [`WarmUp`](super::super::WarmUp) around what is none.
    /// Default: nobody; then names, templates and statistics are what the layer has.
    pub fn keeper(mut self, keeper: impl KeepPrefix + 'static) -> Self {
        self.keeper = Some(Arc::new(keeper));
        self
    }

    /// Most beginnings that are kept because many prompts share them, besides registered ones; 0
    /// keeps registered ones alone. Default: 16.
    pub fn automatic(mut self, prefixes: usize) -> Self {
        self.automatic = prefixes;
        self
    }

    /// How many prompts make a beginning shared. Default: 4.
    pub fn least_requests(mut self, requests: u32) -> Self {
        self.reach.requests = requests;
        self
    }

    /// How many bytes a shared beginning has at least, beyond a shorter one that more prompts
    /// share. Default: 256.
    pub fn least_bytes(mut self, bytes: usize) -> Self {
        self.reach.bytes = bytes;
        self
    }

    /// How many bytes of each prompt are looked at. Default: 16 KiB.
    pub fn reach(mut self, bytes: usize) -> Self {
        self.reach.prompt = bytes;
        self
    }

    /// Bytes of memory for statistics. Default: 4 MiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.reach.memory = bytes;
        self
    }

    /// Prompts after which old counts weigh half. Default: 10,000.
    pub fn window(mut self, prompts: u32) -> Self {
        self.reach.window = prompts;
        self
    }

    /// What [`shared`](PromptLayer::shared) told in an earlier life of the host: the best of it is
    /// kept from the first request on. Default: nothing.
    pub fn recall(mut self, shared: impl IntoIterator<Item = SharedPrefix>) -> Self {
        self.recall.extend(shared);
        self
    }

    /// Where the host's metrics go. Default: nowhere.
    pub fn recorder(mut self, recorder: Arc<dyn Recorder>) -> Self {
        self.recorder = recorder;
        self
    }

    /// Makes the layer.
    ///
    /// # Errors
    /// A number of prompts, of bytes or a window of which nothing would ever be shared.
    pub fn build(self) -> Result<PromptLayer, BuildError> {
        let Reach {
            prompt,
            memory,
            window,
            requests,
            bytes,
        } = self.reach;
        let zero = |field, given: u64, least: u64| {
            if given < least {
                return Err(BuildError::TooSmall {
                    field,
                    given,
                    least,
                });
            }
            Ok(())
        };
        // One prompt shares nothing with itself.
        zero("least_requests", u64::from(requests), 2)?;
        zero("least_bytes", bytes as u64, 1)?;
        zero("reach", prompt as u64, bytes as u64)?;
        zero("window", u64::from(window), 2 * u64::from(requests))?;
        zero(
            "max_bytes",
            memory as u64,
            (prompt as u64).saturating_mul(2),
        )?;
        let layer = PromptLayer {
            shared: Arc::new(Shared::new(
                self.inner,
                self.keeper,
                self.automatic,
                self.reach,
                &GuardedRecorder::new(self.recorder),
            )),
        };
        layer.shared.recall(&self.recall);
        Ok(layer)
    }
}
