//! What a strategy knows of a replica.

/// A replica that could answer the request at hand, as it stood when the strategy was asked.
///
/// A snapshot: other threads dispatch at the same time, so two picks may see the same numbers.
///
/// ```
/// use llmserve_route::Candidate;
/// // The router makes them; a test of a strategy makes its own.
/// let busy = Candidate::new(0, "a").outstanding(3).outstanding_tokens(4_096).dispatched(17);
/// assert_eq!((busy.name, busy.outstanding), ("a", 3));
/// assert_eq!(busy.models, None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate<'a> {
    /// The replica's place in the router, `0..replicas`; the same for every request. Not its
    /// place in the list of candidates, from which others may be missing.
    pub index: usize,
    /// The replica's name, unique in its router.
    pub name: &'a str,
    /// The models it serves, sorted. None: any.
    pub models: Option<&'a [String]>,
    /// Requests this router has dispatched to it and that have not ended.
    pub outstanding: usize,
    /// [`estimated_tokens`](crate::estimated_tokens) of those requests, added up. What they have
    /// generated meanwhile is not subtracted.
    pub outstanding_tokens: u64,
    /// Requests this router ever dispatched to it. Only grows.
    pub dispatched: u64,
}

impl<'a> Candidate<'a> {
    /// An idle replica that serves any model.
    pub fn new(index: usize, name: &'a str) -> Self {
        Self {
            index,
            name,
            models: None,
            outstanding: 0,
            outstanding_tokens: 0,
            dispatched: 0,
        }
    }
}

/// Setters: each replaces the field of its name.
impl<'a> Candidate<'a> {
    /// See [`Candidate::models`].
    pub fn models(mut self, models: &'a [String]) -> Self {
        self.models = Some(models);
        self
    }

    /// See [`Candidate::outstanding`].
    pub fn outstanding(mut self, requests: usize) -> Self {
        self.outstanding = requests;
        self
    }

    /// See [`Candidate::outstanding_tokens`].
    pub fn outstanding_tokens(mut self, tokens: u64) -> Self {
        self.outstanding_tokens = tokens;
        self
    }

    /// See [`Candidate::dispatched`].
    pub fn dispatched(mut self, requests: u64) -> Self {
        self.dispatched = requests;
        self
    }
}
