//! What paths begin with, and how many do: a radix tree.
//!
//! ```text
//!            "You help Acme."  12
//!              ├── "Where is my "  7 ── "parcel?" 1, "refund?" 1, …
//!              └── "Who"  1
//! ```
//!
//! A node is a beginning that some paths share, with the number of them. It splits where the next
//! one leaves it, so what is shared is known to the byte. Bounded in bytes: when there are too many,
//! all counts are halved and what has none left goes, which forgets what came once long before
//! what comes again and again.

/// A node's place in the slab.
pub(in crate::prompt) type NodeId = u32;

const ROOT: NodeId = 0;
/// Bytes a node takes besides those of its edge.
const NODE: usize = size_of::<Node>() + 16;

#[derive(Debug, Default)]
pub(super) struct Node {
    /// What it has beyond its parent.
    edge: Box<[u8]>,
    parent: NodeId,
    /// By the first byte of their edges.
    children: Vec<NodeId>,
    /// Paths that began with it.
    pub(super) count: u32,
    /// What callers keep for it, which also keeps it.
    pub(super) marks: u32,
}

/// A beginning after which paths part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Branch {
    pub(super) id: NodeId,
    pub(super) count: u32,
    /// Of its path.
    pub(super) bytes: usize,
    /// Of the longest beginning that more paths share.
    pub(super) heavier: usize,
}

#[derive(Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    vacant: Vec<NodeId>,
    bytes: usize,
}

impl Tree {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
            vacant: Vec::new(),
            bytes: NODE,
        }
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.nodes.len() - self.vacant.len() - 1
    }

    pub(super) fn node(&self, id: NodeId) -> &Node {
        &self.nodes[id as usize]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id as usize]
    }

    /// All nodes but the root.
    #[cfg(test)]
    pub(super) fn ids(&self) -> impl Iterator<Item = NodeId> {
        let mut order = vec![ROOT];
        let mut next = 0;
        while next < order.len() {
            order.extend_from_slice(&self.node(order[next]).children);
            next += 1;
        }
        order.into_iter().skip(1)
    }

    /// Counts `times` more of a path. Calls `through` for each node it goes through, with how many
    /// bytes of the path end there; the last is the node of the whole path.
    pub(super) fn add(
        &mut self,
        path: &[u8],
        times: u32,
        mut through: impl FnMut(&mut Node, NodeId, usize),
    ) {
        let (mut at, mut done) = (ROOT, 0);
        while done < path.len() {
            let rest = &path[done..];
            let found = self.child(at, rest[0]);
            let (next, common) = match found {
                Ok(place) => {
                    let child = self.nodes[at as usize].children[place];
                    let common = common(&self.nodes[child as usize].edge, rest);
                    if common < self.nodes[child as usize].edge.len() {
                        (self.split(child, common), common)
                    } else {
                        (child, common)
                    }
                }
                Err(place) => {
                    let leaf = self.insert(Node {
                        edge: rest.into(),
                        parent: at,
                        ..Node::default()
                    });
                    self.nodes[at as usize].children.insert(place, leaf);
                    (leaf, rest.len())
                }
            };
            done += common;
            let node = &mut self.nodes[next as usize];
            node.count = node.count.saturating_add(times);
            through(node, next, done);
            at = next;
        }
    }

    /// The bytes of a node's path from the root.
    pub(super) fn path(&self, id: NodeId) -> Vec<u8> {
        let mut edges = Vec::new();
        let mut at = id;
        while at != ROOT {
            let node = self.node(at);
            edges.push(&*node.edge);
            at = node.parent;
        }
        edges
            .iter()
            .rev()
            .flat_map(|edge| edge.iter().copied())
            .collect()
    }

    /// Every node with at least so many paths that do not all go on the same way, with the bytes of
    /// its path and of the longest beginning of it that more share. One walk, whatever is nested.
    pub(super) fn shared_by(&self, least: u32) -> Vec<Branch> {
        let mut found = Vec::new();
        // A node, its path's bytes before it, the bytes that more share, and how many share those.
        let mut todo = vec![(ROOT, 0, 0, u32::MAX)];
        while let Some((id, before, heavier, of)) = todo.pop() {
            let node = self.node(id);
            let bytes = before + node.edge.len();
            // What as many share as share its parent belongs to the same beginning.
            let heavier = if id == ROOT || node.count < of {
                before
            } else {
                heavier
            };
            let go_on = node.children.iter().map(|child| self.node(*child).count);
            if id != ROOT && node.count >= least && go_on.max() != Some(node.count) {
                found.push(Branch {
                    id,
                    count: node.count,
                    bytes,
                    heavier,
                });
            }
            let of = if id == ROOT { u32::MAX } else { node.count };
            let below = node.children.iter();
            let below = below.filter(|child| self.node(**child).count >= least);
            todo.extend(below.map(|child| (*child, bytes, heavier, of)));
        }
        found
    }

    /// Bytes that keeping this node takes, those before it included; the same at any time.
    pub(super) fn cost(&self, id: NodeId) -> usize {
        let mut bytes = 2 * NODE;
        let mut at = id;
        while at != ROOT {
            bytes += self.node(at).edge.len();
            at = self.node(at).parent;
        }
        bytes
    }

    pub(super) fn parent(&self, id: NodeId) -> Option<NodeId> {
        let parent = self.node(id).parent;
        (parent != ROOT).then_some(parent)
    }

    /// Halves all counts, and drops what has none left and no mark on it or below it.
    pub(super) fn age(&mut self) {
        for node in &mut self.nodes {
            node.count /= 2;
        }
        self.drop_up_to(0);
    }

    /// Drops what came at most so often and has no mark on it, nor anything that stays below it.
    pub(super) fn drop_up_to(&mut self, count: u32) {
        // Children before parents: one that goes may leave its parent without any.
        let mut order = vec![ROOT];
        let mut next = 0;
        while next < order.len() {
            order.extend_from_slice(&self.nodes[order[next] as usize].children);
            next += 1;
        }
        for &id in order[1..].iter().rev() {
            let node = &self.nodes[id as usize];
            if node.count <= count && node.marks == 0 && node.children.is_empty() {
                self.remove(id);
            }
        }
    }

    /// The place among `at`'s children of the one whose edge begins with `byte`.
    fn child(&self, at: NodeId, byte: u8) -> Result<usize, usize> {
        self.nodes[at as usize]
            .children
            .binary_search_by_key(&byte, |child| self.nodes[*child as usize].edge[0])
    }

    /// Puts a node between `id` and its parent, with the first `length` bytes of its edge.
    fn split(&mut self, id: NodeId, length: usize) -> NodeId {
        let node = &mut self.nodes[id as usize];
        let (parent, count) = (node.parent, node.count);
        let edge = std::mem::take(&mut node.edge);
        let (front, rest) = edge.split_at(length);
        node.edge = rest.into();
        self.bytes -= length;
        let middle = self.insert(Node {
            edge: front.into(),
            parent,
            children: vec![id],
            count,
            marks: 0,
        });
        self.nodes[id as usize].parent = middle;
        let place = self.nodes[parent as usize]
            .children
            .iter()
            .position(|child| *child == id);
        if let Some(place) = place {
            self.nodes[parent as usize].children[place] = middle;
        }
        middle
    }

    fn insert(&mut self, node: Node) -> NodeId {
        self.bytes += NODE + node.edge.len();
        match self.vacant.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as NodeId
            }
        }
    }

    fn remove(&mut self, id: NodeId) {
        let node = std::mem::take(&mut self.nodes[id as usize]);
        self.bytes -= NODE + node.edge.len();
        self.nodes[node.parent as usize]
            .children
            .retain(|child| *child != id);
        self.vacant.push(id);
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    // By eights first: prompts that share a template share thousands of bytes.
    let (runs, _) = a.as_chunks::<8>();
    let (others, _) = b.as_chunks::<8>();
    let whole = runs.iter().zip(others).take_while(|(a, b)| a == b).count() * 8;
    let rest = a[whole..].iter().zip(&b[whole..]);
    whole + rest.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Every beginning at which paths part or end, with how many go through it.
    fn naive(paths: &[Vec<u8>]) -> BTreeMap<Vec<u8>, u32> {
        let mut beginnings = BTreeMap::new();
        for path in paths {
            for end in 1..=path.len() {
                let beginning = &path[..end];
                let through = |p: &&Vec<u8>| p.starts_with(beginning);
                let count = paths.iter().filter(through).count();
                let next: std::collections::BTreeSet<_> =
                    paths.iter().filter(through).map(|p| p.get(end)).collect();
                if next.len() > 1 || next.contains(&None) {
                    beginnings.insert(beginning.to_vec(), count as u32);
                }
            }
        }
        beginnings
    }

    fn nodes(tree: &Tree) -> BTreeMap<Vec<u8>, u32> {
        tree.ids()
            .map(|id| (tree.path(id), tree.node(id).count))
            .collect()
    }

    fn check(tree: &Tree) {
        let mut bytes = NODE;
        for id in tree.ids() {
            let node = tree.node(id);
            bytes += NODE + node.edge.len();
            assert!(!node.edge.is_empty());
            assert!(tree.nodes[node.parent as usize].children.contains(&id));
            let firsts: Vec<u8> = node
                .children
                .iter()
                .map(|c| tree.node(*c).edge[0])
                .collect();
            assert!(firsts.is_sorted_by(|a, b| a < b), "{firsts:?}");
            let below: u32 = node.children.iter().map(|c| tree.node(*c).count).sum();
            assert!(below <= node.count);
        }
        assert_eq!(bytes, tree.bytes());
        let all = nodes(tree);
        for branch in tree.shared_by(2) {
            let path = tree.path(branch.id);
            assert_eq!((path.len(), all[&path]), (branch.bytes, branch.count));
            assert!(branch.count >= 2);
            // The longest that more share.
            let more = |end: &usize| all.get(&path[..*end]).is_some_and(|c| *c > branch.count);
            let heavier = (1..path.len()).rev().find(more).unwrap_or(0);
            assert_eq!(branch.heavier, heavier);
        }
    }

    fn paths() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec(prop::collection::vec(0..3u8, 0..20), 0..30)
    }

    proptest! {
        #[test]
        fn it_knows_where_paths_part_and_how_many_share_what(paths in paths()) {
            let mut tree = Tree::new();
            for path in &paths {
                let mut ends = Vec::new();
                tree.add(path, 1, |_, _, end| ends.push(end));
                prop_assert!(ends.is_sorted_by(|a, b| a < b));
                prop_assert_eq!(ends.last().copied().unwrap_or(0), path.len());
                check(&tree);
            }
            prop_assert_eq!(nodes(&tree), naive(&paths));
        }

        #[test]
        fn aging_halves_and_forgets(paths in paths(), marked in any::<usize>()) {
            let mut tree = Tree::new();
            paths.iter().for_each(|path| tree.add(path, 1, |_, _, _| ()));
            let ids: Vec<NodeId> = tree.ids().collect();
            let marked = (!ids.is_empty()).then(|| ids[marked % ids.len()]);
            marked.iter().for_each(|id| tree.node_mut(*id).marks = 1);
            let kept = marked.map(|id| tree.path(id)).unwrap_or_default();
            let before = nodes(&tree);
            tree.age();
            check(&tree);
            let expected: BTreeMap<_, _> = before
                .into_iter()
                .filter(|(path, count)| *count > 1 || kept.starts_with(path))
                .map(|(path, count)| (path, count / 2))
                .collect();
            prop_assert_eq!(nodes(&tree), expected);
            marked.iter().for_each(|id| tree.node_mut(*id).marks = 0);
            (0..6).for_each(|_| tree.age());
            prop_assert_eq!((tree.len(), tree.bytes()), (0, NODE));
        }
    }
}
