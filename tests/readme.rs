//! The README's tables are those of the code.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;

use slotmux::config::BOUNDS;
use slotmux::error::{ErrorKind, Repeat};
use slotmux::metrics::DECLARED;

const README: &str = include_str!("../README.md");

#[test]
fn every_bound_has_its_row() {
    let mut table =
        String::from("| bound | default | reason | metric | at the bound |\n|---|---|---|---|---|\n");
    for bound in BOUNDS {
        let (flag, what) = (bound.flag, bound.what);
        let (default, reason, metric, at) = (bound.default, bound.reason, bound.metric, bound.at_bound);
        writeln!(table, "| `--{flag}`: {what} | `{default}` | {reason} | `{metric}` | {at} |").unwrap();
    }
    assert_section("bounds", &table);
}

#[test]
fn every_metric_has_its_row() {
    let mut table = String::from("| metric | label | what |\n|---|---|---|\n");
    for metric in DECLARED {
        let label = metric.label.map(|label| format!("`{label}`")).unwrap_or_default();
        writeln!(table, "| `{}` | {label} | {} |", metric.name, metric.help).unwrap();
    }
    assert_section("metrics", &table);
}

#[test]
fn every_error_has_its_row() {
    let mut table = String::from("| kind | was it executed, and may it be sent again? |\n|---|---|\n");
    for kind in ErrorKind::ALL {
        let repeat = match kind.repeat() {
            Repeat::Safe => "not executed; may be sent again",
            Repeat::Unknown => "unknown; only the application knows whether a repeat is harmless",
            Repeat::Useless => "not executed; the same command fails again",
        };
        writeln!(table, "| `{}` | {repeat} |", kind.label()).unwrap();
    }
    assert_section("errors", &table);
}

#[test]
fn every_bounds_metric_is_declared() {
    for bound in BOUNDS {
        let name = bound.metric.split('{').next().unwrap();
        assert!(DECLARED.iter().any(|metric| metric.name == name), "{}: no metric {name}", bound.name);
    }
}

fn assert_section(name: &str, expected: &str) {
    let (start, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let found = README.split_once(&start).and_then(|(_, rest)| rest.split_once(&end)).unwrap().0;
    assert!(found == expected, "README.md: put this between {start}and {end}:\n{expected}");
}
