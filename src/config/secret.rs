//! Passwords: where they come from, and that they are never shown.

use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;

use super::file::read_file;

/// A password is shorter; what is not, is some other file.
const MOST: u64 = 64 * 1024;

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

    /// What a file holds. One line ending at its end is no part of it, as editors and `echo` add one.
    pub(super) fn from_file(path: &str) -> Result<Self, String> {
        let bytes = read_file(path, MOST).map_err(|error| format!("cannot read {path}: {error}"))?;
        Self::non_empty(bytes).ok_or_else(|| format!("{path} is empty: it must hold the password"))
    }

    /// These bytes without one line ending, unless that leaves nothing.
    pub(super) fn non_empty(mut bytes: Vec<u8>) -> Option<Self> {
        if bytes.last() == Some(&b'\n') {
            bytes.pop();
            if bytes.last() == Some(&b'\r') {
                bytes.pop();
            }
        }
        (!bytes.is_empty()).then(|| Self::new(bytes))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
