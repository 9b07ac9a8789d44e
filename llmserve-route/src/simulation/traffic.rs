//! Who asks, how often, and how prompts grow.

use std::time::Duration;

/// Clients that hold conversations, one after the other: each sends a message, waits for the
/// answer, thinks, and sends the next one with all that was said before it.
///
/// There are as many clients at any moment, so load is bounded by how fast they are answered, as
/// it is with people and agents. A client begins within the first thinking time, somewhere in the
/// middle of a conversation, so that from the beginning there are conversations of all lengths.
///
/// | field | [`multi_turn`](Self::multi_turn) | [`shared_prefix`](Self::shared_prefix) | [`random`](Self::random) |
/// | --- | --- | --- | --- |
/// | `clients` | 8,000 | 8,000 | 8,000 |
/// | `turns` | 8 to 12 | 1 | 1 |
/// | `message_tokens`, mean | 60 | 120 | 430 |
/// | `answer_tokens`, mean | 20 | 20 | 20 |
/// | `systems` of `system_tokens` | 64 of 32 | 256 of 2,048 | none |
/// | `think` time, mean | 20 s | 20 s | 20 s |
/// | `sessions` | yes | no | no |
///
/// ```
/// use llmserve_route::simulation::Traffic;
/// let small = Traffic { clients: 100, ..Traffic::multi_turn() };
/// assert!(small.turns.0 * 2 >= 16); // messages, by both sides
/// ```
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Traffic {
    /// Conversations that are held at the same time; at least 1.
    pub clients: usize,
    /// Least and most messages a client sends in one conversation; at least 1.
    pub turns: (usize, usize),
    /// Tokens of such a message, in the mean of an exponential distribution; at least 1.
    pub message_tokens: f64,
    /// Tokens of an answer, likewise.
    pub answer_tokens: f64,
    /// System prompts there are: each conversation begins with one, the first half as often again
    /// as the second and so on (Zipf's law). 0: none.
    pub systems: usize,
    /// Tokens of each.
    pub system_tokens: usize,
    /// From an answer to the next message, in the mean: evenly from half to one and a half times it.
    pub think: Duration,
    /// Whether requests name their conversation.
    pub sessions: bool,
}

impl Traffic {
    /// Conversations of 16 messages and more: what is new in a prompt is little next to what has
    /// been said.
    pub fn multi_turn() -> Self {
        Self {
            clients: 8_000,
            turns: (8, 12),
            message_tokens: 60.0,
            answer_tokens: 20.0,
            systems: 64,
            system_tokens: 32,
            think: Duration::from_secs(20),
            sessions: true,
        }
    }

    /// One question and one answer, behind a long system prompt that many share.
    pub fn shared_prefix() -> Self {
        Self {
            turns: (1, 1),
            message_tokens: 120.0,
            systems: 256,
            system_tokens: 2_048,
            sessions: false,
            ..Self::multi_turn()
        }
    }

    /// One question and one answer, as long as those of [`multi_turn`](Self::multi_turn) in the
    /// mean; nothing is shared with anybody.
    pub fn random() -> Self {
        Self {
            turns: (1, 1),
            message_tokens: 430.0,
            systems: 0,
            system_tokens: 0,
            sessions: false,
            ..Self::multi_turn()
        }
    }

    /// What is wrong with the numbers.
    pub(super) fn fault(&self) -> Option<&'static str> {
        let tokens = |mean: f64| (1.0..=1e6).contains(&mean);
        if self.clients == 0 || self.clients > u32::MAX as usize {
            Some("clients must be at least 1, and fit in 32 bits")
        } else if self.turns.0 == 0 || self.turns.0 > self.turns.1 {
            Some("turns must be at least 1, and the least no more than the most")
        } else if !tokens(self.message_tokens) || !tokens(self.answer_tokens) {
            Some("message_tokens and answer_tokens must be within 1 and a million")
        } else if self.systems > 1_000_000 || self.system_tokens > 1_000_000 {
            Some("systems and system_tokens must be at most a million")
        } else {
            None
        }
    }
}
