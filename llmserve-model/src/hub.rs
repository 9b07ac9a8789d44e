//! Models by name from the Hugging Face hub, or any server that speaks its protocol.

mod error;
#[cfg(test)]
mod tests;
mod watch;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hf_hub::progress::Progress;
use hf_hub::repository::RepoTypeModel;
use hf_hub::{HFClient, HFClientSync, HFError, HFRepositorySync, split_id};

use crate::config::fields::read_bounded;
use crate::weights::{INDEX, SINGLE, ShardMap};
use watch::Watch;

pub use error::HubError;
pub use watch::FetchProgress;

/// Where the hub is.
const ENDPOINT: &str = "https://huggingface.co";
/// The branch that is served by default.
const REVISION: &str = "main";
/// Files that a model may lack.
const OPTIONAL: [&str; 4] = [
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
];
/// As [`crate::Weights`] accepts.
const MAX_INDEX: u64 = 256 << 20;

/// Fetches models into the hub's cache and says where they lie.
///
/// ```text
///  "org/name" ─► config.json (which pins the commit) ─► tokenizer, template ─► weights
///                                                                               │
///  cache/models--org--name/snapshots/COMMIT/ ◄────── each file once, by content ┘
/// ```
///
/// The cache has the layout of the `huggingface_hub` tools and is shared with them. Only what
/// [`crate::ModelFolder`] reads is fetched. All files come from one commit, even when the branch
/// moves meanwhile.
///
/// A token is used only if it is given here, the endpoint is `https://huggingface.co` unless another
/// is given, and the cache is `~/.cache/huggingface/hub` unless another is given, whatever the
/// environment variables of the `huggingface_hub` tools say. What the environment does decide is
/// where `~` is (`HOME`), through which proxy requests go (`HTTPS_PROXY` and its like), and what
/// the client adds to its name in requests (`HF_HUB_USER_AGENT_ORIGIN`).
///
/// Calls block; from asynchronous code use a blocking task. A [`FetchProgress`] may not call back
/// into the `Hub`.
///
/// ```no_run
/// use llmserve_model::{CpuOptions, Hub, ModelFolder};
/// let hub = Hub::builder().revision("main").build()?;
/// let folder = hub.fetch("HuggingFaceTB/SmolLM2-135M-Instruct")?;
/// let model = ModelFolder::load(&folder, CpuOptions::default())?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Hub {
    client: HFClientSync,
    revision: String,
    token: Option<String>,
    offline: bool,
    progress: Option<Arc<dyn FetchProgress>>,
}

/// Options of a [`Hub`].
#[must_use]
pub struct HubBuilder {
    revision: String,
    token: Option<String>,
    cache_dir: Option<PathBuf>,
    endpoint: String,
    offline: bool,
    retries: usize,
    progress: Option<Arc<dyn FetchProgress>>,
}

impl HubBuilder {
    /// A branch, tag or commit. Default: `main`.
    pub fn revision(mut self, revision: impl Into<String>) -> Self {
        self.revision = revision.into();
        self
    }

    /// The access token for private and gated models. It appears in no error and no debug output.
    /// Default: none. It goes over `https` only, or to this machine.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Where models are kept. Default: `~/.cache/huggingface/hub`.
    pub fn cache_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.cache_dir = Some(dir.into());
        self
    }

    /// Another server of the same protocol, such as a mirror. Default: `https://huggingface.co`.
    pub fn endpoint(mut self, url: impl Into<String>) -> Self {
        self.endpoint = url.into();
        self
    }

    /// Serves from the cache alone and opens no connection. The configuration and all weights must
    /// be there. Of files that a model may lack, such as its tokenizer, the cache does not say
    /// whether the model lacks them or they were never fetched: what is there is served, and a
    /// warning names the others. Default: off.
    pub fn offline(mut self, offline: bool) -> Self {
        self.offline = offline;
        self
    }

    /// How often a request that failed for a passing reason is repeated, with growing pauses.
    /// Default: 3.
    pub fn retries(mut self, retries: usize) -> Self {
        self.retries = retries;
        self
    }

    /// Who is told how a download gets on. Default: nobody.
    pub fn progress(mut self, progress: Arc<dyn FetchProgress>) -> Self {
        self.progress = Some(progress);
        self
    }

    /// Checks the options and starts the client's background thread, which ends with the `Hub`.
    ///
    /// # Errors
    /// [`HubError::InvalidOption`] naming the option; [`HubError::Client`].
    pub fn build(self) -> Result<Hub, HubError> {
        let invalid = |option, reason: String| Err(HubError::InvalidOption { option, reason });
        if let Err(reason) = check_revision(&self.revision) {
            return invalid("revision", format!("{:?} {reason}", self.revision));
        }
        if let Some(token) = &self.token
            && (token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()))
        {
            let reason = "it is empty or has characters that no token has, such as spaces";
            return invalid("token", reason.to_owned());
        }
        let host = self.endpoint.split_once("://");
        if !host.is_some_and(|(scheme, host)| {
            matches!(scheme, "http" | "https")
                && !host.is_empty()
                // Neither a user nor what readers of addresses disagree about.
                && host.bytes().all(|b| b.is_ascii_graphic() && b != b'@' && b != b'\\')
        }) {
            let reason = "expected http:// or https:// and a host, without a user";
            return invalid("endpoint", reason.to_owned());
        }
        if self.token.is_some() && !keeps_secrets(&self.endpoint) {
            let reason = "a token would cross the network unencrypted: use https://";
            return invalid("endpoint", reason.to_owned());
        }
        let cache_dir = match self.cache_dir {
            Some(dir) => dir,
            None => match std::env::home_dir() {
                Some(home) => home.join(".cache/huggingface/hub"),
                None => {
                    return invalid("cache_dir", "there is no home folder: name one".to_owned());
                }
            },
        };
        let client = HFClient::builder()
            .endpoint(self.endpoint)
            .cache_dir(cache_dir)
            .retry_max_attempts(self.retries)
            // Without a token the library would look for one in the environment. It sends none that
            // cannot stand in a header, and a line break cannot.
            .token(self.token.clone().unwrap_or_else(|| "\n".to_owned()))
            .user_agent(concat!("llmserve/", env!("CARGO_PKG_VERSION")))
            .build_sync()
            .map_err(|e| HubError::Client {
                reason: error::redacted(&e.to_string(), self.token.as_deref()),
            })?;
        Ok(Hub {
            client,
            revision: self.revision,
            token: self.token,
            offline: self.offline,
            progress: self.progress,
        })
    }
}

impl Hub {
    /// The default options.
    pub fn builder() -> HubBuilder {
        HubBuilder {
            revision: REVISION.to_owned(),
            token: None,
            cache_dir: None,
            endpoint: ENDPOINT.to_owned(),
            offline: false,
            retries: 3,
            progress: None,
        }
    }

    /// Fetches what is not in the cache yet of the model `repository` (`org/name`), and returns the
    /// folder that holds it, for [`crate::ModelFolder`].
    ///
    /// When the hub cannot be reached, what the cache has is served, as in [`HubBuilder::offline`].
    ///
    /// # Errors
    /// [`HubError`] naming the repository and file: [`HubError::Unauthorized`],
    /// [`HubError::NotFound`], [`HubError::NoWeights`], [`HubError::NotCached`] in offline mode,
    /// [`HubError::Unreachable`] and others.
    pub fn fetch(&self, repository: &str) -> Result<PathBuf, HubError> {
        if let Err(reason) = check_repository(repository) {
            return Err(HubError::InvalidRepository {
                id: repository.to_owned(),
                reason,
            });
        }
        match self.gather(repository, self.offline) {
            Err(HubError::Unreachable { file, reason, .. }) if !self.offline => {
                // A model whose configuration and weights are here is served while the hub is down.
                match self.gather(repository, true) {
                    Ok(folder) => {
                        tracing::warn!(repository, reason, "hub unreachable, serving the cache");
                        Ok(folder)
                    }
                    Err(_) => Err(HubError::Unreachable {
                        repository: repository.to_owned(),
                        file,
                        reason,
                    }),
                }
            }
            result => result,
        }
    }

    fn gather(&self, repository: &str, offline: bool) -> Result<PathBuf, HubError> {
        let (owner, name) = split_id(repository);
        let mut fetch = Fetch {
            hub: self,
            repository,
            api: self.client.model(owner, name),
            revision: self.revision.clone(),
            offline,
        };
        let config = fetch.required("config.json")?;
        let folder = config.parent().unwrap_or(Path::new("")).to_owned();
        // The branch may move before the last file is here.
        if let Some(commit) = folder.file_name().and_then(|name| name.to_str())
            && commit.len() == 40
            && commit.bytes().all(|b| b.is_ascii_hexdigit())
        {
            fetch.revision = commit.to_owned();
        }
        let mut absent = Vec::new();
        for file in OPTIONAL {
            if fetch.optional(file)?.is_none() {
                absent.push(file);
            }
        }
        if fetch.optional(SINGLE)?.is_none() {
            let Some(index) = fetch.optional(INDEX)? else {
                return Err(fetch.no_weights());
            };
            let text = read_bounded(&index, "the index", MAX_INDEX)?;
            for shard in ShardMap::parse(&index, &text)?.shards() {
                fetch.required(shard)?;
            }
        }
        if offline && !absent.is_empty() {
            tracing::warn!(
                repository,
                ?absent,
                "served from the cache without these: the model lacks them, or they were never fetched"
            );
        }
        Ok(folder)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("revision", &self.revision)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for HubBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubBuilder")
            .field("revision", &self.revision)
            .field("token", &self.token.as_ref().map(|_| "…"))
            .field("cache_dir", &self.cache_dir)
            .field("endpoint", &self.endpoint)
            .field("offline", &self.offline)
            .field("retries", &self.retries)
            .finish_non_exhaustive()
    }
}

/// One model on its way into the cache.
struct Fetch<'a> {
    hub: &'a Hub,
    repository: &'a str,
    api: HFRepositorySync<RepoTypeModel>,
    revision: String,
    offline: bool,
}

impl Fetch<'_> {
    fn required(&self, file: &str) -> Result<PathBuf, HubError> {
        self.file(file).map_err(|e| self.error(e, file))?.checked()
    }

    fn optional(&self, file: &str) -> Result<Option<PathBuf>, HubError> {
        match self.file(file) {
            Ok(fetched) => fetched.checked().map(Some),
            Err(HFError::EntryNotFound { .. }) => Ok(None),
            // Whether the model lacks the file or the cache does, nobody can tell offline.
            Err(HFError::LocalEntryNotFound { .. }) if self.offline => Ok(None),
            Err(e) => Err(self.error(e, file)),
        }
    }

    fn file(&self, file: &str) -> Result<watch::Fetched, HFError> {
        let watch = Arc::new(Watch::new(file, self.hub.progress.clone()));
        let path = self
            .api
            .download_file()
            .filename(file)
            .revision(self.revision.as_str())
            .local_files_only(self.offline)
            .progress(Progress::from(Arc::clone(&watch)))
            .send()?;
        Ok(watch.finish(path))
    }

    fn error(&self, error: HFError, file: &str) -> HubError {
        HubError::of(
            error,
            self.repository,
            &self.revision,
            file,
            self.hub.token.as_deref(),
        )
    }

    fn no_weights(&self) -> HubError {
        let (repository, revision) = (self.repository.to_owned(), self.revision.clone());
        match self.offline {
            true => HubError::NotCached {
                repository,
                revision,
                file: SINGLE.to_owned(),
            },
            false => HubError::NoWeights {
                repository,
                revision,
            },
        }
    }
}

/// Whether what is sent to `endpoint` is encrypted or stays on this machine.
fn keeps_secrets(endpoint: &str) -> bool {
    let Some(rest) = endpoint.strip_prefix("http://") else {
        return true;
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.eq_ignore_ascii_case("localhost")
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// A revision becomes part of a path in the cache.
fn check_revision(revision: &str) -> Result<(), &'static str> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-+@".contains(&b))
    };
    match revision.split('/').all(plain) && revision.len() <= 256 {
        true => Ok(()),
        false => Err("is not a branch, tag or commit"),
    }
}

/// So does a repository's name.
fn check_repository(id: &str) -> Result<(), &'static str> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    if id.len() > 200 {
        return Err("it is too long");
    }
    match id.split('/').count() <= 2 && id.split('/').all(plain) {
        true => Ok(()),
        false => Err("expected org/name of letters, digits, '.', '_' and '-'"),
    }
}
