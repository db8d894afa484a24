//! The command line as written: flags made from the tables, every value still text.

use std::collections::HashMap;

use clap::builder::Styles;
use clap::{Arg, ArgAction, ArgMatches, Command};

use super::bounds::BOUNDS;
use super::settings::{SETTINGS, Setting};

const ABOUT: &str = "A Redis Cluster proxy that is correct and quiet while the cluster changes";
const LONG_ABOUT: &str = "\
A Redis Cluster proxy that is correct and quiet while the cluster changes

Plain Redis clients connect to it as if the cluster were one server: each command is hashed to its \
slot and forwarded to the slot's owner, and moving slots, failovers and lost connections are absorbed.";
const AFTER: &str = "\
Durations are written 250ms, 30s, 2m; sizes 64KiB, 512MiB, 1GiB.
Flags override what a file says. In a file bounds have these names with _ for -, at the top or in the section \
of a cluster or listener, and the settings are:";
const SIGNALS: &str = "\
Exit codes: 0 after a clean stop, 64 for a mistake on the command line or in the file, 1 otherwise.
SIGTERM and SIGINT stop it: no new clients, replies in flight are delivered; a second one ends it at once.";

/// Flags whose settings are about who may come in, by the heading that they stand under.
const ACCESS: &[&str] = &["cluster-password-file", "cluster-user", "client-password-file", "unprotected"];

/// The values of the flags that were given, by flag. A flag without a value has none in its list.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(HashMap<&'static str, Vec<String>>);

impl Flags {
    /// The values of a flag, in their order, if it was given.
    pub(super) fn values(&self, flag: &str) -> Option<&[String]> {
        self.0.get(flag).map(Vec::as_slice)
    }

    pub(super) fn read(matches: &ArgMatches) -> Self {
        let mut flags = HashMap::new();
        let settings = SETTINGS.iter().filter_map(|setting| Some((setting.flag?, setting.value)));
        for (flag, value) in settings.chain(BOUNDS.iter().map(|bound| (bound.flag, bound.unit))) {
            if value.is_empty() {
                if matches.get_flag(flag) {
                    flags.insert(flag, Vec::new());
                }
            } else if let Some(values) = matches.get_many::<String>(flag) {
                flags.insert(flag, values.cloned().collect());
            }
        }
        Self(flags)
    }
}

/// The whole command line.
pub(super) fn command() -> Command {
    let config = Arg::new("config").long("config").global(true).value_name("FILE");
    let primaries = Arg::new("primaries").long("primaries").value_name("N").default_value("3");
    let replicas = Arg::new("replicas").long("replicas").value_name("N").default_value("1");
    Command::new("slotmux")
        .version(env!("CARGO_PKG_VERSION"))
        .about(ABOUT)
        .long_about(LONG_ABOUT)
        .styles(Styles::plain())
        .max_term_width(100)
        .after_help(format!("{AFTER}\n{}\n{SIGNALS}", places()))
        .arg(config.help("A file in YAML with the settings"))
        .args(settings())
        .next_help_heading("Bounds")
        .args(bounds())
        .next_help_heading(None)
        .subcommand(
            Command::new("demo")
                .about("Start a throwaway cluster of real servers and put the proxy in front of it")
                .arg(primaries.help("Primaries of the cluster; it needs three"))
                .arg(replicas.help("Replicas of each primary")),
        )
        .subcommand(
            Command::new("check")
                .about("Say everything that is wrong with a file, and start nothing")
                .arg(Arg::new("file").value_name("FILE").required(true).help("The file in YAML")),
        )
        .subcommand(Command::new("health").about(
            "Ask the proxy that runs with the same --admin or --config whether it is ready: exit code 0 or 1",
        ))
}

fn settings() -> impl Iterator<Item = Arg> {
    SETTINGS.iter().filter_map(|setting| {
        let flag = setting.flag?;
        let mut help = setting.what.to_owned();
        if !setting.default.is_empty() && !setting.value.is_empty() {
            help += &format!(" [default: {}]", setting.default);
        }
        let arg = Arg::new(flag).long(flag).global(true).help(help);
        let arg = if ACCESS.contains(&flag) { arg.help_heading("Access") } else { arg };
        Some(match setting.value {
            "" => arg.action(ArgAction::SetTrue),
            value => {
                let arg = arg.value_name(value).action(ArgAction::Append);
                if value.ends_with('…') { arg.value_delimiter(',') } else { arg }
            }
        })
    })
}

fn bounds() -> impl Iterator<Item = Arg> {
    BOUNDS.iter().map(|bound| {
        let help = format!("{} [default: {}]", bound.what, bound.default);
        Arg::new(bound.flag).long(bound.flag).global(true).value_name(bound.unit).help(help)
    })
}

/// Where each setting stands in a file.
fn places() -> String {
    let line = |setting: &Setting| match setting.flag {
        Some(flag) => format!("  {} (--{flag})\n", setting.path()),
        None => format!("  {}: {}\n", setting.path(), setting.what),
    };
    SETTINGS.iter().map(line).collect()
}
