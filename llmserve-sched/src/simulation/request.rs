//! One request of a trace.

use std::sync::Arc;

use llmserve_core::{Time, TokenId};

/// One request: when it comes, how long it is, and what else the scheduler is told of it.
///
/// It reads and writes itself as one JSON object, times in seconds, so a trace is a file with one
/// of them in each line:
///
/// ```
/// use llmserve_sched::simulation::SimulatedRequest;
/// let trace = r#"
///     {"arrival": 0.0, "prompt_tokens": 120, "output_tokens": 40}
///     {"arrival": 0.25, "prompt_tokens": 80, "output_tokens": 9, "tenant": "acme", "deadline": 5.0}
/// "#;
/// let lines = serde_json::Deserializer::from_str(trace).into_iter::<SimulatedRequest>();
/// let requests = lines.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!(requests[1].arrival.as_millis(), 250);
/// assert_eq!(requests[1].tenant.as_deref(), Some("acme"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedRequest {
    /// When it comes.
    #[serde(with = "super::seconds")]
    pub arrival: Time,
    /// Tokens of the prompt; 0 counts as 1.
    pub prompt_tokens: usize,
    /// Tokens it generates unless something ends it before; 0 counts as 1.
    pub output_tokens: usize,
    /// Most tokens it says it may generate, which is all a scheduler knows. None for exactly what
    /// it will generate; fewer than that cut it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<usize>,
    /// Who asks.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "name")]
    pub tenant: Option<Arc<str>>,
    /// Lower is sooner.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i32,
    /// How long after its arrival the answer is worthless. Whoever has not finished then, ends.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "super::seconds::option"
    )]
    pub deadline: Option<Time>,
    /// How long after its arrival its sender gives up, if it has not finished then.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "super::seconds::option"
    )]
    pub cancel: Option<Time>,
    /// What its prompt begins with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<SharedPrefix>,
}

/// The beginning of a prompt that others share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SharedPrefix {
    /// Which: prompts with the same number begin with the same tokens.
    pub id: u32,
    /// Its length; cut to the prompt's.
    pub tokens: usize,
}

impl SimulatedRequest {
    /// A request without a tenant, deadline or prefix.
    pub fn new(arrival: Time, prompt_tokens: usize, output_tokens: usize) -> Self {
        Self {
            arrival,
            prompt_tokens,
            output_tokens,
            max_tokens: None,
            tenant: None,
            priority: 0,
            deadline: None,
            cancel: None,
            prefix: None,
        }
    }

    /// Tokens it generates if nothing ends it before, and the most it says it may.
    pub(super) fn outputs(&self) -> (usize, usize) {
        let wanted = self.output_tokens.max(1);
        let most = self.max_tokens.unwrap_or(wanted).max(1);
        (wanted.min(most), most)
    }

    /// Writes its prompt over `out`.
    ///
    /// Different requests differ at every position of their own, and different prefixes at every
    /// position of theirs, so that the cache finds what is shared and nothing else.
    pub(super) fn prompt(&self, number: u32, out: &mut Vec<TokenId>) {
        let len = self.prompt_tokens.max(1);
        let (id, shared) = self.prefix.map_or((0, 0), |p| (p.id, p.tokens.min(len)));
        out.clear();
        // A prefix takes other strides than an answer, or the two could agree over whole blocks.
        let first = id.wrapping_mul(0x85eb_ca6b);
        out.extend((0..shared as u32).map(|at| first.wrapping_add(at.wrapping_mul(3))));
        out.extend((shared..len).map(|at| own_token(number, at)));
    }
}

/// The token at a position of a request's own. The factor is odd: numbers differ, tokens differ.
pub(super) fn own_token(number: u32, position: usize) -> TokenId {
    number
        .wrapping_mul(0x9e37_79b1)
        .wrapping_add(position as u32)
}

fn is_zero(number: &i32) -> bool {
    *number == 0
}

mod name {
    use std::sync::Arc;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(
        name: &Option<Arc<str>>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        name.as_deref().serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Arc<str>>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(Arc::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_share_their_prefix_and_nothing_else() {
        let mut request = SimulatedRequest::new(Time::ZERO, 40, 1);
        let prompt = |request: &SimulatedRequest, number| {
            let mut out = vec![99; 3];
            request.prompt(number, &mut out);
            out
        };
        let agree = |a: &[u32], b: &[u32]| a.iter().zip(b).filter(|(a, b)| a == b).count();
        assert_eq!(agree(&prompt(&request, 1), &prompt(&request, 2)), 0);
        request.prefix = Some(SharedPrefix { id: 7, tokens: 16 });
        let (one, two) = (prompt(&request, 1), prompt(&request, 2));
        assert_eq!((one.len(), one[..16] == two[..16]), (40, true));
        assert_eq!(agree(&one[16..], &two[16..]), 0);
        request.prefix = Some(SharedPrefix { id: 8, tokens: 90 });
        let other = prompt(&request, 1);
        assert_eq!((other.len(), agree(&one[..16], &other[..16])), (40, 0));
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let request = SimulatedRequest {
            tenant: Some("a".into()),
            deadline: Some(Time::from_millis(1500)),
            prefix: Some(SharedPrefix { id: 1, tokens: 5 }),
            ..SimulatedRequest::new(Time::from_millis(125), 9, 4)
        };
        let line = serde_json::to_string(&request).expect("plain data");
        assert_eq!(
            line,
            r#"{"arrival":0.125,"prompt_tokens":9,"output_tokens":4,"tenant":"a","deadline":1.5,"prefix":{"id":1,"tokens":5}}"#
        );
        assert_eq!(
            serde_json::from_str::<SimulatedRequest>(&line).ok(),
            Some(request)
        );
        for wrong in [
            r#"{"arrival":-1,"prompt_tokens":9,"output_tokens":4}"#,
            r#"{"arrival":1e300,"prompt_tokens":9,"output_tokens":4}"#,
            r#"{"arrival":0,"prompt_tokens":9,"output_tokens":4,"tenent":"a"}"#,
            r#"{"arrival":0,"prompt_tokens":-9,"output_tokens":4}"#,
        ] {
            assert!(
                serde_json::from_str::<SimulatedRequest>(wrong).is_err(),
                "{wrong}"
            );
        }
    }
}
