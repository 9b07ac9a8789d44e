//! Where endpoints are: who has come, and who has gone.
//!
//! A host turns what is found into replicas, and takes those away that are gone, as [`members`] does
//! for a router:
//!
//! ```no_run
//! use std::time::Duration;
//! use llmserve_route::remote::discovery::{Dns, Found, members};
//! use llmserve_route::{Replica, Router};
//!
//! let service = Dns::new("http://model.default.svc.cluster.local:8000/v1")?;
//! let router = Router::builder().allow_empty(true).build()?;
//! let replica = |found: &Found| {
//!     let endpoint = found.endpoint().build().ok()?; // its dialect, its key
//!     Some(Replica::new(&found.name, endpoint).model("llama"))
//! };
//! let watch = service.every(Duration::from_secs(5)).watch(None, members(router, replica))?;
//! # drop(watch);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod dns;
#[cfg(feature = "kube")]
mod slices;

use std::collections::{BTreeSet, HashSet};
use std::net::SocketAddr;

use tokio::sync::oneshot;

pub use dns::{Dns, DnsError};
#[cfg(feature = "kube")]
pub use slices::EndpointSlices;

use super::builder::RemoteBuilder;
use super::endpoint::RemoteEndpoint;
use super::runtime::Runtime;
use crate::replica::Replica;
use crate::router::Router;

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
    /// It takes nothing new for now, and ends what it has begun. Only from those who know:
    /// [`EndpointSlices`](crate::remote::discovery) do, names and lists do not.
    Draining(Found),
    /// One that was draining takes requests again.
    Resumed(Found),
    /// It has gone.
    Removed(Found),
}

/// Does with a router's replicas what is told of endpoints: what to give to a watch. `replica` makes
/// one of what was found, under the endpoint's own name, or none where it is not wanted.
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// use llmserve_route::remote::discovery::{Change, Found, members};
/// use llmserve_route::{Replica, Router};
/// let router = Router::builder().allow_empty(true).build()?;
/// let mut told = members(router.clone(), |found| Some(Replica::new(&found.name, Closed)));
/// told(vec![Change::Added(Found::at("http://a/v1")), Change::Added(Found::at("http://b/v1"))]);
/// told(vec![Change::Removed(Found::at("http://a/v1"))]);
/// assert_eq!(router.fleet().len(), 1);
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
pub fn members(
    router: Router,
    mut replica: impl FnMut(&Found) -> Option<Replica> + Send + 'static,
) -> impl FnMut(Vec<Change>) + Send + 'static {
    // Somebody else may have taken a name before: then it is theirs.
    let mut ours = HashSet::new();
    move |changes| {
        for change in changes {
            match change {
                Change::Added(found) => {
                    if let Some(mut replica) = replica(&found) {
                        replica.info.name.clone_from(&found.name);
                        if router.add(replica).is_ok() {
                            ours.insert(found.name);
                        }
                    }
                }
                Change::Draining(found) if ours.contains(&found.name) => {
                    drop(router.drain(&found.name));
                }
                Change::Resumed(found) if ours.contains(&found.name) => {
                    drop(router.undrain(&found.name));
                }
                Change::Removed(found) if ours.remove(&found.name) => {
                    drop(router.remove(&found.name));
                }
                _ => {}
            }
        }
    }
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
