//! What a cluster needs of the machine: a server binary and a temporary folder.

use std::{
    env, fs,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::PathBuf,
};

use super::DemoError;

/// The server binary of this machine.
pub(super) fn find_server() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    ["redis-server", "valkey-server"]
        .into_iter()
        .flat_map(|name| env::split_paths(&path).map(move |folder| folder.join(name)).collect::<Vec<_>>())
        .find(|file| fs::metadata(file).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0))
}

/// The temporary folder; gone when dropped.
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    pub(super) fn create() -> Result<Self, DemoError> {
        // What /proc shows as a server's working folder has no symbolic links in it, and the guard compares.
        let parent = env::temp_dir();
        let parent = parent.canonicalize().unwrap_or(parent);
        let path = parent.join(format!("slotmux-{:x}-{:08x}", std::process::id(), fastrand::u32(..)));
        // The servers' logs are nobody else's business.
        match fs::DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(Self(path)),
            Err(source) => Err(DemoError::Folder { path, source }),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
