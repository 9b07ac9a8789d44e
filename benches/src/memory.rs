//! How much memory this process has resident.

/// Most memory this process had resident since [`reset_peak_rss`], in bytes; 0 where the system
/// does not say.
pub fn peak_rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Lets the peak start anew from what is resident now. Only Linux has a way to; elsewhere nothing
/// happens.
pub fn reset_peak_rss() {
    // A kernel without it only leaves the figure higher.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
