//! The loads.

/// The range of the random numbers in the small keys' names.
pub(crate) const SMALL_KEYS: usize = 100_000;

/// The same for the keys with large values.
pub(crate) const LARGE_KEYS: usize = 1_000;

/// The length of a small and of a large value.
pub(crate) const SMALL_VALUE: usize = 64;
/// See [`SMALL_VALUE`].
pub(crate) const LARGE_VALUE: usize = 16 * 1024;

/// One load: many clients, each of which sends `pipeline` requests and awaits their replies.
pub(crate) struct Workload {
    /// As `--only` names it and the report shows it.
    pub(crate) name: &'static str,
    /// What is sent.
    pub(crate) command: Command,
    /// The number of connections.
    pub(crate) clients: usize,
    /// The number of requests in one write.
    pub(crate) pipeline: usize,
    /// The number of requests of a round.
    pub(crate) requests: usize,
}

/// A request, with random keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// GET of a small value.
    Get,
    /// SET of a small value.
    Set,
    /// GET of a large value.
    GetLarge,
    /// SET of a large value.
    SetLarge,
    /// MGET of ten small values in ten slots; the floor cannot split it.
    Mget,
}

/// Ten GETs in a pipeline are what an MGET of ten keys is compared with.
pub(crate) const MGET: (&str, &str) = ("mget10-p1-c50", "get-p10-c50");

/// All loads, in the order of the report.
pub(crate) const WORKLOADS: [Workload; 10] = [
    load("get-p1-c50", Command::Get, 50, 1, 150_000),
    load("set-p1-c50", Command::Set, 50, 1, 150_000),
    load("get-p16-c50", Command::Get, 50, 16, 1_000_000),
    load("get-p100-c10", Command::Get, 10, 100, 1_500_000),
    load("get16k-p1-c50", Command::GetLarge, 50, 1, 60_000),
    load("set16k-p1-c50", Command::SetLarge, 50, 1, 60_000),
    load(MGET.1, Command::Get, 50, 10, 800_000),
    load(MGET.0, Command::Mget, 50, 1, 60_000),
    load("get-p1-c1", Command::Get, 1, 1, 30_000),
    load("get-p1-c1000", Command::Get, 1000, 1, 150_000),
];

const fn load(
    name: &'static str,
    command: Command,
    clients: usize,
    pipeline: usize,
    requests: usize,
) -> Workload {
    Workload { name, command, clients, pipeline, requests }
}

impl Command {
    /// The arguments, with redis-benchmark's placeholder for a random number.
    pub(crate) fn arguments(self) -> Vec<String> {
        let words: &[&str] = match self {
            Self::Get => &["GET", "key:__rand_int__"],
            Self::Set => &["SET", "key:__rand_int__"],
            Self::GetLarge => &["GET", "big:__rand_int__"],
            Self::SetLarge => &["SET", "big:__rand_int__"],
            Self::Mget => &["MGET"],
        };
        let mut words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        match self {
            Self::Get | Self::GetLarge => {}
            Self::Set => words.push("x".repeat(SMALL_VALUE)),
            Self::SetLarge => words.push("x".repeat(LARGE_VALUE)),
            Self::Mget => words.extend(std::iter::repeat_n("key:__rand_int__".to_owned(), 10)),
        }
        words
    }

    /// The range of the random number.
    pub(crate) fn keys(self) -> usize {
        match self {
            Self::GetLarge | Self::SetLarge => LARGE_KEYS,
            _ => SMALL_KEYS,
        }
    }

    /// The request as RESP, with numbers drawn now.
    pub(crate) fn request(self) -> String {
        let words = self.arguments();
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            // As many digits as redis-benchmark puts in the placeholder's place.
            let word = word.replace("__rand_int__", &format!("{:012}", fastrand::usize(..self.keys())));
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        text
    }
}
