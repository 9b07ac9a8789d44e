//! Who decides about regions by itself.

use std::any::TypeId;
use std::sync::Arc;

use crate::federation::Federation;
use crate::router::Router;
use crate::tiers::{Cascade, Tiered};

/// Whether a service of this type sends a request that names regions only to replicas in them: a
/// router does, and what is one. What is around one, such as a limit, cannot be told from here.
pub(super) fn by_kind(of: TypeId) -> bool {
    let kinds = [
        TypeId::of::<Router>(),
        TypeId::of::<Arc<Router>>(),
        TypeId::of::<Federation>(),
        TypeId::of::<Arc<Federation>>(),
        TypeId::of::<Tiered>(),
        TypeId::of::<Arc<Tiered>>(),
        TypeId::of::<Cascade>(),
        TypeId::of::<Arc<Cascade>>(),
    ];
    kinds.contains(&of)
}
