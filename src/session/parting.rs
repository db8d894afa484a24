//! Closes a client's connection so that the client loses nothing of what it was sent: a close while requests lie unread,
//! or before one that comes, is a reset, which throws away what the client has not read yet.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::turn::{TURN_READS, Turn};

/// A client that goes on sending after QUIT, a protocol error or the proxy's stop has this long to read its replies,
const LONGEST: Duration = Duration::from_secs(5);
/// and one that neither sends nor closes this long.
const SILENT: Duration = Duration::from_secs(1);

/// Until when the client may take what it was sent, while its further requests are thrown away.
pub(super) struct Parting {
    longest: Instant,
    silent: Pin<Box<Sleep>>,
}

impl Turn {
    /// Everything was written. Ready when the connection may be closed.
    pub(super) fn part(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.eof {
            return Poll::Ready(());
        }
        if self.parting.is_none() {
            _ = ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            let longest = Instant::now() + LONGEST;
            self.parting = Some(Parting { longest, silent: Box::pin(sleep(SILENT)) });
        }
        let Some(parting) = &mut self.parting else { return Poll::Ready(()) };
        let mut scratch = self.worker.backend.scratch.borrow_mut();
        for reads in 0..=TURN_READS {
            if reads == TURN_READS {
                self.session.wakeup.wake();
                break;
            }
            let mut buffer = ReadBuf::new(&mut scratch);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    let until = (Instant::now() + SILENT).min(parting.longest);
                    parting.silent.as_mut().reset(until.into());
                }
                Poll::Pending => break,
                Poll::Ready(_) => return Poll::Ready(()),
            }
        }
        parting.silent.as_mut().poll(cx)
    }
}
