//! Stands in for the worker until it is connected: reads what a client sends, and answers nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{INCOMING_QUEUE, Incoming, WorkerHandle};
use crate::metrics::WorkerMetrics;
use crate::net::Stream;

impl WorkerHandle {
    /// Starts a worker's thread, which drains and ends when `shutdown` is cancelled.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub fn spawn(index: usize, metrics: Arc<WorkerMetrics>, shutdown: CancellationToken) -> io::Result<Self> {
        let (sender, mut incoming) = mpsc::channel::<Incoming>(INCOMING_QUEUE);
        let ended = CancellationToken::new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let guard = ended.clone().drop_guard();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let _guard = guard;
            runtime.block_on(shutdown.run_until_cancelled_owned(async move {
                let mut sessions = JoinSet::new();
                while let Some(client) = incoming.recv().await {
                    sessions.spawn(async move {
                        let Incoming { stream, slot, .. } = client;
                        let Ok(mut stream) = Stream::from_std(stream) else { return };
                        let mut buffer = [0; 512];
                        while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
                        drop(slot);
                    });
                }
            }));
        })?;
        Ok(Self { index, sender, clients: Arc::new(AtomicUsize::new(0)), metrics, ended })
    }
}
