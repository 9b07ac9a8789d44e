//! `namespace(…)`: the one thing that a template can change.
//!
//! Something that can be changed can be made to hold itself, or to nest a level deeper at every turn
//! of a loop; printing or dropping that overflows the stack and takes the process along. So the
//! renderer's own namespaces cannot be had. These are objects that the renderer will not assign to;
//! they change through one function alone, which looks at each value first. `{% set ns.x = value %}`
//! is rewritten to a call of it. Should the rewriter ever overlook an assignment, the renderer
//! refuses it: what is not checked does not happen.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, Value, ValueKind};
use minijinja::{Error, ErrorKind};
use parking_lot::Mutex;

use super::FUEL;

/// The name of [`assign`] in templates.
pub(super) const ASSIGN: &str = "__assign";
/// Nesting of a value that a namespace may hold. Conversations nest by a handful.
const MAX_DEPTH: usize = 32;

thread_local! {
    /// Values that this rendering may still look at. Each runs on a thread of its own.
    static LEFT: Cell<u64> = const { Cell::new(0) };
}

/// Begins a rendering on this thread.
pub(super) fn refill() {
    LEFT.set(FUEL);
}

#[derive(Debug, Default)]
struct Namespace {
    attributes: Mutex<BTreeMap<Arc<str>, Value>>,
}

impl Object for Namespace {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.attributes.lock().get(key.as_str()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let names = self
            .attributes
            .lock()
            .keys()
            .cloned()
            .map(Value::from)
            .collect();
        Enumerator::Values(names)
    }
}

impl Namespace {
    fn set(&self, name: &str, value: Value) -> Result<(), Error> {
        let value = flat(value)?;
        // The old value is dropped after the lock.
        let _old = self.attributes.lock().insert(name.into(), value);
        Ok(())
    }
}

/// The function `namespace`: of a dictionary, of named values, or of both.
pub(super) fn namespace(defaults: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let made = Namespace::default();
    if let Some(defaults) = defaults {
        if defaults.kind() != ValueKind::Map {
            return refuse(format!(
                "namespace: expected a dictionary, got {}",
                defaults.kind()
            ));
        }
        for key in defaults.try_iter()? {
            if let Some(name) = key.as_str() {
                made.set(name, defaults.get_item(&key)?)?;
            }
        }
    }
    for name in named.args() {
        made.set(name, named.get::<Value>(name)?)?;
    }
    named.assert_all_used()?;
    Ok(Value::from_object(made))
}

/// The function [`ASSIGN`].
pub(super) fn assign(target: &Value, name: &str, value: Value) -> Result<(), Error> {
    match target.downcast_object_ref::<Namespace>() {
        Some(namespace) => namespace.set(name, value),
        None => refuse(format!(
            "can only assign to namespaces, not {}",
            target.kind()
        )),
    }
}

fn refuse<T>(reason: String) -> Result<T, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, reason))
}

/// Refuses what a namespace must not hold: a namespace, or anything nested too deeply. An iterator
/// becomes the list of its items, which can be looked into.
fn flat(value: Value) -> Result<Value, Error> {
    let value = match value.kind() {
        ValueKind::Iterable => {
            let mut items = Vec::new();
            for item in value.try_iter()? {
                spend()?;
                items.push(item);
            }
            Value::from(items)
        }
        _ => value,
    };
    check(&value, 0)?;
    Ok(value)
}

/// One value shared by many is looked at as often as it is printed.
fn spend() -> Result<(), Error> {
    match LEFT.get() {
        0 => Err(Error::from(ErrorKind::OutOfFuel)),
        left => {
            LEFT.set(left - 1);
            Ok(())
        }
    }
}

fn check(value: &Value, depth: usize) -> Result<(), Error> {
    spend()?;
    if value.downcast_object_ref::<Namespace>().is_some() {
        return refuse("a namespace cannot hold a namespace".to_owned());
    }
    if depth > MAX_DEPTH {
        return refuse(format!(
            "a namespace cannot hold values nested deeper than {MAX_DEPTH}"
        ));
    }
    match value.kind() {
        ValueKind::Seq => {
            for item in value.try_iter()? {
                check(&item, depth + 1)?;
            }
        }
        ValueKind::Map => {
            for key in value.try_iter()? {
                check(&key, depth + 1)?;
                check(&value.get_item(&key)?, depth + 1)?;
            }
        }
        // It holds what it was made of out of sight.
        ValueKind::Iterable => {
            return refuse("a namespace cannot hold an iterator within a value".to_owned());
        }
        _ => {}
    }
    Ok(())
}
