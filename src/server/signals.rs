//! SIGTERM and SIGINT.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Cancels `shutdown` at the first SIGTERM or SIGINT; the second ends the process at once, with 1.
///
/// On a thread of its own: a control thread that hangs must not keep the second signal from working.
///
/// # Errors
/// The thread, its runtime or the handlers cannot be made.
pub fn cancel_on_signal(shutdown: CancellationToken) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let (mut terminate, mut interrupt) = {
        let _inside = runtime.enter();
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    let watch = async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                shutdown.cancel();
            }
        }
        warn!("second signal: ending at once");
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(watch);
        #[expect(clippy::disallowed_methods, reason = "the second signal asks for exactly this")]
        std::process::exit(1);
    })?;
    Ok(())
}
