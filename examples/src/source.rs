//! Where a model comes from: the embedded one, a folder, or the hub.

use std::path::PathBuf;

use clap::Args;

/// Which model, and how to reach the hub for it.
#[derive(Args, Clone, Debug)]
pub struct Source {
    /// A model folder, or a hub id ORG/NAME (feature `hub`). Default: the embedded model.
    #[arg(long, value_name = "DIR|HUB_ID")]
    pub model: Option<String>,
    #[cfg(feature = "hub")]
    #[command(flatten)]
    hub: hub::HubArgs,
}

/// The model that travels with the repository: 2.4 M parameters that speak like Shakespeare.
pub fn embedded_model() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/models/bard-2m"))
}

impl Source {
    /// The folder of the model named on the command line, fetched if it has to be.
    ///
    /// # Errors
    /// A text that says what was looked for and what to do.
    pub fn folder(&self) -> Result<PathBuf, String> {
        let Some(name) = self.model.as_deref() else {
            return Ok(embedded_model());
        };
        let folder = PathBuf::from(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        let is_id = name.matches('/').count() == 1 && !name.starts_with(['.', '/', '~']);
        if folder.exists() || !is_id {
            return Err(format!(
                "--model {name}: not a folder; give a model folder or a hub id ORG/NAME"
            ));
        }
        self.fetch(name)
    }

    #[cfg(feature = "hub")]
    fn fetch(&self, id: &str) -> Result<PathBuf, String> {
        let fetched = self.hub.open()?.fetch(id);
        fetched.map_err(|error| format!("--model {id}: {error}"))
    }

    #[cfg(not(feature = "hub"))]
    fn fetch(&self, id: &str) -> Result<PathBuf, String> {
        Err(format!(
            "--model {id}: no such folder, and this build cannot ask the hub: \
             add `--features llmserve-examples/hub`"
        ))
    }
}

#[cfg(feature = "hub")]
mod hub {
    use std::collections::HashMap;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use clap::Args;
    use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
    use llmserve::model::{FetchProgress, Hub};

    /// How to reach the hub.
    #[derive(Args, Clone, Debug)]
    pub(super) struct HubArgs {
        /// A branch, tag or commit of the hub's repository.
        #[arg(long, value_name = "REV", default_value = "main")]
        revision: String,
        /// A file that holds the hub's access token, for gated and private models.
        #[arg(long, value_name = "FILE")]
        token_file: Option<PathBuf>,
        /// Where fetched models are kept. Default: where the hub's own tools keep them.
        #[arg(long, value_name = "DIR")]
        hub_cache: Option<PathBuf>,
        /// Another server that speaks the hub's protocol.
        #[arg(long, value_name = "URL")]
        hub_endpoint: Option<String>,
        /// Ask nobody: serve what was fetched before.
        #[arg(long)]
        offline: bool,
    }

    impl HubArgs {
        pub(super) fn open(&self) -> Result<Hub, String> {
            let mut hub = Hub::builder()
                .revision(self.revision.as_str())
                .offline(self.offline)
                .progress(Arc::new(Bars::default()));
            if let Some(path) = &self.token_file {
                // A token on the command line would be seen by every user of the machine.
                let token = std::fs::read_to_string(path)
                    .map_err(|error| format!("--token-file {}: {error}", path.display()))?;
                hub = hub.token(token.trim());
            }
            if let Some(dir) = &self.hub_cache {
                hub = hub.cache_dir(dir);
            }
            if let Some(url) = &self.hub_endpoint {
                hub = hub.endpoint(url.as_str());
            }
            hub.build().map_err(|error| error.to_string())
        }
    }

    /// A bar for each file.
    #[derive(Default)]
    struct Bars {
        all: MultiProgress,
        files: Mutex<HashMap<String, ProgressBar>>,
    }

    impl FetchProgress for Bars {
        fn advanced(&self, file: &str, done: u64, total: u64) {
            let Ok(mut files) = self.files.lock() else {
                return;
            };
            let bar = files.entry(file.to_owned()).or_insert_with(|| {
                let bar = self.all.add(ProgressBar::new(total));
                let template = "{msg:30} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style);
                }
                bar.with_message(file.to_owned())
            });
            bar.set_length(total);
            bar.set_position(done);
            if done >= total {
                bar.finish();
            }
        }
    }
}
