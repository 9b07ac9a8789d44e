//! What each client says next.

use std::time::Duration;

use super::request::{Part, SimulatedRequest};
use super::traffic::Traffic;
use crate::random::{Rng, mix};

/// Contents from here on are clients' own; below are system prompts.
const OWN: u64 = 1 << 32;

/// All clients. Each draws from a source of its own, so what one says does not follow from when
/// the others are answered.
pub(super) struct Clients {
    traffic: Traffic,
    clients: Vec<Client>,
    /// How much of the chance the system prompts up to each one have together.
    systems: Vec<f64>,
    contents: u64,
    conversations: u64,
}

struct Client {
    rng: Rng,
    session: Option<String>,
    /// Of the conversation, up to its last answer.
    said: Vec<Part>,
    /// Messages until it ends.
    left: usize,
}

impl Clients {
    pub(super) fn new(traffic: &Traffic, seed: u64) -> Self {
        let chances = (1..=traffic.systems).map(|rank| 1.0 / rank as f64);
        let total: f64 = chances.clone().sum();
        let systems = chances.scan(0.0, |sum, chance| {
            *sum += chance / total;
            Some(*sum)
        });
        let client = |number: usize| Client {
            rng: Rng::seeded(mix(seed).wrapping_add(mix(number as u64 + 1))),
            session: None,
            said: Vec::new(),
            left: 0,
        };
        Self {
            systems: systems.collect(),
            clients: (0..traffic.clients).map(client).collect(),
            traffic: traffic.clone(),
            contents: OWN,
            conversations: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.clients.len()
    }

    /// When a client sends its first message, which is one from the middle of a conversation.
    pub(super) fn begin(&mut self, client: usize) -> Duration {
        self.converse(client);
        let skipped = self.clients[client].rng.below(self.clients[client].left);
        for _ in 0..skipped {
            self.say(client, self.traffic.message_tokens);
            self.say(client, self.traffic.answer_tokens);
        }
        self.clients[client].left -= skipped;
        self.traffic.think.mul_f64(self.clients[client].rng.unit())
    }

    /// A client's next message.
    pub(super) fn next(&mut self, client: usize, now: Duration) -> SimulatedRequest {
        if self.clients[client].left == 0 {
            self.converse(client);
        }
        self.clients[client].left -= 1;
        self.say(client, self.traffic.message_tokens);
        let prompt = self.clients[client].said.clone();
        let answer = self.say(client, self.traffic.answer_tokens);
        SimulatedRequest {
            arrival: now,
            prompt,
            answer,
            session: self.clients[client].session.clone(),
        }
    }

    /// How long a client thinks before its next message.
    pub(super) fn think(&mut self, client: usize) -> Duration {
        let share = 0.5 + self.clients[client].rng.unit();
        let thought = self.traffic.think.as_secs_f64() * share;
        Duration::try_from_secs_f64(thought).unwrap_or(Duration::MAX)
    }

    /// A new conversation.
    fn converse(&mut self, client: usize) {
        let (least, most) = self.traffic.turns;
        self.conversations += 1;
        let of = &mut self.clients[client];
        of.session = self
            .traffic
            .sessions
            .then(|| self.conversations.to_string());
        of.left = least + of.rng.below(most - least + 1);
        of.said.clear();
        if !self.systems.is_empty() {
            let drawn = of.rng.unit();
            let which = self.systems.partition_point(|sum| *sum <= drawn);
            of.said.push(Part {
                content: which.min(self.systems.len() - 1) as u64,
                tokens: self.traffic.system_tokens,
            });
        }
    }

    /// Adds something new to a conversation.
    fn say(&mut self, client: usize, mean: f64) -> Part {
        let of = &mut self.clients[client];
        let tokens = (mean * exponential(&of.rng)).round().max(1.0) as usize;
        let part = Part {
            content: self.contents,
            tokens,
        };
        self.contents += 1;
        of.said.push(part);
        part
    }
}

/// Exponentially distributed around a mean of 1.
fn exponential(rng: &Rng) -> f64 {
    -(1.0 - rng.unit()).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_grow_until_a_conversation_ends() {
        let traffic = Traffic {
            clients: 3,
            turns: (4, 6),
            ..Traffic::multi_turn()
        };
        let mut clients = Clients::new(&traffic, 1);
        assert!(clients.begin(1) < traffic.think);
        let mut lengths = std::collections::BTreeSet::new();
        let mut last = clients.next(1, Duration::ZERO);
        for _ in 0..200 {
            let next = clients.next(1, Duration::ZERO);
            if next.session == last.session {
                let before = [&last.prompt[..], &[last.answer]].concat();
                assert_eq!(next.prompt[..next.prompt.len() - 1], before);
            } else {
                // A system prompt, a message, and two parts for each turn more.
                lengths.insert(last.prompt.len() / 2);
                assert_eq!(next.prompt.len(), 2);
                assert!(next.prompt[0].content < OWN);
            }
            last = next;
        }
        assert_eq!(lengths.into_iter().collect::<Vec<_>>(), [4, 5, 6]);
    }

    #[test]
    fn means_are_kept_and_system_prompts_follow_zipf() {
        let traffic = Traffic {
            clients: 1,
            ..Traffic::shared_prefix()
        };
        let mut clients = Clients::new(&traffic, 5);
        let (mut message, mut think, mut first, mut second) = (0.0, 0.0, 0, 0);
        for _ in 0..20_000 {
            let request = clients.next(0, Duration::ZERO);
            message += request.prompt[1].tokens as f64 / 20_000.0;
            think += clients.think(0).as_secs_f64() / 20_000.0;
            first += usize::from(request.prompt[0].content == 0);
            second += usize::from(request.prompt[0].content == 1);
        }
        assert!(
            (message / traffic.message_tokens - 1.0).abs() < 0.03,
            "{message}"
        );
        assert!(
            (think / traffic.think.as_secs_f64() - 1.0).abs() < 0.03,
            "{think}"
        );
        assert!((1.8..2.2).contains(&(first as f64 / second as f64)));
    }
}
