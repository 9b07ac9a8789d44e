//! Endpoints of a Kubernetes service, from its endpoint slices.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use futures_core::Stream;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use tokio::runtime::Handle;

use super::{Change, Found, Watch};
use crate::kubernetes::KubernetesError;
use crate::remote::runtime::Runtime;

/// The label that a service's slices carry.
const SERVICE: &str = "kubernetes.io/service-name";

const LIST: &str = "list endpointslices";
const WATCH: &str = "watch endpointslices";

/// How long until all is listed anew where the server has forgotten what it listed.
const PAUSE: Duration = Duration::from_secs(1);

type OnError = Box<dyn FnMut(KubernetesError) + Send>;

/// One endpoint for each ready address of a service.
///
/// Unlike a look at [`Dns`](super::Dns) now and then, a watch tells at once who comes and goes, and
/// who is about to end: that one is [drained](Change::Draining) first.
///
/// ```no_run
/// use llmserve_route::remote::discovery::{EndpointSlices, members};
/// use llmserve_route::{Replica, Router};
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let client = kube::Client::try_default().await?;
/// let router = Router::builder().allow_empty(true).build()?;
/// let replica = |found: &_| {
///     let found: &llmserve_route::remote::discovery::Found = found;
///     Some(Replica::new(&found.name, found.endpoint().build().ok()?))
/// };
/// let watch = EndpointSlices::new(client, "default", "model")
///     .port("http")
///     .on_error(|error| eprintln!("{error}"))
///     .watch(members(router.clone(), replica))?;
/// # drop(watch);
/// # Ok(())
/// # }
/// ```
pub struct EndpointSlices {
    client: Client,
    namespace: String,
    service: String,
    wanted: Wanted,
    on_error: Option<OnError>,
}

/// What is to be told of slices.
struct Wanted {
    port: Option<String>,
    base_url: String,
    ipv6: bool,
}

impl EndpointSlices {
    /// The slices of `service`; the client's account may list and watch `endpointslices` there.
    pub fn new(client: Client, namespace: impl Into<String>, service: impl Into<String>) -> Self {
        let (namespace, service) = (namespace.into(), service.into());
        Self {
            client,
            wanted: Wanted {
                port: None,
                base_url: format!("http://{service}.{namespace}.svc/v1"),
                ipv6: false,
            },
            namespace,
            service,
            on_error: None,
        }
    }

    /// The port's name; the first port of a slice by default.
    pub fn port(mut self, name: impl Into<String>) -> Self {
        self.wanted.port = Some(name.into());
        self
    }

    /// The base URL of every endpoint, whose host certificates are for; connections go to the
    /// endpoint's own address and port. By default `http://SERVICE.NAMESPACE.svc/v1`.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.wanted.base_url = url.into();
        self
    }

    /// Prefers IPv6 addresses where a service has both; IPv4 by default. A pod has one of each, and
    /// is one endpoint.
    pub fn prefer_ipv6(mut self) -> Self {
        self.wanted.ipv6 = true;
        self
    }

    /// Called with what goes wrong. By default nobody is told.
    pub fn on_error(mut self, told: impl FnMut(KubernetesError) + Send + 'static) -> Self {
        self.on_error = Some(Box::new(told));
        self
    }

    /// Watches, and tells `changed` what is different, the first time what there is at all. On the
    /// runtime this is called from, which is the client's. A watch that breaks is begun anew, later
    /// and later; meanwhile nobody is taken away.
    ///
    /// # Errors
    /// [`KubernetesError::NoRuntime`].
    pub fn watch(
        self,
        mut changed: impl FnMut(Vec<Change>) + Send + 'static,
    ) -> Result<Watch, KubernetesError> {
        let handle = Handle::try_current();
        let handle = handle.map_err(|_| KubernetesError::NoRuntime { what: WATCH })?;
        let config = watcher::Config::default().labels(&format!("{SERVICE}={}", self.service));
        let api: Api<EndpointSlice> = Api::namespaced(self.client, &self.namespace);
        let (wanted, mut told) = (self.wanted, self.on_error);
        let task = async move {
            let mut slices = Slices::default();
            loop {
                let events = watcher(api.clone(), config.clone()).default_backoff();
                follow(events, &wanted, &mut slices, &mut changed, &mut told).await;
                tokio::time::sleep(PAUSE).await;
            }
        };
        Watch::start(Runtime::new(Some(handle)), task)
            .map_err(|_| KubernetesError::NoRuntime { what: WATCH })
    }
}

/// Until the events end, or can only go on with a new list.
async fn follow(
    events: impl Stream<Item = watcher::Result<Event<EndpointSlice>>>,
    wanted: &Wanted,
    slices: &mut Slices,
    changed: &mut impl FnMut(Vec<Change>),
    told: &mut Option<OnError>,
) {
    let mut events = pin!(events);
    while let Some(event) = std::future::poll_fn(|cx| events.as_mut().poll_next(cx)).await {
        match event {
            Ok(event) => {
                let different = slices.take(wanted, event);
                if !different.is_empty() {
                    changed(different);
                }
            }
            // That too much time has passed is how watches end; it is listed anew.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
            Err(watcher::Error::WatchStartFailed(kube::Error::Api(status)))
                if status.code == 410 =>
            {
                return;
            }
            // Another try follows.
            Err(error) => {
                if let Some(told) = told {
                    told(explain(&error));
                }
            }
        }
    }
}

impl Wanted {
    fn found(&self, slice: &EndpointSlice) -> Listed {
        let ports = slice.ports.iter().flatten();
        let port = ports
            .filter(|port| self.port.is_none() || port.name == self.port)
            .find_map(|port| u16::try_from(port.port?).ok());
        let mut listed = Listed {
            ipv6: slice.address_type == "IPv6",
            endpoints: BTreeMap::new(),
        };
        let Some(port) = port else {
            return listed;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            // The addresses of one endpoint are the same pod's: the first is enough.
            let address = endpoint.addresses.first();
            let Some(ip) = address.and_then(|ip| ip.parse::<IpAddr>().ok()) else {
                continue;
            };
            if let Some(state) = State::of(endpoint) {
                let known = listed.endpoints.entry(SocketAddr::new(ip, port));
                let known = known.or_insert(state);
                *known = state.max(*known);
            }
        }
        listed
    }
}

impl std::fmt::Debug for EndpointSlices {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointSlices")
            .field("namespace", &self.namespace)
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

fn explain(error: &watcher::Error) -> KubernetesError {
    match error {
        watcher::Error::InitialListFailed(error) => KubernetesError::of(LIST, error),
        watcher::Error::WatchStartFailed(error) | watcher::Error::WatchFailed(error) => {
            KubernetesError::of(WATCH, error)
        }
        watcher::Error::WatchError(status) => KubernetesError::of_status(WATCH, status),
        watcher::Error::NoResourceVersion => KubernetesError::Unreachable {
            what: WATCH,
            reason: "its answer has no resource version",
        },
    }
}

/// What a slice says of an endpoint; who is nearer to answering is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    /// It takes nothing new: it is not ready, or ends what it has begun.
    Resting,
    Ready,
}

impl State {
    /// None where it is ending and answers nobody any more.
    fn of(endpoint: &Endpoint) -> Option<Self> {
        let conditions = endpoint.conditions.as_ref();
        let is = |told: Option<Option<bool>>, otherwise| told.flatten().unwrap_or(otherwise);
        if is(conditions.map(|told| told.terminating), false) {
            let serving = is(conditions.map(|told| told.serving), true);
            return serving.then_some(State::Resting);
        }
        match is(conditions.map(|told| told.ready), true) {
            true => Some(State::Ready),
            false => Some(State::Resting),
        }
    }
}

/// A slice's endpoints.
#[derive(Default)]
struct Listed {
    ipv6: bool,
    endpoints: BTreeMap<SocketAddr, State>,
}

/// What slices there are, and who was told of.
#[derive(Default)]
struct Slices {
    /// By slice. One endpoint may be in two of them for a moment, while it moves.
    known: BTreeMap<String, Listed>,
    /// Those that have been ready once.
    told: BTreeMap<SocketAddr, State>,
    /// Being listed anew: what is not in the new list is gone.
    listing: BTreeMap<String, Listed>,
}

impl Slices {
    fn take(&mut self, wanted: &Wanted, event: Event<EndpointSlice>) -> Vec<Change> {
        let name = |slice: &EndpointSlice| slice.metadata.name.clone().unwrap_or_default();
        match event {
            Event::Init => {
                self.listing.clear();
                return Vec::new();
            }
            Event::InitApply(slice) => {
                self.listing.insert(name(&slice), wanted.found(&slice));
                return Vec::new();
            }
            Event::InitDone => self.known = std::mem::take(&mut self.listing),
            Event::Apply(slice) => {
                self.known.insert(name(&slice), wanted.found(&slice));
            }
            Event::Delete(slice) => {
                self.known.remove(&name(&slice));
            }
        }
        self.changes(wanted)
    }

    /// The endpoints there are, each in the best state that a slice gives it.
    fn now(&self, prefer_ipv6: bool) -> BTreeMap<SocketAddr, State> {
        // A service of both families lists each pod twice.
        let preferred = self
            .known
            .values()
            .any(|slice| slice.ipv6 == prefer_ipv6 && !slice.endpoints.is_empty());
        let mut now = BTreeMap::new();
        for slice in self.known.values() {
            if preferred && slice.ipv6 != prefer_ipv6 {
                continue;
            }
            for (address, state) in &slice.endpoints {
                let known = now.entry(*address).or_insert(*state);
                *known = (*known).max(*state);
            }
        }
        now
    }

    /// What has gone comes first: its place may be taken.
    fn changes(&mut self, wanted: &Wanted) -> Vec<Change> {
        let now = self.now(wanted.ipv6);
        let found = |address: SocketAddr| Found {
            name: address.to_string(),
            base_url: wanted.base_url.clone(),
            address: Some(address),
        };
        let gone = self
            .told
            .keys()
            .filter(|address| !now.contains_key(*address));
        let mut changes: Vec<_> = gone
            .map(|address| Change::Removed(found(*address)))
            .collect();
        self.told.retain(|address, _| now.contains_key(address));
        for (address, state) in now {
            let before = self.told.get(&address).copied();
            let change = match (before, state) {
                (None, State::Ready) => Change::Added(found(address)),
                (Some(State::Ready), State::Resting) => Change::Draining(found(address)),
                (Some(State::Resting), State::Ready) => Change::Resumed(found(address)),
                // Not ready, and never was: nobody's business yet.
                _ => continue,
            };
            self.told.insert(address, state);
            changes.push(change);
        }
        changes
    }
}
