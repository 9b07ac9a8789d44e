//! How many threads pay off.

use std::collections::BTreeSet;
use std::fs;

/// Physical cores that this process may use: what `available_parallelism` allows (affinity,
/// container quota), but one per core where two hardware threads share a core's vector units.
///
/// ```
/// assert!(llmserve_model::physical_cores() >= 1);
/// ```
pub fn physical_cores() -> usize {
    let allowed = std::thread::available_parallelism().map_or(1, usize::from);
    match distinct_cores() {
        Some(cores) => allowed.min(cores).max(1),
        None => allowed,
    }
}

/// The machine's cores by their lists of hardware threads, where Linux tells.
fn distinct_cores() -> Option<usize> {
    let mut cores = BTreeSet::new();
    for entry in fs::read_dir("/sys/devices/system/cpu").ok()? {
        let path = entry.ok()?.path();
        let topology = path.join("topology");
        let siblings = fs::read_to_string(topology.join("core_cpus_list"))
            .or_else(|_| fs::read_to_string(topology.join("thread_siblings_list")));
        if let Ok(siblings) = siblings {
            cores.insert(siblings);
        }
    }
    (!cores.is_empty()).then_some(cores.len())
}
