//! Where endpoints are: who has come, and who has gone.
//!
//! A host turns what is found into replicas, and takes those away that are gone:
//!
//! ```no_run
//! use std::time::Duration;
//! use llmserve_route::remote::RemoteEndpoint;
//! use llmserve_route::remote::discovery::{Change, Dns, Found};
//!
//! let service = Dns::new("http://model.default.svc.cluster.local:8000/v1")?;
//! let watch = service.every(Duration::from_secs(5)).watch(None, |changes| {
//!     for change in changes {
//!         match change {
//!             Change::Added(found) => drop(found.endpoint().build()), // … into the router
//!             Change::Removed(found) => println!("{} is gone", found.name),
//!         }
//!     }
//! })?;
//! # drop(watch);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod dns;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use tokio::sync::oneshot;

pub use dns::{Dns, DnsError};

use super::builder::RemoteBuilder;
use super::endpoint::RemoteEndpoint;
use super::runtime::Runtime;

/// An endpoint that was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Found {
    /// A name of its own: its address.
    pub name: String,
    /// Its base URL, with the host's name in it: certificates are for names.
    pub base_url: String,
    /// Where to connect to; none leaves it to the resolver.
    pub address: Option<SocketAddr>,
}

impl Found {
    /// An endpoint at `base_url`, wherever that resolves to.
    pub fn at(base_url: impl Into<String>) -> Self {
        let base_url = base_url.into();
        Self {
            name: base_url.clone(),
            base_url,
            address: None,
        }
    }

    /// A builder for it; what it speaks, its key and its limits are the host's to add.
    pub fn endpoint(&self) -> RemoteBuilder {
        let builder = RemoteEndpoint::builder(&self.name, &self.base_url);
        match self.address {
            Some(address) => builder.address(address),
            None => builder,
        }
    }
}

/// What is different from before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It has come.
    Added(Found),
    /// It has gone.
    Removed(Found),
}

/// What leads from `before` to `now`. What has gone comes first: its place may be taken.
///
/// With a static list there is nothing else to do: read it again, and compare.
///
/// ```
/// use llmserve_route::remote::discovery::{Change, Found, changes};
/// let (a, b) = (Found::at("http://a/v1"), Found::at("http://b/v1"));
/// let before = [a.clone()].into();
/// let now = [b.clone()].into();
/// assert_eq!(changes(&before, &now), [Change::Removed(a), Change::Added(b)]);
/// ```
pub fn changes(before: &BTreeSet<Found>, now: &BTreeSet<Found>) -> Vec<Change> {
    let gone = before.difference(now).cloned().map(Change::Removed);
    let come = now.difference(before).cloned().map(Change::Added);
    gone.chain(come).collect()
}

/// Somebody looks, in the background, until this is dropped.
#[derive(Debug)]
pub struct Watch {
    /// Dropped, it ends the task.
    _stop: oneshot::Sender<()>,
    /// The thread it runs on, where it is its own.
    _runtime: Runtime,
}

impl Watch {
    /// Runs `task` until the watch is dropped.
    fn start(
        runtime: Runtime,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> std::io::Result<Self> {
        let (stop, stopped) = oneshot::channel::<()>();
        runtime.spawn(async move {
            tokio::select! {
                _ = stopped => {}
                () = task => {}
            }
        })?;
        Ok(Self {
            _stop: stop,
            _runtime: runtime,
        })
    }
}
