//! The options of `slotmux demo`.

use super::mistakes::Mistakes;
use super::read_count;

/// As written.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// Primaries of the cluster; it needs three
    #[arg(long, value_name = "N", default_value = "3")]
    primaries: String,

    /// Replicas of each primary
    #[arg(long, value_name = "N", default_value = "1")]
    replicas: String,
}

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
    pub(super) fn read(args: &DemoArgs, mistakes: &mut Mistakes) -> Self {
        let primaries = read_count("primaries", &args.primaries, MOST, mistakes);
        if primaries < 3 && mistakes.is_silent_on("primaries") {
            mistakes.add("primaries", format!("{primaries} cannot elect a new primary: a cluster needs 3"));
        }
        let replicas = match args.replicas.as_str() {
            "0" => 0,
            text => read_count("replicas", text, MOST, mistakes),
        };
        Self { primaries, replicas }
    }
}
