//! A round at a fixed rate, for latencies that can be compared: redis-benchmark cannot hold a rate.
//!
//! Open loop: one thread sends when a request is due, whether earlier ones were answered or not, and other threads
//! read. So a program that stalls cannot slow the load down and thereby hide its stall ("coordinated omission").
//! A latency runs from the moment when the sender took up the requests that were due, so it contains a write that
//! blocks, but not the timer that woke the sender late.

use std::{
    collections::VecDeque,
    error::Error,
    io::{ErrorKind, Write},
    net::{Ipv4Addr, Shutdown, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use bytes::{Buf, BytesMut};
use tokio::{io::AsyncReadExt, task::JoinSet};

use crate::workload::Workload;

/// What goes wrong here may do so on another thread.
type Failure = Box<dyn Error + Send + Sync>;

/// How long one pass takes.
const LENGTH: Duration = Duration::from_secs(3);

/// What is sent so soon pays for cold connections, and is not counted.
const WARM_UP: Duration = Duration::from_millis(300);

/// How often the sender looks what is due. A look for each request would cost more than the requests do, and the
/// sender shares its CPU with the nodes.
const TICK: Duration = Duration::from_micros(200);

/// A sender that got less of the rate out than this has not measured what it should: the machine was busy with
/// something else, or the program does not take half of what the floor takes.
const HELD: f64 = 0.8;

/// How much is read at once.
const READ: usize = 64 * 1024;

/// When the requests of a connection that are not answered yet were sent: one moment per pipeline.
type Sent = Arc<Mutex<VecDeque<Instant>>>;

/// When a pipeline was sent, and how long its last reply took.
type Answered = (Instant, Duration);

/// The 99th percentile of the latency in milliseconds, at `rate` requests per second.
pub(crate) fn p99(port: u16, load: &Workload, rate: f64) -> Result<f64, Failure> {
    let mut writers = Vec::new();
    let mut readers = Vec::new();
    for _ in 0..load.clients {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_nodelay(true)?;
        let sent = Sent::default();
        readers.push((stream.try_clone()?, sent.clone()));
        writers.push((stream, sent));
    }
    let pipeline = load.pipeline;
    let reading = thread::spawn(move || read_all(readers, pipeline));
    let pipelines = (rate * LENGTH.as_secs_f64() / pipeline as f64) as usize;
    let begin = Instant::now();
    let outcome = send_all(&mut writers, load, rate / pipeline as f64, pipelines);
    // Not every program answers what it has received when a client closes its sending side.
    let until = Instant::now() + LENGTH;
    while outcome.is_ok() && unanswered(&writers) && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
    for (stream, _) in &writers {
        stream.shutdown(Shutdown::Both)?;
    }
    let answered = reading.join().map_err(|_| "the reader panicked")??;
    outcome?;
    if answered.len() != pipelines {
        return Err(format!("{} of {pipelines} pipelines were answered in time", answered.len()).into());
    }
    let warm = begin + WARM_UP;
    let mut latencies: Vec<Duration> =
        answered.into_iter().filter(|(sent, _)| *sent > warm).map(|(_, latency)| latency).collect();
    latencies.sort_unstable();
    Ok(latencies[latencies.len() * 99 / 100].as_secs_f64() * 1000.0)
}

fn unanswered(writers: &[(TcpStream, Sent)]) -> bool {
    writers.iter().any(|(_, sent)| !sent.lock().unwrap_or_else(PoisonError::into_inner).is_empty())
}

/// Sends `count` pipelines, each from the next connection, `rate` per second.
fn send_all(
    writers: &mut [(TcpStream, Sent)],
    load: &Workload,
    rate: f64,
    count: usize,
) -> Result<(), Failure> {
    // Drawn before, so that drawing costs the load nothing.
    let requests: Vec<String> =
        (0..64).map(|_| (0..load.pipeline).map(|_| load.command.request()).collect()).collect();
    let begin = Instant::now();
    let mut sent = 0;
    while sent < count {
        let now = Instant::now();
        let due = ((now - begin).as_secs_f64() * rate) as usize + 1;
        while sent < due.min(count) {
            let (stream, times) = &mut writers[sent % load.clients];
            times.lock().unwrap_or_else(PoisonError::into_inner).push_back(now);
            write(stream, requests[sent % requests.len()].as_bytes(), now + LENGTH)?;
            sent += 1;
        }
        let next = begin + Duration::from_secs_f64(sent as f64 / rate);
        thread::sleep(next.saturating_duration_since(now).max(TICK));
    }
    let share = count as f64 / rate / begin.elapsed().as_secs_f64();
    if share < HELD {
        return Err(format!("the load reached only {:.0} % of its rate", share * 100.0).into());
    }
    Ok(())
}

/// Writes all of it. The socket does not block, because its reader must not.
fn write(stream: &mut TcpStream, mut bytes: &[u8], until: Instant) -> Result<(), Failure> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(error) if error.kind() == ErrorKind::WouldBlock && Instant::now() < until => {
                thread::sleep(TICK)
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Reads all connections to their ends; returns every pipeline.
fn read_all(readers: Vec<(TcpStream, Sent)>, pipeline: usize) -> Result<Vec<Answered>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut tasks = JoinSet::new();
        for (stream, sent) in readers {
            stream.set_nonblocking(true)?;
            tasks.spawn(read(tokio::net::TcpStream::from_std(stream)?, sent, pipeline));
        }
        let mut answered = Vec::new();
        while let Some(read) = tasks.join_next().await {
            answered.extend(read.map_err(std::io::Error::other)??);
        }
        Ok(answered)
    })
}

/// Reads one connection: the last reply of a pipeline ends its latency.
async fn read(
    mut stream: tokio::net::TcpStream,
    sent: Sent,
    pipeline: usize,
) -> Result<Vec<Answered>, Failure> {
    let (mut input, mut answered, mut replies) = (BytesMut::new(), Vec::new(), 0);
    loop {
        // Without this, a read takes no more than the little that is left of the buffer.
        input.reserve(READ);
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(answered);
        }
        let now = Instant::now();
        while let Some(end) = reply_end(&input)? {
            input.advance(end);
            replies += 1;
            if replies % pipeline == 0 {
                let sent = sent.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let sent = sent.ok_or("a reply without a request")?;
                answered.push((sent, now - sent));
            }
        }
    }
}

/// Where the first reply ends, if it is complete; of all types only those that the loads bring about.
fn reply_end(input: &[u8]) -> Result<Option<usize>, Failure> {
    let (mut at, mut left) = (0, 1);
    while left > 0 {
        let Some(line) = memchr::memchr(b'\n', &input[at..]) else { return Ok(None) };
        let head = &input[at..at + line];
        at += line + 1;
        match head[0] {
            b'+' => {}
            b'$' => at += number(head).map_or(0, |length| length + 2),
            b'*' => left += number(head).unwrap_or(0),
            _ => return Err(format!("the reply {}", head.escape_ascii()).into()),
        }
        if at > input.len() {
            return Ok(None);
        }
        left -= 1;
    }
    Ok(Some(at))
}

/// The number of a header; `None` for -1.
fn number(head: &[u8]) -> Option<usize> {
    let digits = &head[1..head.len() - 1];
    digits.iter().try_fold(0, |n, digit| digit.is_ascii_digit().then(|| n * 10 + usize::from(digit - b'0')))
}
