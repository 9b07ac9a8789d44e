//! One request of a trace.

use llmserve_core::{Time, TokenId};

use crate::random::mix;

/// A run of tokens. Runs of the same content have the same tokens as far as both go, and those of
/// different contents have nothing in common.
///
/// In JSON, an array of two: `[content, tokens]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(from = "(u64, usize)", into = "(u64, usize)")]
pub struct Part {
    /// Which tokens.
    pub content: u64,
    /// How many.
    pub tokens: usize,
}

impl From<(u64, usize)> for Part {
    fn from((content, tokens): (u64, usize)) -> Self {
        Self { content, tokens }
    }
}

impl From<Part> for (u64, usize) {
    fn from(part: Part) -> Self {
        (part.content, part.tokens)
    }
}

impl Part {
    /// Writes its tokens behind those of `out`.
    pub(super) fn write(&self, out: &mut Vec<TokenId>) {
        let mut at = mix(self.content ^ 0x5851_f42d_4c95_7f2d);
        out.extend((0..self.tokens).map(|_| {
            at = at.wrapping_add(0x9e37_79b9_7f4a_7c15);
            (at >> 32) as TokenId
        }));
    }
}

/// One request: when it comes, what its prompt is made of, and what is answered.
///
/// It reads and writes itself as one JSON object, its arrival in seconds, so a trace is a file
/// with one of them in each line. Prompts that begin with the same parts share their beginning; an
/// answer is a part as well, so that the next turn can go on from it:
///
/// ```
/// use llmserve_route::simulation::SimulatedRequest;
/// let trace = r#"
///     {"arrival": 0.0, "prompt": [[1, 200], [2, 30]], "answer": [3, 80], "session": "a"}
///     {"arrival": 4.5, "prompt": [[1, 200], [2, 30], [3, 80], [4, 25]], "answer": [5, 60]}
/// "#;
/// let lines = serde_json::Deserializer::from_str(trace).into_iter::<SimulatedRequest>();
/// let requests = lines.collect::<Result<Vec<_>, _>>()?;
/// assert_eq!((requests[0].prompt_tokens(), requests[1].prompt_tokens()), (230, 335));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SimulatedRequest {
    /// When it comes.
    #[serde(with = "seconds")]
    pub arrival: Time,
    /// What its prompt is made of. Without a token it counts as one token.
    pub prompt: Vec<Part>,
    /// What is answered; at least one token is.
    pub answer: Part,
    /// The conversation it belongs to, as far as the client says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
}

impl SimulatedRequest {
    /// Tokens of its prompt, added up.
    pub fn prompt_tokens(&self) -> usize {
        let tokens = self.prompt.iter().map(|part| part.tokens);
        tokens.fold(0, usize::saturating_add).max(1)
    }

    /// Its prompt, followed by its answer.
    pub(super) fn tokens(&self) -> Vec<TokenId> {
        let mut tokens = Vec::with_capacity(self.prompt_tokens() + self.answer.tokens);
        self.prompt.iter().for_each(|part| part.write(&mut tokens));
        if tokens.is_empty() {
            tokens.push(0);
        }
        self.answer.write(&mut tokens);
        tokens
    }
}

/// Times as numbers of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_content_is_the_same_tokens_and_nothing_else_is() {
        let write = |content, tokens| {
            let mut out = Vec::new();
            Part { content, tokens }.write(&mut out);
            out
        };
        assert_eq!(write(7, 100)[..40], write(7, 40));
        let (one, two) = (write(7, 1_000), write(8, 1_000));
        let common = one.iter().filter(|token| two.contains(token)).count();
        assert_eq!(common, 0);
    }

    #[test]
    fn a_line_is_read_as_it_was_written() {
        let request = SimulatedRequest {
            arrival: Time::from_millis(125),
            prompt: vec![(1, 9).into(), (2, 4).into()],
            answer: (3, 6).into(),
            session: None,
        };
        let line = serde_json::to_string(&request).expect("plain data");
        assert_eq!(
            line,
            r#"{"arrival":0.125,"prompt":[[1,9],[2,4]],"answer":[3,6]}"#
        );
        assert_eq!(
            serde_json::from_str::<SimulatedRequest>(&line).ok(),
            Some(request)
        );
        for wrong in [
            r#"{"arrival":-1,"prompt":[],"answer":[1,1]}"#,
            r#"{"arrival":0,"prompt":[[1]],"answer":[1,1]}"#,
            r#"{"arrival":0,"prompt":[],"answer":[1,1],"sesion":"a"}"#,
        ] {
            assert!(
                serde_json::from_str::<SimulatedRequest>(wrong).is_err(),
                "{wrong}"
            );
        }
    }
}
