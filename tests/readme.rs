//! The README's tables are those of the code.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use slotmux::command::{Family, Flags, NAMES, Route, table};
use slotmux::config::{BOUNDS, SETTINGS, Scope};
use slotmux::error::{ErrorKind, Repeat};
use slotmux::metrics::{DECLARED, Per, Reached, Series};

const README: &str = include_str!("../README.md");
const ANNOTATED: &str = include_str!("../config/slotmux.yaml");

#[test]
fn every_setting_has_its_row() {
    let mut table = String::from("| in the file | flag | default | what |\n|---|---|---|---|\n");
    for setting in SETTINGS {
        let flag =
            setting.flag.map(|flag| format!("`--{flag} {}", setting.value).trim_end().to_owned() + "`");
        let default =
            if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        let (path, flag, what) = (setting.path(), flag.unwrap_or_default(), setting.what);
        writeln!(table, "| `{path}` | {flag} | {default} | {what} |").unwrap();
    }
    assert_section("settings", &table);
}

#[test]
fn every_bound_has_its_row() {
    let mut table = String::from(
        "| bound | of | default | reason | metric | at the bound |\n|---|---|---|---|---|---|\n",
    );
    for bound in BOUNDS {
        let of = match bound.scope {
            Scope::Process => "process",
            Scope::Cluster => "cluster",
            Scope::Listener => "listener",
        };
        let (name, flag, what) = (bound.name, bound.flag, bound.what);
        let (default, reason, metric, at) = (bound.default, bound.reason, bound.metric, bound.at_bound);
        let row =
            format!("| `{name}`, `--{flag}`: {what} | {of} | `{default}` | {reason} | `{metric}` | {at} |");
        writeln!(table, "{row}").unwrap();
    }
    assert_section("bounds", &table);
}

#[test]
fn every_metric_has_its_row() {
    let (families, commands) = (Family::ALL.len(), NAMES.len());
    let mut table = String::from("| metric | labels | series | what |\n|---|---|---:|---|\n");
    for metric in DECLARED {
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let Series { per, rows, rare } = metric.series(families, commands, false);
        let of = match per {
            Per::Process => "",
            Per::Cluster => " per cluster",
            Per::Node => " per node",
        };
        let most = if rare { "≤ " } else { "" };
        let (labels, help) = (labels.join(", "), metric.help);
        writeln!(table, "| `{}` | {labels} | {most}{rows}{of} | {help} |", metric.name).unwrap();
    }
    let count = |per, histograms| -> usize {
        let series = DECLARED.iter().map(|metric| metric.series(families, commands, histograms));
        series.filter(|series| series.per == per && !series.rare).map(|series| series.rows).sum()
    };
    let [process, cluster, node] = [Per::Process, Per::Cluster, Per::Node].map(|per| count(per, false));
    let buckets = count(Per::Node, true);
    writeln!(
        table,
        "\nFor C clusters and N nodes that is {process} + {cluster} × C + {node} × N series ({buckets} × N with \
         `metrics.per_node_histograms`; N counts the nodes that the proxy sends to), and of those with ≤ only the rows that \
         are not zero."
    )
    .unwrap();
    assert_section("metrics", &table);
}

#[test]
fn every_error_has_its_row() {
    let mut table = String::from("| kind | had it an effect, and may it be sent again? |\n|---|---|\n");
    for kind in ErrorKind::ALL {
        let repeat = match kind.repeat() {
            Repeat::Safe => "none; may be sent again",
            Repeat::Executed => "executed, and its reply is lost; a repeat executes it again",
            Repeat::Unknown => "unknown; only the application knows whether a repeat is harmless",
            Repeat::Useless => "none; the same command fails again",
        };
        writeln!(table, "| `{}` | {repeat} |", kind.label()).unwrap();
    }
    assert_section("errors", &table);
}

#[test]
fn every_refused_command_has_its_row() {
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    // A container's own row is used by none.
    for spec in table().filter(|spec| !spec.container && !spec.flags.has(Flags::ONLY_SENTINEL)) {
        if let Route::Refused(reason) = spec.route {
            by_reason.entry(reason).or_default().push(spec.name.to_uppercase());
        }
    }
    let mut text = String::from("| command | reason |\n|---|---|\n");
    for (reason, names) in by_reason {
        writeln!(text, "| {} | {reason} |", names.join(", ")).unwrap();
    }
    assert_section("refused", &text);
}

#[test]
fn every_bound_is_counted() {
    for bound in BOUNDS {
        assert!(Reached::ALL.iter().any(|reached| reached.label() == bound.name), "{}", bound.name);
    }
}

#[test]
fn the_help_and_the_annotated_file_have_every_key_and_flag() {
    let help = Command::new(env!("CARGO_BIN_EXE_slotmux")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for flag in
        SETTINGS.iter().filter_map(|setting| setting.flag).chain(BOUNDS.iter().map(|bound| bound.flag))
    {
        let line =
            |line: &str| line.trim_start().trim_start_matches("-h, ").starts_with(&format!("--{flag}"));
        assert!(help.lines().any(line), "--help lacks --{flag}:\n{help}");
    }
    for setting in SETTINGS {
        assert!(help.contains(&setting.path()), "--help lacks {}:\n{help}", setting.path());
    }
    let names = SETTINGS.iter().map(|setting| setting.key).chain(BOUNDS.iter().map(|bound| bound.name));
    for key in names {
        let key = key.rsplit('.').next().unwrap();
        let line = |line: &str| line.trim_start_matches([' ', '-', '#']).starts_with(&format!("{key}:"));
        assert!(ANNOTATED.lines().any(line), "config/slotmux.yaml lacks `{key}:`");
    }
    for bound in BOUNDS {
        let line = format!("{}: {}", bound.name, bound.default);
        assert!(ANNOTATED.contains(&line), "config/slotmux.yaml lacks the default `{line}`");
    }
}

#[test]
fn the_examples_have_no_mistake() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let secrets = tempfile::tempdir().unwrap();
    let password = secrets.path().join("password");
    std::fs::write(&password, "secret\n").unwrap();
    let mut checked = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        // The examples name files that are there where they are used.
        let text = text.replace("/run/secrets/", &format!("{}/", secrets.path().display()));
        for name in text.split("file: ").skip(1).filter_map(|rest| rest.split(['\n', ' ', '}']).next()) {
            std::fs::write(name, "secret\n").unwrap();
        }
        let file = secrets.path().join("slotmux.yaml");
        std::fs::write(&file, text).unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_slotmux"));
        let output = check.arg("check").arg(&file).env("REDIS_PASSWORD", "secret").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && output.stdout.ends_with(b"\n"), "{said}");
        checked += 1;
    }
    assert_eq!(checked, 4);
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
