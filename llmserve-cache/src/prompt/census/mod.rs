//! Which beginnings prompts share, and how many do.
//!
//! Prompts pass; nothing has to be said about them. A beginning is worth something when many prompts
//! have it and it is long beyond the next shorter one that even more have. Old counts fade.

mod path;
mod tree;

use std::cmp::Reverse;
use std::collections::HashSet;

use llmserve_core::{Prefix, Prompt};
use serde::{Deserialize, Serialize};

use path::{Path, prefix};
pub(in crate::prompt) use tree::NodeId;
use tree::{Branch, Tree};

/// A beginning that several prompts had.
///
/// Can be written down and given to the next process, which then needs not learn it anew: see
/// [`PromptLayerBuilder::recall`](super::PromptLayerBuilder::recall).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SharedPrefix {
    /// What they had in common.
    pub prefix: Prefix,
    /// How many had it. Those long ago count less.
    pub requests: u32,
    /// Bytes of prompt in it.
    pub bytes: usize,
}

/// What a census looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Bytes of each prompt.
    pub(super) prompt: usize,
    /// Bytes of memory.
    pub(super) memory: usize,
    /// Prompts after which counts are halved.
    pub(super) window: u32,
    /// Prompts that make a beginning shared.
    pub(super) requests: u32,
    /// Bytes that it has beyond what more prompts share.
    pub(super) bytes: usize,
}

pub(super) struct Census {
    reach: Reach,
    tree: Tree,
    /// Prompts since counts were halved.
    since: u32,
    /// Bytes of what is marked, which its callers answer for.
    marked: usize,
    /// Prompts that pass before what is worth most is looked for again.
    rest: usize,
    /// It is to be looked for then.
    due: bool,
}

/// What was seen of one prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// It begins with something marked.
    pub(super) marked: bool,
    /// What is worth most may be something else from now on.
    pub(super) due: bool,
}

/// A beginning worth keeping.
#[derive(Clone, Debug)]
pub(super) struct Worth {
    pub(super) node: NodeId,
    pub(super) shared: SharedPrefix,
}

impl Census {
    pub(super) fn new(reach: Reach) -> Self {
        Self {
            reach,
            tree: Tree::new(),
            since: 0,
            marked: 0,
            rest: 0,
            due: false,
        }
    }

    /// Counts a prompt.
    pub(super) fn note(
        &mut self,
        prompt: &Prompt,
        tenant: Option<&str>,
        model: Option<&str>,
    ) -> Seen {
        let path = Path::new(prompt, tenant, model, self.reach.prompt);
        let mut seen = Seen::default();
        let least = self.reach.requests;
        self.tree.add(&path.bytes, 1, |node, _, end| {
            seen.marked |= node.marks > 0;
            // What is worth keeping shows early, and then seldom changes: asked at each doubling.
            seen.due |= end > path.scope
                && node.count >= least
                && (node.count / least).is_power_of_two()
                && node.count % least == 0;
        });
        self.since += 1;
        if self.since >= self.reach.window {
            self.since = 0;
            self.tree.age();
            seen.due = true;
        }
        self.stay_within();
        // To look costs as much as there is: one who has prompts nested in each other cannot have
        // everybody pay for it with each.
        self.due |= seen.due;
        self.rest = self.rest.saturating_sub(1);
        seen.due = self.due && self.rest == 0;
        if seen.due {
            self.due = false;
            self.rest = self.tree.len() / 64;
        }
        seen
    }

    /// Counts a beginning as if so many prompts had had it, and tells where it is: nowhere, if it is
    /// empty.
    pub(super) fn add(&mut self, prefix: &Prefix, requests: u32) -> Option<NodeId> {
        let path = Path::of(prefix, self.reach.prompt);
        if path.bytes.len() == path.scope {
            return None;
        }
        let mut last = None;
        self.tree
            .add(&path.bytes, requests, |_, id, _| last = Some(id));
        last
    }

    /// Counts a beginning as often as an earlier census had it, less what is counted there by now.
    pub(super) fn recall(&mut self, shared: &SharedPrefix) {
        if let Some(node) = self.add(&shared.prefix, 0) {
            let known = self.tree.node(node).count;
            self.add(&shared.prefix, shared.requests.saturating_sub(known));
        }
    }

    /// Forgets what came once, or else old counts, until the memory suffices. What is marked is not
    /// counted: it stays, and may be more.
    pub(super) fn stay_within(&mut self) {
        let most = self.reach.memory.saturating_add(self.marked);
        if self.tree.bytes() > most {
            self.tree.drop_up_to(1);
        }
        for _ in 0..u32::BITS {
            if self.tree.bytes() <= most {
                break;
            }
            self.tree.age();
        }
    }

    pub(super) fn mark(&mut self, node: NodeId) {
        self.marked += self.tree.cost(node);
        self.tree.node_mut(node).marks += 1;
    }

    pub(super) fn unmark(&mut self, node: NodeId) {
        self.marked = self.marked.saturating_sub(self.tree.cost(node));
        let marks = &mut self.tree.node_mut(node).marks;
        *marks = marks.saturating_sub(1);
    }

    /// The `most` beginnings that most prompts share.
    pub(super) fn shared(&self, most: usize) -> Vec<Worth> {
        self.first(most, |_| 1)
    }

    /// The `most` beginnings that most prompts share, less those that another of them begins with.
    /// What is in `kept` counts twice, so that two that are alike do not take turns.
    pub(super) fn best(&self, most: usize, kept: &HashSet<NodeId>) -> Vec<Worth> {
        let mut shared = self.first(most, |id| 1 + u64::from(kept.contains(&id)));
        let mut covered = HashSet::new();
        for worth in &shared {
            let mut at = worth.node;
            while let Some(parent) = self.tree.parent(at) {
                covered.insert(parent);
                at = parent;
            }
        }
        shared.retain(|worth| !covered.contains(&worth.node));
        shared
    }

    /// Beginnings known, and the bytes they take.
    pub(super) fn size(&self) -> (usize, usize) {
        (self.tree.len(), self.tree.bytes())
    }

    /// The first so many that are worth anything, by how many share them times `weight`; of equals the
    /// longer first, and at last by place, so that the order is always the same.
    fn first(&self, most: usize, weight: impl Fn(NodeId) -> u64) -> Vec<Worth> {
        let mut branches = self.tree.shared_by(self.reach.requests);
        branches.retain(|branch| branch.bytes >= branch.heavier + self.reach.bytes);
        branches.sort_by_key(|branch| {
            let shared = u64::from(branch.count) * weight(branch.id);
            (Reverse(shared), Reverse(branch.bytes), branch.id)
        });
        let worth = branches.iter().filter_map(|branch| self.worth(branch));
        worth.take(most).collect()
    }

    fn worth(&self, branch: &Branch) -> Option<Worth> {
        let path = self.tree.path(branch.id);
        let (prefix, bytes) = prefix(&path)?;
        let shorter = path::prefix(&path[..branch.heavier]).map_or(0, |(_, bytes)| bytes);
        (bytes >= shorter + self.reach.bytes).then_some(Worth {
            node: branch.id,
            shared: SharedPrefix {
                prefix,
                requests: branch.count,
                bytes,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use llmserve_core::Message;

    const REACH: Reach = Reach {
        prompt: 1_000,
        memory: 100_000,
        window: 1_000_000,
        requests: 3,
        bytes: 10,
    };

    fn ask(census: &mut Census, system: &str, question: &str) -> Seen {
        let messages = vec![Message::system(system), Message::user(question)];
        census.note(&Prompt::Messages(messages), Some("acme"), None)
    }

    fn prefixes(worth: &[Worth]) -> Vec<(&Prefix, u32)> {
        worth
            .iter()
            .map(|worth| (&worth.shared.prefix, worth.shared.requests))
            .collect()
    }

    #[test]
    fn what_prompts_share_is_found_to_the_byte() {
        let mut census = Census::new(REACH);
        let support = "You help the customers of Acme with their orders.";
        for question in ["Where is it?", "How much?", "Why?"] {
            ask(&mut census, support, question);
        }
        let closed = Prefix::messages([Message::system(support)]).tenant("acme");
        assert_eq!(prefixes(&census.shared(99)), [(&closed, 3)]);

        // A template within the user's turn, of a part of those prompts.
        for name in ["Ann", "Bob", "Cid", "Dee"] {
            ask(
                &mut census,
                support,
                &format!("Please write a letter to {name}."),
            );
        }
        let open = Prefix::messages([
            Message::system(support),
            Message::user("Please write a letter to "),
        ]);
        let open = open.open().tenant("acme");
        assert_eq!(prefixes(&census.shared(99)), [(&closed, 7), (&open, 4)]);
        // Who keeps the longer one keeps the shorter one with it.
        assert_eq!(prefixes(&census.best(8, &HashSet::new())), [(&open, 4)]);
        assert_eq!(prefixes(&census.best(1, &HashSet::new())), [(&closed, 7)]);
    }

    #[test]
    fn tenants_models_and_kinds_share_nothing() {
        let mut census = Census::new(REACH);
        let text = "the same beginning of all";
        for (tenant, model) in [
            (None, None),
            (Some("a"), None),
            (None, Some("a")),
            (Some(""), None),
        ] {
            for n in 0..2 {
                census.note(&Prompt::Text(format!("{text}{n}")), tenant, model);
            }
        }
        assert!(census.shared(99).is_empty());
        census.note(&Prompt::Text(text.to_owned()), Some(""), None);
        let expected = Prefix::text(text).tenant("");
        assert_eq!(prefixes(&census.shared(99)), [(&expected, 3)]);
    }

    #[test]
    fn a_review_is_due_when_something_becomes_shared_and_at_doublings() {
        let mut census = Census::new(REACH);
        let due: Vec<bool> = (0..13)
            .map(|n| ask(&mut census, "a system prompt", &format!("{n}")).due)
            .collect();
        let expected: Vec<bool> = (1..=13).map(|n| matches!(n, 3 | 6 | 12)).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn a_flood_of_prompts_that_come_once_stays_within_memory_and_pushes_nothing_out() {
        let mut census = Census::new(REACH);
        for n in 0..4_000u32 {
            ask(
                &mut census,
                "Instructions that every tenth has.",
                &format!("{:08x}", n.wrapping_mul(0x85eb_ca6b)),
            );
            for other in 0..9 {
                let unique = format!(
                    "{:08x}{other} {}",
                    n.wrapping_mul(0x9e37_79b9),
                    "x".repeat(80)
                );
                ask(&mut census, &unique, "?");
            }
            assert!(census.size().1 <= REACH.memory);
        }
        let found = census.best(1, &HashSet::new());
        let expected = Prefix::messages([Message::system("Instructions that every tenth has.")]);
        assert_eq!(prefixes(&found)[0].0, &expected.tenant("acme"));
    }

    #[test]
    fn what_is_kept_gives_way_only_to_what_is_asked_twice_as_often() {
        let mut census = Census::new(REACH);
        for n in 0..4 {
            ask(&mut census, "the first of two prompts", &format!("{n}"));
        }
        let first = census.best(1, &HashSet::new())[0].node;
        let kept = HashSet::from([first]);
        for n in 0..7 {
            ask(&mut census, "another, the second one", &format!("{n}"));
        }
        assert_eq!(census.best(1, &kept)[0].node, first);
        assert_ne!(census.best(1, &HashSet::new())[0].node, first);
        for n in 0..2 {
            ask(&mut census, "another, the second one", &format!("x{n}"));
        }
        assert_ne!(census.best(1, &kept)[0].node, first);
    }

    #[test]
    fn what_is_marked_takes_no_memory_from_the_others() {
        let mut census = Census::new(REACH);
        for n in 0..300 {
            let registered = Prefix::text(format!("{n} {}", "x".repeat(900)));
            let node = census.add(&registered, 0).expect("it has a path");
            census.mark(node);
        }
        for n in 0..3 {
            ask(&mut census, "what three prompts share", &format!("{n}"));
        }
        assert_eq!(census.shared(9).len(), 1);
    }

    #[test]
    fn prompts_nested_in_each_other_are_not_looked_through_for_each() {
        let mut census = Census::new(REACH);
        let due = (0..600).filter(|n| ask(&mut census, &"x".repeat(*n), "?").due);
        let looked = due.count();
        assert!(looked < 300, "{looked} of 600");
        census.best(4, &HashSet::new());
    }

    #[test]
    fn what_was_recalled_is_counted_once_though_it_is_nested() {
        let mut census = Census::new(REACH);
        let outer = "a system prompt for all of these";
        for n in 0..5 {
            ask(&mut census, outer, &format!("{n}"));
        }
        for n in 0..4 {
            ask(&mut census, outer, &format!("Please write a letter to {n}"));
        }
        let before: Vec<SharedPrefix> = census.shared(9).into_iter().map(|w| w.shared).collect();
        assert_eq!(before.len(), 2);
        let mut next = Census::new(REACH);
        let mut longest = before.clone();
        longest.sort_by_key(|shared| Reverse(shared.bytes));
        longest.iter().for_each(|shared| next.recall(shared));
        let after: Vec<SharedPrefix> = next.shared(9).into_iter().map(|w| w.shared).collect();
        assert_eq!(after, before);
    }

    #[test]
    fn what_all_go_on_with_belongs_to_what_they_share() {
        let mut census = Census::new(Reach { window: 8, ..REACH });
        let mut all = |from: u32, question: &str| {
            for n in from..from + 8 {
                ask(&mut census, "a system prompt", &format!("{question} {n}"));
            }
        };
        all(10, "other");
        // The other question fades, and what is left goes on the same way.
        (0..5).for_each(|_| all(10, "and"));
        let expected =
            Prefix::messages([Message::system("a system prompt"), Message::user("and 1")]);
        assert_eq!(
            prefixes(&census.shared(99))[0].0,
            &expected.open().tenant("acme")
        );
    }

    #[test]
    fn old_counts_fade() {
        let mut census = Census::new(Reach {
            window: 10,
            ..REACH
        });
        for n in 0..9 {
            ask(&mut census, "what was asked long ago", &format!("{n}"));
        }
        for n in 0..60 {
            ask(&mut census, "what is asked now, instead", &format!("{n}"));
        }
        let found = census.shared(99);
        assert_eq!(found.len(), 1, "{found:?}");
        let now = Prefix::messages([Message::system("what is asked now, instead")]);
        assert_eq!(found[0].shared.prefix, now.tenant("acme"));
    }

    #[test]
    fn a_prefix_that_is_added_stands_where_prompts_pass_it() {
        let mut census = Census::new(REACH);
        let prefix = Prefix::messages([Message::system("registered")]).tenant("acme");
        let node = census.add(&prefix, 0).expect("it has a path");
        census.mark(node);
        assert!(ask(&mut census, "registered", "?").marked);
        assert!(!ask(&mut census, "registered, no", "?").marked);
        assert!(
            !census
                .note(&Prompt::Text("registered".into()), Some("acme"), None)
                .marked
        );
        (0..40).for_each(|_| census.tree.age());
        assert!(
            ask(&mut census, "registered", "?").marked,
            "marks do not fade"
        );
        census.unmark(node);
        assert!(!ask(&mut census, "registered", "?").marked);
    }
}
