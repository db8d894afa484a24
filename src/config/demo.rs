//! The options of `slotmux demo`.

use clap::ArgMatches;

use super::mistakes::Mistakes;

/// The shape of the demo's cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Primaries, at least three: fewer cannot elect a new one.
    pub primaries: usize,
    /// Replicas of each primary.
    pub replicas: usize,
}

/// A demo is for one machine; each server is a process.
const MOST: usize = 30;

impl DemoOptions {
    pub(super) fn read(matches: &ArgMatches, mistakes: &mut Mistakes) -> Self {
        let mut count = |flag: &str, least: usize, why: &str| {
            let text = matches.get_one::<String>(flag).map_or("", String::as_str);
            text.parse().ok().filter(|count| (least..=MOST).contains(count)).unwrap_or_else(|| {
                mistakes
                    .add(format!("--{flag}"), format!("`{text}` is no number from {least} to {MOST}{why}"));
                least
            })
        };
        let primaries = count("primaries", 3, ": fewer cannot elect a new primary");
        Self { primaries, replicas: count("replicas", 0, "") }
    }
}
