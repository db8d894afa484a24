//! The page that a scraper reads.

use prometheus::TextEncoder;
use prometheus::core::Collector;

use super::Metrics;

/// Renders the page. An encoding error leaves a comment instead of a page, which a scraper reports.
pub(super) fn render(metrics: &Metrics) -> String {
    let families = metrics.collect();
    TextEncoder::new().encode_to_string(&families).unwrap_or_else(|error| format!("# {error}\n"))
}

/// Resident memory as the kernel counts it; `None` where there is no such file.
pub(super) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Descriptors that are open now; `None` where there is no such folder.
pub(super) fn open_fds() -> Option<u64> {
    // Reading the folder opens one.
    Some((std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1))
}

/// As many descriptors may be open; `None` if that is not limited.
pub(super) fn max_fds() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Nofile).current
}

/// User and system time of the process, in seconds.
pub(super) fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
