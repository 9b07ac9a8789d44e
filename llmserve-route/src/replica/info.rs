//! What is known about a replica.

use std::collections::{BTreeMap, BTreeSet};

/// What a router and its strategies know about a replica, as the host declared it.
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let replica = llmserve_route::Replica::new("rack-1", Closed).region("eu").cost(0.6);
/// let info = replica.info();
/// assert_eq!((info.name.as_str(), info.region.as_deref(), info.weight), ("rack-1", Some("eu"), 1));
/// assert_eq!((info.cost, info.quality), (Some(0.6), None));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ReplicaInfo {
    /// Its name, unique in its router.
    pub name: String,
    /// The models it serves, sorted once it is in a router. None: any.
    pub models: Option<Vec<String>>,
    /// Other names for its models: name to model.
    pub aliases: BTreeMap<String, String>,
    /// Its share, relative to others, where a strategy divides by weight. 1 unless said otherwise;
    /// one with 0 is picked by such strategies only where all candidates have 0.
    pub weight: u32,
    /// Most requests it may have at once. None: any number.
    pub capacity: Option<usize>,
    /// Where it runs, and so who may see what it is sent. None: in no region, so that a request
    /// that names regions never goes there.
    pub region: Option<String>,
    /// Whether it heeds a request's [regions](llmserve_core::Routing::regions) by itself, as a
    /// router over replicas of several does: then requests that name regions go there whatever its
    /// own, and it decides. Yes for a [`Router`](crate::Router) and what is one while no region is
    /// said; else no unless said otherwise.
    pub heeds_regions: bool,
    /// What it can do beyond text: those a request
    /// [needs](llmserve_core::Routing::needs) must all be here.
    pub capabilities: BTreeSet<String>,
    /// Its context, in tokens: a prompt that leaves no room for one more does not go there.
    /// None: it takes prompts of any length, or refuses them itself.
    pub context: Option<usize>,
    /// What a million tokens cost there, in the host's unit. None: unknown, and above every
    /// request's limit.
    pub cost: Option<f64>,
    /// How good its answers are, on the host's scale, more being better. None: unknown, and below
    /// every request's minimum.
    pub quality: Option<f32>,
    /// The tier it belongs to. None: none, so that a request for a tier does not go there where
    /// others have tiers.
    pub tier: Option<String>,
    /// Which weights, quantisation and numerics it runs: replicas with equal identities give the
    /// same tokens to the same request, so that one can go on where another broke off. None: equal
    /// to nobody's.
    pub identity: Option<String>,
}

impl ReplicaInfo {
    pub(crate) fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            models: None,
            aliases: BTreeMap::new(),
            weight: 1,
            capacity: None,
            region: None,
            heeds_regions: false,
            capabilities: BTreeSet::new(),
            context: None,
            cost: None,
            quality: None,
            tier: None,
            identity: None,
        }
    }
}
