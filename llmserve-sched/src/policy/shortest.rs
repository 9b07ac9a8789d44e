//! The least work.

use std::collections::HashMap;

use llmserve_core::SchedRequest;

use super::{Policy, Rank, Served};

/// Tokens a request will generate, guessed.
pub trait Predictor: Send {
    /// How many tokens each of the request's choices will generate.
    fn predict(&self, request: &SchedRequest) -> usize;

    /// A sequence was served. Default: nothing is learnt from it.
    fn learn(&mut self, _served: &Served<'_>) {}
}

/// As many as the request allows itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct MaxNewTokens;

impl Predictor for MaxNewTokens {
    fn predict(&self, request: &SchedRequest) -> usize {
        request.max_new_tokens
    }
}

/// As many as the tenant's latest requests generated, a moving mean over about 16 of them, but no
/// more than the request allows. A tenant nobody knows yet is taken for the mean of all, and
/// before there is one for somebody who uses up what a request allows.
///
/// ```
/// use llmserve_core::{SchedRequest, SequenceId};
/// use llmserve_sched::policy::{Predictor, Served, TenantMean};
/// let mut mean = TenantMean::default();
/// let mut request = SchedRequest::new(SequenceId::new(0, 0), 10, 500);
/// assert_eq!(mean.predict(&request), 500);
/// mean.learn(&Served::new(Some("chat"), 10, 40));
/// assert_eq!(mean.predict(&request), 40, "the mean of all");
/// request.tenant = Some("chat".into());
/// request.max_new_tokens = 30;
/// assert_eq!(mean.predict(&request), 30);
/// ```
#[derive(Clone, Debug, Default)]
pub struct TenantMean {
    all: Mean,
    tenants: HashMap<Box<str>, Mean>,
}

/// Tenants whose means are kept; beyond them a tenant is taken for the mean of all.
const TENANTS: usize = 65_536;

#[derive(Clone, Copy, Debug, Default)]
struct Mean {
    seen: u32,
    value: f64,
}

impl Mean {
    fn learn(&mut self, value: usize) {
        self.seen = (self.seen + 1).min(16);
        self.value += (value as f64 - self.value) / f64::from(self.seen);
    }
}

impl Predictor for TenantMean {
    fn predict(&self, request: &SchedRequest) -> usize {
        let tenant = request.tenant.as_deref();
        let mean = tenant
            .and_then(|tenant| self.tenants.get(tenant))
            .unwrap_or(&self.all);
        match mean.seen {
            0 => request.max_new_tokens,
            _ => (mean.value as usize).min(request.max_new_tokens),
        }
    }

    fn learn(&mut self, served: &Served<'_>) {
        self.all.learn(served.generated);
        let Some(tenant) = served.tenant else { return };
        if let Some(mean) = self.tenants.get_mut(tenant) {
            mean.learn(served.generated);
        } else if self.tenants.len() < TENANTS {
            let mut mean = Mean::default();
            mean.learn(served.generated);
            self.tenants.insert(tenant.into(), mean);
        }
    }
}

/// Shortest predicted work first: the prompt's tokens and those that will be generated, all
/// choices together. One that 256 others have overtaken is next, so that the long ones are served
/// too.
///
/// ```
/// use llmserve_core::{SchedRequest, SequenceId};
/// use llmserve_sched::policy::{MaxNewTokens, Policy, ShortestPredicted, TenantMean};
/// let policy = ShortestPredicted::by(MaxNewTokens); // or ShortestPredicted::<TenantMean>::default()
/// let rank = |tokens, max_new| policy.rank(&SchedRequest::new(SequenceId::new(0, 0), tokens, max_new));
/// assert!(rank(100, 5) < rank(10, 200));
/// ```
#[derive(Clone, Debug, Default)]
pub struct ShortestPredicted<P = TenantMean> {
    predictor: P,
}

impl<P: Predictor> ShortestPredicted<P> {
    /// Shortest first, as `predictor` guesses.
    pub fn by(predictor: P) -> Self {
        Self { predictor }
    }
}

impl<P: Predictor> Policy for ShortestPredicted<P> {
    fn rank(&self, request: &SchedRequest) -> Rank {
        let generated = self.predictor.predict(request);
        let generated = generated.saturating_mul(request.choices.max(1));
        let work = request.tokens.saturating_add(generated);
        Rank::new(i64::try_from(work).unwrap_or(i64::MAX))
    }

    fn patience(&self) -> Option<usize> {
        Some(256)
    }

    fn served(&mut self, served: &Served<'_>) {
        self.predictor.learn(served);
    }
}
