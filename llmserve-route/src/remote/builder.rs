//! Options of a [`RemoteEndpoint`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::runtime::Handle;

use super::dialect::Dialect;
use super::endpoint::{RemoteEndpoint, Shared};
use super::key::ApiKey;
use super::runtime::Runtime;
use super::timeouts::Timeouts;

/// The largest event unless said otherwise: a prompt's ids, and more.
const MAX_EVENT: usize = 16 << 20;

/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(90);

/// Why an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteBuildError {
    /// The base URL is none that can be called.
    #[error("the address of endpoint {endpoint} cannot be used: {reason}")]
    Address {
        /// The endpoint's name.
        endpoint: String,
        /// What is wrong; the address itself is not told.
        reason: &'static str,
    },
    /// The key has characters that no header can carry.
    #[error("the key of endpoint {endpoint} has characters that no HTTP header can carry")]
    Key {
        /// The endpoint's name.
        endpoint: String,
    },
    /// TLS or the resolver could not be set up.
    #[error("the HTTP client of endpoint {endpoint} could not be set up")]
    Client {
        /// The endpoint's name.
        endpoint: String,
        /// Why.
        source: reqwest::Error,
    },
}

/// Builds a [`RemoteEndpoint`].
pub struct RemoteBuilder {
    name: String,
    base: String,
    dialect: Dialect,
    model: Option<String>,
    key: Option<ApiKey>,
    timeouts: Timeouts,
    max_event: usize,
    max_idle: usize,
    address: Option<SocketAddr>,
    runtime: Option<Handle>,
}

impl RemoteBuilder {
    pub(super) fn new(name: String, base: String) -> Self {
        Self {
            name,
            base,
            dialect: Dialect::default(),
            model: None,
            key: None,
            timeouts: Timeouts::default(),
            max_event: MAX_EVENT,
            max_idle: usize::MAX,
            address: None,
            runtime: None,
        }
    }

    /// What it speaks; [`Dialect::OpenAi`] by default.
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    /// What it calls the model, whatever the request calls it. By default the request's own name is
    /// sent.
    pub fn model(mut self, name: impl Into<String>) -> Self {
        self.model = Some(name.into());
        self
    }

    /// The key it wants; none by default.
    pub fn key(mut self, key: impl Into<ApiKey>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// How long it may take.
    pub fn timeouts(mut self, timeouts: Timeouts) -> Self {
        self.timeouts = timeouts;
        self
    }

    /// The largest event that is read, in bytes; 16 MiB by default.
    pub fn max_event(mut self, bytes: usize) -> Self {
        self.max_event = bytes;
        self
    }

    /// Most idle connections that are kept for the next requests; any number by default, each for
    /// 90 s.
    pub fn max_idle(mut self, connections: usize) -> Self {
        self.max_idle = connections;
        self
    }

    /// Where to connect to, whatever host and port the base URL names.
    pub fn address(mut self, address: SocketAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The host's runtime, with its time and I/O enabled, to keep connections on. By default the
    /// endpoint has a thread of its own, begun with the first request.
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// The endpoint. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RemoteBuildError`].
    pub fn build(self) -> Result<RemoteEndpoint, RemoteBuildError> {
        let endpoint = self.name.clone();
        let wrong = |reason| RemoteBuildError::Address {
            endpoint: endpoint.clone(),
            reason,
        };
        let mut base = Url::parse(&self.base).map_err(|_| wrong("it is no URL"))?;
        if !matches!(base.scheme(), "http" | "https") || base.host().is_none() {
            return Err(wrong("it is neither http nor https"));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(wrong("it has a user or password in it: give a key instead"));
        }
        if base.query().is_some() || base.fragment().is_some() {
            return Err(wrong("it has a query or fragment"));
        }
        if base.path() == "/" {
            base.set_path(self.dialect.default_path());
        }
        let mut headers = HeaderMap::new();
        self.dialect.headers(&mut headers);
        if let Some(key) = &self.key {
            let set = self.dialect.authorise(key, &mut headers);
            set.ok_or_else(|| RemoteBuildError::Key {
                endpoint: endpoint.clone(),
            })?;
        }
        let mut client = Client::builder()
            // Keys and prompts go where the host said, and nowhere else.
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .connect_timeout(self.timeouts.connect)
            .pool_max_idle_per_host(self.max_idle)
            .pool_idle_timeout(IDLE);
        if let Some(address) = self.address {
            // What a name resolves to has no port of its own: the URL's is taken.
            let _ = base.set_port(Some(address.port()));
            if let Some(host) = base.host_str() {
                client = client.resolve(host, address);
            }
        }
        let client = client
            .build()
            .map_err(|source| RemoteBuildError::Client { endpoint, source })?;
        Ok(RemoteEndpoint {
            shared: Arc::new(Shared {
                name: self.name,
                base,
                dialect: self.dialect,
                model: self.model,
                headers,
                timeouts: self.timeouts,
                max_event: self.max_event,
                client,
                runtime: Runtime::new(self.runtime),
            }),
        })
    }
}

impl std::fmt::Debug for RemoteBuilder {
    /// Not the address: there may be secrets in one that is not checked yet.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RemoteBuilder")
            .field("name", &self.name)
            .field("dialect", &self.dialect)
            .finish_non_exhaustive()
    }
}
