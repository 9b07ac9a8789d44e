//! Whether a replica makes sense.

use super::{Replica, ReplicaInfo};
use crate::router::BuildError;

/// Checks a replica that is to be in place `index`, and puts its lists in order.
pub(crate) fn check(replica: &mut Replica, index: usize) -> Result<(), BuildError> {
    let ReplicaInfo {
        name,
        models,
        aliases,
        capacity,
        cost,
        quality,
        context,
        ..
    } = &mut replica.info;
    if name.is_empty() {
        return Err(BuildError::EmptyName { index });
    }
    let name = || name.clone();
    if let Some(models) = models {
        if models.is_empty() {
            return Err(BuildError::NoModels { name: name() });
        }
        models.sort_unstable();
        models.dedup();
    }
    let listed = models.iter().flatten().chain(aliases.keys());
    if listed.chain(aliases.values()).any(String::is_empty) {
        return Err(BuildError::EmptyModel { name: name() });
    }
    for (alias, model) in aliases {
        let known = models.as_ref();
        if known.is_some_and(|models| models.binary_search(model).is_err()) {
            return Err(BuildError::AliasOfNothing {
                name: name(),
                alias: alias.clone(),
                model: model.clone(),
            });
        }
    }
    let wrong = |field, value: String| {
        Err(BuildError::BadValue {
            name: name(),
            field,
            value,
        })
    };
    match (capacity, context, cost, quality) {
        (Some(0), ..) => wrong("capacity", "0".into()),
        (_, Some(0), ..) => wrong("context", "0".into()),
        (_, _, Some(cost), _) if !(0.0..f64::INFINITY).contains(cost) => {
            wrong("cost", cost.to_string())
        }
        (_, _, _, Some(quality)) if !quality.is_finite() => wrong("quality", quality.to_string()),
        _ => Ok(()),
    }
}
