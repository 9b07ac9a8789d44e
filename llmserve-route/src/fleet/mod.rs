//! Who is there.

mod masks;
mod slot;

pub use slot::Slot;

use std::sync::Arc;

use crate::replica::{Replica, ReplicaInfo};
use crate::set::ReplicaSet;
use masks::Masks;

/// The members of a router at one moment: an immutable snapshot, replaced as a whole when
/// somebody comes, goes, or drains.
///
/// ```
/// # use llmserve_core::{Error, EventStream, Generate, Request};
/// # use llmserve_route::{Replica, Router};
/// # struct Closed;
/// # impl Generate for Closed {
/// #     fn generate(&self, _request: Request) -> EventStream {
/// #         EventStream::failed(Error::ShutDown)
/// #     }
/// # }
/// let router = Router::builder().replica(Replica::new("a", Closed)).build()?;
/// let before = router.fleet();
/// let b = router.add(Replica::new("b", Closed))?;
/// assert_eq!((before.len(), router.fleet().len()), (1, 2));
/// assert_eq!(router.fleet().replica(b).unwrap().info().name, "b");
/// assert!(router.fleet().version() > before.version());
/// # Ok::<(), llmserve_route::BuildError>(())
/// ```
#[derive(Clone, Default)]
pub struct Fleet {
    version: u64,
    /// By slot index.
    places: Vec<Place>,
    pub(crate) masks: Masks,
}

#[derive(Clone)]
struct Place {
    /// Of the member or, where there is none, of the next.
    generation: u32,
    member: Option<Arc<Replica>>,
    draining: bool,
}

impl Fleet {
    /// Grows with every change.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Members, those that drain included.
    pub fn len(&self) -> usize {
        self.masks.members.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.masks.members.is_empty()
    }

    /// The member in `slot`; none if it is gone.
    pub fn replica(&self, slot: Slot) -> Option<&Arc<Replica>> {
        let place = self.places.get(slot.index())?;
        (place.generation == slot.generation())
            .then_some(place.member.as_ref())
            .flatten()
    }

    /// The slot of the member with this name.
    pub fn find(&self, name: &str) -> Option<Slot> {
        self.members()
            .find_map(|(slot, replica)| (replica.info.name == name).then_some(slot))
    }

    /// Whether the member in `slot` takes no new requests.
    pub fn is_draining(&self, slot: Slot) -> bool {
        self.replica(slot).is_some() && self.masks.draining.contains(slot.index())
    }

    /// The members in the order of their slots.
    pub fn members(&self) -> impl Iterator<Item = (Slot, &Arc<Replica>)> {
        let places = self.places.iter().enumerate();
        places.filter_map(|(index, place)| {
            let slot = Slot::new(index as u32, place.generation);
            Some((slot, place.member.as_ref()?))
        })
    }

    /// Slots there are, those without a member included: every index is below.
    pub(crate) fn places(&self) -> usize {
        self.places.len()
    }

    /// The slot of the member at `index`, which there must be.
    pub(crate) fn slot(&self, index: usize) -> Slot {
        Slot::new(index as u32, self.places[index].generation)
    }

    /// What is known of the member at `index`.
    pub(crate) fn info(&self, index: usize) -> Option<&ReplicaInfo> {
        Some(&self.places.get(index)?.member.as_ref()?.info)
    }

    /// The set of those of `slots` that are still members.
    pub(crate) fn present(&self, slots: &[Slot]) -> ReplicaSet {
        let present = slots.iter().filter(|slot| self.replica(**slot).is_some());
        present.map(|slot| slot.index()).collect()
    }

    /// This fleet and checked replicas, each in the lowest free slot; the slot is the last one's.
    pub(crate) fn with_all(&self, replicas: Vec<Replica>) -> (Self, Slot) {
        let mut places = self.places.clone();
        let mut last = Slot::new(0, 0);
        let mut from = 0;
        for replica in replicas {
            let free = places[from..]
                .iter()
                .position(|place| place.member.is_none());
            let index = free.map_or(places.len(), |at| from + at);
            from = index;
            if index == places.len() {
                places.push(Place {
                    generation: 0,
                    member: None,
                    draining: false,
                });
            }
            places[index].member = Some(Arc::new(replica));
            last = Slot::new(index as u32, places[index].generation);
        }
        (self.changed(places), last)
    }

    /// This fleet without the member in `slot`.
    pub(crate) fn without(&self, slot: Slot) -> Self {
        let mut places = self.places.clone();
        places[slot.index()] = Place {
            generation: slot.generation().wrapping_add(1),
            member: None,
            draining: false,
        };
        self.changed(places)
    }

    /// This fleet, with the member in `slot` draining or no longer.
    pub(crate) fn with_draining(&self, slot: Slot, draining: bool) -> Self {
        let mut places = self.places.clone();
        places[slot.index()].draining = draining;
        self.changed(places)
    }

    fn changed(&self, places: Vec<Place>) -> Self {
        let members = places.iter().enumerate().filter_map(|(index, place)| {
            let replica = place.member.as_ref()?;
            Some((index, &replica.info, place.draining))
        });
        Self {
            version: self.version + 1,
            masks: Masks::of(members),
            places,
        }
    }
}

impl std::fmt::Debug for Fleet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.members()).finish()
    }
}
