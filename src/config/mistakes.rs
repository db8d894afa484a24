//! What is wrong with a command line and a configuration file, all of it at once.

use std::collections::HashSet;
use std::fmt;
use std::io::Write;

/// The exit code for a command line or a file that cannot be used, `EX_USAGE` of `sysexits.h`.
pub const EXIT_USAGE: u8 = 64;

/// Every mistake, each with where it is, `--flag` or `FILE: path.in[0].it`, and what would be right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes {
    list: Vec<(String, String)>,
    told: HashSet<(String, String)>,
}

impl Mistakes {
    pub(super) fn add(&mut self, at: impl Into<String>, text: impl Into<String>) {
        let mistake = (at.into(), text.into());
        // What holds for several clusters or listeners is read once for each.
        if self.told.insert(mistake.clone()) {
            self.list.push(mistake);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, text) in &self.list {
            writeln!(f, "error: {at}: {text}")?;
        }
        f.write_str("For more information, try 'slotmux --help'.")
    }
}

/// Why no configuration came of a command line.
#[derive(Debug)]
pub enum Usage {
    /// `--help`, `--version`, or flags that do not exist.
    Clap(clap::Error),
    /// Values that cannot be used.
    Mistakes(Mistakes),
}

impl Usage {
    /// Prints it where it belongs, and returns the exit code. Never fails: with nobody to read it, the
    /// exit code is all there is.
    #[must_use]
    pub fn report(&self) -> u8 {
        match self {
            Self::Clap(error) => {
                let _ = error.print();
                if error.use_stderr() { EXIT_USAGE } else { 0 }
            }
            Self::Mistakes(mistakes) => {
                let _ = writeln!(std::io::stderr(), "{mistakes}");
                EXIT_USAGE
            }
        }
    }
}

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clap(error) => error.fmt(f),
            Self::Mistakes(mistakes) => mistakes.fmt(f),
        }
    }
}
