//! What an index holds. No lock of its own.

use std::collections::HashMap;
use std::mem::size_of;
use std::sync::Arc;

use super::super::error::IndexError;
use super::super::quantised::{Quantised, Query};
use super::super::shelf::Shelf;
use super::IndexStats;

/// No entry.
const NONE: u32 = u32::MAX;

/// Bytes charged for an entry beyond its row and its text: its place in the slab, its id's slot in
/// the map (half empty at worst), the counts that its text is shared by.
const ENTRY_OVERHEAD: usize = size_of::<Entry>() + 2 * size_of::<(u128, u32)>() + 16;
/// Bytes charged for a namespace beyond its shelf's pages.
const NAMESPACE_OVERHEAD: usize = 2 * size_of::<(u128, Shelf)>();

struct Entry {
    id: u128,
    namespace: u128,
    text: Arc<str>,
    /// Its row's place in the namespace's shelf.
    place: u32,
    older: u32,
    newer: u32,
}

/// What was let go, to be freed by the caller once the lock is.
pub(super) type LetGo = Vec<Arc<str>>;

/// A near text.
pub(super) struct Found {
    pub(super) id: u128,
    pub(super) similarity: f32,
    pub(super) text: Arc<str>,
}

pub(super) struct State {
    dimensions: usize,
    max_bytes: usize,
    approximate_from: usize,
    entries: Vec<Option<Entry>>,
    free: Vec<u32>,
    by_id: HashMap<u128, u32>,
    namespaces: HashMap<u128, Shelf>,
    oldest: u32,
    newest: u32,
    bytes: usize,
    evictions: u64,
}

impl State {
    pub(super) fn new(dimensions: usize, max_bytes: usize, approximate_from: usize) -> Self {
        Self {
            dimensions,
            max_bytes,
            approximate_from,
            entries: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            namespaces: HashMap::new(),
            oldest: NONE,
            newest: NONE,
            bytes: 0,
            evictions: 0,
        }
    }

    pub(super) fn insert(
        &mut self,
        namespace: u128,
        text: &str,
        vector: &Quantised,
        id: u128,
        let_go: &mut LetGo,
    ) -> Result<(), IndexError> {
        let own = ENTRY_OVERHEAD + text.len();
        // A shelf of one row has room for one row.
        let mut single = Shelf::new(self.dimensions, self.approximate_from);
        single.push(vector, 0, 0);
        let bytes = own + NAMESPACE_OVERHEAD + single.bytes();
        if bytes > self.max_bytes {
            return Err(IndexError::TooLarge {
                bytes,
                limit: self.max_bytes,
            });
        }
        let_go.extend(self.remove(id));
        let number = self.free.pop().unwrap_or_else(|| {
            self.entries.push(None);
            (self.entries.len() - 1) as u32
        });
        let tie = xxhash_rust::xxh3::xxh3_64(&id.to_le_bytes());
        let place = self.on_shelf(namespace, |shelf| shelf.push(vector, number, tie));
        self.entries[number as usize] = Some(Entry {
            id,
            namespace,
            text: text.into(),
            place,
            older: NONE,
            newer: NONE,
        });
        self.by_id.insert(id, number);
        self.bytes += own;
        self.link(number);
        // The newest is never given up: alone it fits.
        while self.bytes > self.max_bytes && self.oldest != number {
            let_go.extend(self.take(self.oldest));
            self.evictions += 1;
        }
        Ok(())
    }

    /// The nearest in a namespace, best first.
    pub(super) fn nearest(&self, namespace: u128, query: &Query, k: usize) -> Vec<Found> {
        let Some(shelf) = self.namespaces.get(&namespace) else {
            return Vec::new();
        };
        let found = shelf.nearest(query, k).into_iter().filter_map(|near| {
            let entry = self.entries[near.entry as usize].as_ref()?;
            Some(Found {
                id: entry.id,
                similarity: near.similarity,
                text: entry.text.clone(),
            })
        });
        found.collect()
    }

    /// Makes an entry the most recently used, if it is still there.
    pub(super) fn touch(&mut self, id: u128) {
        if let Some(number) = self.by_id.get(&id).copied()
            && self.newest != number
        {
            self.unlink(number);
            self.link(number);
        }
    }

    pub(super) fn remove(&mut self, id: u128) -> Option<Arc<str>> {
        let number = self.by_id.get(&id).copied()?;
        self.take(number)
    }

    pub(super) fn remove_namespace(&mut self, namespace: u128) -> LetGo {
        let mut let_go = LetGo::new();
        while let Some(number) = self.namespaces.get(&namespace).and_then(Shelf::last) {
            let_go.extend(self.take(number));
        }
        let_go
    }

    pub(super) fn clear(&mut self) -> Self {
        let mut fresh = Self::new(self.dimensions, self.max_bytes, self.approximate_from);
        fresh.evictions = self.evictions;
        std::mem::replace(self, fresh)
    }

    pub(super) fn stats(&self) -> IndexStats {
        IndexStats {
            entries: self.by_id.len(),
            namespaces: self.namespaces.len(),
            bytes: self.bytes,
            evictions: self.evictions,
        }
    }

    /// Takes an entry out: of the list, the map, the slab and its shelf.
    fn take(&mut self, number: u32) -> Option<Arc<str>> {
        self.unlink(number);
        let entry = self.entries[number as usize].take()?;
        self.free.push(number);
        self.by_id.remove(&entry.id);
        self.bytes -= ENTRY_OVERHEAD + entry.text.len();
        let moved = self.on_shelf(entry.namespace, |shelf| shelf.swap_remove(entry.place));
        if let Some(moved) = moved.and_then(|moved| self.entries[moved as usize].as_mut()) {
            moved.place = entry.place;
        }
        Some(entry.text)
    }

    /// Changes a namespace's shelf and keeps count of its bytes. A shelf is made when it is needed
    /// and dropped when it is empty.
    fn on_shelf<T>(&mut self, namespace: u128, change: impl FnOnce(&mut Shelf) -> T) -> T {
        let mut before = 0;
        let shelf = self
            .namespaces
            .entry(namespace)
            .and_modify(|shelf| before = NAMESPACE_OVERHEAD + shelf.bytes())
            .or_insert_with(|| Shelf::new(self.dimensions, self.approximate_from));
        let changed = change(shelf);
        let after = if shelf.is_empty() {
            self.namespaces.remove(&namespace);
            0
        } else {
            NAMESPACE_OVERHEAD + shelf.bytes()
        };
        self.bytes = self.bytes + after - before;
        changed
    }

    /// Puts an entry at the newest end of the list.
    fn link(&mut self, number: u32) {
        let newest = self.newest;
        if let Some(entry) = &mut self.entries[number as usize] {
            (entry.older, entry.newer) = (newest, NONE);
        }
        match self.entry(newest) {
            Some(entry) => entry.newer = number,
            None => self.oldest = number,
        }
        self.newest = number;
    }

    /// Takes an entry out of the list.
    fn unlink(&mut self, number: u32) {
        let Some(entry) = self.entry(number) else {
            return;
        };
        let (older, newer) = (entry.older, entry.newer);
        match self.entry(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.entry(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
    }

    fn entry(&mut self, number: u32) -> Option<&mut Entry> {
        self.entries.get_mut(number as usize)?.as_mut()
    }
}
