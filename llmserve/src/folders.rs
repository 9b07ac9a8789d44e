//! Model folders by name: what a cache of models loads from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use llmserve_core::{Engine, Error, EventStream, Generate, LoadProgress, Loaded, Loader, Request};
use llmserve_model::LoadError;

use crate::serve::{Serve, ServeError, serve};

/// A [`Loader`] of Hugging Face folders, each [served](serve) by an engine of its own while it is
/// loaded.
///
/// An engine's share of a budget is what it counts as its own: weights, KV cache and the buffers of
/// its steps, whether or not they were touched yet
/// ([`EngineStats::memory_bytes`](llmserve_core::EngineStats::memory_bytes)). KV memory is 1 GiB
/// unless [`options`](Self::options) say otherwise, which is more than a small model's weights.
///
/// With [`Serve::packed_cache`] the second load of a model maps what the first has packed.
///
/// ```no_run
/// use llmserve::cache::models::ModelCache;
/// use llmserve::{Folders, Generate, Request};
///
/// let folders = Folders::new()
///     .model("bard", "examples/models/bard-2m")
///     .model("llama", "/models/llama-3.2-1b")
///     .options(|name, serve| match name {
///         "bard" => serve.kv_bytes(64 << 20),
///         _ => serve.kv_bytes(2 << 30).packed_cache(true),
///     });
/// let models = ModelCache::builder(folders, 8 << 30).default_model("bard").build()?;
/// let answer = models.generate(Request::text("HAMLET").model("llama").max_tokens(16)).wait()?;
/// println!("{}", answer.text());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Default)]
pub struct Folders {
    folders: BTreeMap<String, PathBuf>,
    options: Option<Box<Options>>,
}

type Options = dyn Fn(&str, Serve) -> Serve + Send + Sync;

impl Folders {
    /// No models yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the model in `folder`, or replaces that of this name. The folder is looked at when the
    /// model is asked for.
    pub fn model(mut self, name: impl Into<String>, folder: impl AsRef<Path>) -> Self {
        self.folders.insert(name.into(), folder.as_ref().to_owned());
        self
    }

    /// Adds every folder in `dir` that has a `config.json`, each under its own name.
    ///
    /// # Errors
    /// What the system says of a `dir` that cannot be read.
    pub fn models_in(mut self, dir: impl AsRef<Path>) -> std::io::Result<Self> {
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let path = entry.path();
            if path.join("config.json").is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                self = self.model(name, path);
            }
        }
        Ok(self)
    }

    /// How models are served, by their names; called for each load. Default: as [`serve`] does it.
    /// A model's name is set already, and nobody else may be told of its progress.
    pub fn options(
        mut self,
        options: impl Fn(&str, Serve) -> Serve + Send + Sync + 'static,
    ) -> Self {
        self.options = Some(Box::new(options));
        self
    }

    fn serve(&self, model: &str) -> Result<Serve, Error> {
        let folder = self.folders.get(model).ok_or_else(|| Error::UnknownModel {
            name: model.to_owned(),
            known: self.names().join(", "),
        })?;
        let serve = serve(folder).name(model);
        Ok(match &self.options {
            Some(options) => options(model, serve),
            None => serve,
        })
    }
}

impl Loader for Folders {
    fn names(&self) -> Vec<String> {
        self.folders.keys().cloned().collect()
    }

    fn knows(&self, model: &str) -> bool {
        self.folders.contains_key(model)
    }

    fn estimate(&self, model: &str) -> Result<u64, Error> {
        let estimate = self.serve(model)?.memory_estimate();
        estimate.map_err(|error| failed(model, error))
    }

    fn load(&self, model: &str, progress: &Arc<LoadProgress>) -> Result<Loaded, Error> {
        let serve = self.serve(model)?.progress(progress.clone());
        let engine = serve.build().map_err(|error| failed(model, error))?;
        let bytes = engine.stats().memory_bytes;
        let owned = Owned(engine);
        // From here on its drop ends the engine.
        progress.check()?;
        Ok(Loaded::new(owned, bytes))
    }
}

fn failed(model: &str, error: ServeError) -> Error {
    match error {
        ServeError::Load(LoadError::Cancelled) => Error::Cancelled,
        error => Error::LoadFailed {
            model: model.to_owned(),
            reason: error.to_string(),
            retry_after: None,
        },
    }
}

impl std::fmt::Debug for Folders {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Folders")
            .field("folders", &self.folders)
            .finish_non_exhaustive()
    }
}

/// An engine that goes with its only handle: its thread has ended, and what it held is free, when
/// the drop returns.
struct Owned(Engine);

impl Generate for Owned {
    fn generate(&self, request: Request) -> EventStream {
        self.0.generate(request)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}
