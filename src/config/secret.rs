//! Passwords: where they come from, and that they are never shown.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::mistakes::Mistakes;

/// A password. Its `Debug` is masked, and it has no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<[u8]>);

impl Secret {
    /// A secret of these bytes.
    #[must_use]
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        Self(bytes.into())
    }

    /// The bytes, for a handshake.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether `given` is this secret, in a time that depends on no more than the two lengths.
    #[must_use]
    pub fn verify(&self, given: &[u8]) -> bool {
        self.0.ct_eq(given).into()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a password may come from: there is no flag for its text, which every user of the machine
/// could read in the process list.
pub(super) struct Source {
    pub(super) flag: &'static str,
    pub(super) variable: &'static str,
}

pub(super) const CLUSTER: Source =
    Source { flag: "cluster-password-file", variable: "SLOTMUX_CLUSTER_PASSWORD" };
pub(super) const CLIENT: Source =
    Source { flag: "client-password-file", variable: "SLOTMUX_CLIENT_PASSWORD" };

/// Reads a password from its file or its variable. One line ending behind it is no part of it, as
/// editors and `echo` add one.
pub(super) fn read(
    source: &Source,
    file: Option<&Path>,
    env: impl Fn(&str) -> Option<OsString>,
    mistakes: &mut Mistakes,
) -> Option<Secret> {
    let bytes = match (file, env(source.variable)) {
        (None, None) => return None,
        (Some(_), Some(_)) => Err(format!("{} is set as well: give one of the two", source.variable)),
        (None, Some(value)) => non_empty(value.into_vec(), &format!("{} is set, but", source.variable)),
        (Some(path), None) => match std::fs::read(path) {
            Ok(bytes) => non_empty(bytes, &path.display().to_string()),
            Err(error) => Err(format!("cannot read {}: {error}", path.display())),
        },
    };
    bytes.map(Secret::new).map_err(|text| mistakes.add(source.flag, text)).ok()
}

fn non_empty(mut bytes: Vec<u8>, origin: &str) -> Result<Vec<u8>, String> {
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    if bytes.is_empty() { Err(format!("{origin} is empty: it must hold the password")) } else { Ok(bytes) }
}
