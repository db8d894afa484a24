//! Closes a client's connection so that the client loses nothing of what it was sent: a close while requests lie unread,
//! or before one that comes, is a reset, which throws away what the client has not read yet.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::net::Stream;

/// A client that goes on sending after QUIT, a protocol error or the proxy's stop has this long to read its replies,
const LONGEST: Duration = Duration::from_secs(5);
/// and one that neither sends nor closes this long.
const SILENT: Duration = Duration::from_secs(1);
/// So much of what it sends is thrown away at once.
const READ: usize = 16 * 1024;

/// Ends the sending side, and waits until the client has done so, too, or has had its time.
pub(super) async fn part(stream: &mut Stream) {
    _ = stream.shutdown().await;
    let mut rest = vec![0; READ];
    let ended = async { while let Ok(Ok(1..)) = timeout(SILENT, stream.read(&mut rest)).await {} };
    _ = timeout(LONGEST, ended).await;
}
