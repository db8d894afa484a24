//! What is wrong with a command line, all of it at once.

use std::fmt;
use std::io::Write;

/// The exit code for a command line that cannot be used, `EX_USAGE` of `sysexits.h`.
pub const EXIT_USAGE: u8 = 64;

/// Every mistake of a command line, each with its flag and what would be right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mistakes(Vec<(&'static str, String)>);

impl Mistakes {
    pub(super) fn add(&mut self, flag: &'static str, text: String) {
        self.0.push((flag, text));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// True if nothing is wrong with this flag so far.
    pub(super) fn is_silent_on(&self, flag: &str) -> bool {
        self.0.iter().all(|(with, _)| *with != flag)
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (flag, text) in &self.0 {
            writeln!(f, "error: --{flag}: {text}")?;
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
