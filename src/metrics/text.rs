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
