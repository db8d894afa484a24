//! Requests at a fixed rate.
//!
//! Open loop: one thread sends when a request is due, whether earlier ones were answered or not, and another reads.
//! So whoever stalls cannot slow the requests down and thereby hide the stall ("coordinated omission"). A latency
//! runs from the moment when the sender took up the requests that were due: it contains all that happens to them,
//! but not the timer that woke the sender late. The sender never waits for a socket: one that is full is a failure.

use std::{
    collections::VecDeque,
    io::Write,
    net::Shutdown,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tokio::{io::BufReader, runtime, task::JoinSet};

use crate::{
    Result,
    watched::{Client, PATIENCE},
    world::World,
};

/// How often the sender looks what is due, at most.
const TICK: Duration = Duration::from_micros(200);

/// A sender that got less of the rate out than this has not measured what it should: the machine was busy with
/// something else.
const HELD: f64 = 0.8;

/// When the requests of a client that are not answered yet were sent.
type Sent = std::sync::Arc<Mutex<VecDeque<Instant>>>;

/// Returns each client's node and latencies.
pub(crate) fn run(clients: &[Client], rate: f64, length: Duration) -> Result<Vec<(usize, Vec<Duration>)>> {
    let total = (rate * length.as_secs_f64()) as usize;
    let sent: Vec<Sent> = clients.iter().map(|_| Sent::default()).collect();
    thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(clients, &sent, total));
        let outcome = send_all(clients, &sent, rate, total, || reading.is_finished());
        if outcome.is_err() {
            for client in clients {
                // It ends the reader; a connection that is closed already has ended it.
                let _ = client.stream.shutdown(Shutdown::Both);
            }
        }
        let read = reading.join().map_err(|_| "the reader panicked")?;
        outcome?;
        read
    })
}

/// Sends `total` requests, each from the next client, until `given_up`.
fn send_all(
    clients: &[Client],
    sent: &[Sent],
    rate: f64,
    total: usize,
    given_up: impl Fn() -> bool,
) -> Result<()> {
    let begin = Instant::now();
    let mut next = 0;
    while next < total && !given_up() {
        let now = Instant::now();
        let due = ((now - begin).as_secs_f64() * rate) as usize + 1;
        while next < due.min(total) {
            let (client, sent) = (&clients[next % clients.len()], &sent[next % clients.len()]);
            let request = &client.requests[next / clients.len() % client.requests.len()];
            sent.lock().unwrap_or_else(PoisonError::into_inner).push_back(now);
            // A few bytes fit, or the socket is full of requests that nobody reads; so they are never cut.
            (&client.stream)
                .write_all(request)
                .map_err(|error| format!("a watched client cannot send: {error}"))?;
            next += 1;
        }
        let then = begin + Duration::from_secs_f64(next as f64 / rate);
        thread::sleep(then.saturating_duration_since(now).max(TICK));
    }
    let share = next as f64 / rate / begin.elapsed().as_secs_f64();
    // Who gave up has a reason of its own.
    if share < HELD && next == total {
        return Err(format!("only {:.0} % of the rate was reached", share * 100.0).into());
    }
    Ok(())
}

/// Reads as many replies as there will be requests.
fn read_all(clients: &[Client], sent: &[Sent], total: usize) -> Result<Vec<(usize, Vec<Duration>)>> {
    runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut tasks = JoinSet::new();
        for (i, client) in clients.iter().enumerate() {
            let stream = tokio::net::TcpStream::from_std(client.stream.try_clone()?)?;
            let count = total / clients.len() + usize::from(i < total % clients.len());
            let (node, sent) = (client.node, sent[i].clone());
            tasks.spawn(async move { read(stream, &sent, count).await.map(|latencies| (node, latencies)) });
        }
        let mut read = Vec::new();
        while let Some(client) = tasks.join_next().await {
            read.push(client??);
        }
        Ok(read)
    })
}

/// Reads one client's replies.
async fn read(stream: tokio::net::TcpStream, sent: &Sent, count: usize) -> Result<Vec<Duration>> {
    let expected = World::expected();
    let mut stream = BufReader::new(stream);
    let mut latencies = Vec::with_capacity(count);
    for _ in 0..count {
        expected.demand(&mut stream, PATIENCE).await?;
        let sent = sent.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        latencies.push(sent.ok_or("a reply without a request")?.elapsed());
    }
    Ok(latencies)
}
