//! How many threads pay off.

use std::collections::BTreeSet;
use std::fs;

/// Physical cores that this thread may use, at least 1: of the CPUs in its affinity mask, one per
/// core where several hardware threads share a core's vector units, and no more than
/// `available_parallelism` grants (a container's quota). Where the system does not tell which CPUs
/// share a core (anything but Linux), the latter alone.
///
/// ```
/// assert!(llmserve_model::physical_cores() >= 1);
/// ```
pub fn physical_cores() -> usize {
    let granted = std::thread::available_parallelism().map_or(1, usize::from);
    match allowed_cpus().and_then(|cpus| distinct_cores(&cpus, siblings)) {
        Some(cores) => granted.min(cores).max(1),
        None => granted,
    }
}

/// The CPUs of this thread's affinity mask.
fn allowed_cpus() -> Option<BTreeSet<usize>> {
    let status = fs::read_to_string("/proc/thread-self/status")
        .or_else(|_| fs::read_to_string("/proc/self/status"))
        .ok()?;
    let list = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    parse_list(list)
}

/// A list as the kernel writes it: `0-3,8`.
fn parse_list(list: &str) -> Option<BTreeSet<usize>> {
    /// More than Linux can be built for; a list beyond is not one.
    const MOST: usize = 1 << 16;
    let mut cpus = BTreeSet::new();
    for part in list.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        if first > last || last >= MOST {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// The hardware threads of a CPU's core, as text.
fn siblings(cpu: usize) -> Option<String> {
    let topology = format!("/sys/devices/system/cpu/cpu{cpu}/topology");
    fs::read_to_string(format!("{topology}/core_cpus_list"))
        .or_else(|_| fs::read_to_string(format!("{topology}/thread_siblings_list")))
        .ok()
}

/// How many cores `cpus` belong to; nothing if that is unknown for any.
fn distinct_cores(
    cpus: &BTreeSet<usize>,
    siblings: impl Fn(usize) -> Option<String>,
) -> Option<usize> {
    let cores: BTreeSet<String> = cpus
        .iter()
        .map(|&cpu| siblings(cpu))
        .collect::<Option<_>>()?;
    Some(cores.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        let list = |text| parse_list(text).map(Vec::from_iter);
        assert_eq!(list("\t0-2,5,8-9\n"), Some(vec![0, 1, 2, 5, 8, 9]));
        assert_eq!(list("7"), Some(vec![7]));
        for bad in ["", "1-", "3-1", "x", "0-99999999999", "1,,2"] {
            assert_eq!(list(bad), None, "{bad}");
        }
    }

    #[test]
    fn hardware_threads_of_a_core_count_once_and_only_if_allowed() {
        // Four cores of two threads: 0 and 4, 1 and 5, …
        let siblings = |cpu: usize| (cpu < 8).then(|| format!("{},{}", cpu % 4, cpu % 4 + 4));
        let cores = |cpus: &[usize]| distinct_cores(&cpus.iter().copied().collect(), siblings);
        assert_eq!(cores(&[0, 1, 2, 3, 4, 5, 6, 7]), Some(4));
        assert_eq!(cores(&[0, 4]), Some(1));
        assert_eq!(cores(&[0, 5, 6]), Some(3));
        assert_eq!(cores(&[0, 8]), None);
    }
}
