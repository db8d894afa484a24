//! Those who listen to channels: from the moment at which a subscription is confirmed they miss nothing while they are
//! connected, get nothing twice, and of one channel all in its order.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    sync::Mutex,
    time::Duration,
};

use crate::{
    client::Client,
    conn::Conn,
    journal::{Ms, Outcome, lock},
    keys::{TAGS, key},
    ops::has_channel,
    run::Run,
    support::{Value, encode},
};

/// A subscription that was asked for this long ago is confirmed, or refused.
const CONFIRMED_WITHIN: Ms = 45_000;

/// What a node was told so shortly before it was lost may not have left it.
const ON_ITS_WAY: Ms = 1000;

/// What a node has answered is on its way to others by then.
const BUS: Ms = 100;

/// How somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Channels,
    /// Messages of several nodes come in no certain order when a publisher's node changes.
    Patterns,
    /// What is published while the slot changes its owner may be missed. A replica that takes over by force tells late
    /// what its primary published before, also if that has been heard.
    Shards,
}

impl Way {
    pub const ALL: [Self; 3] = [Self::Channels, Self::Patterns, Self::Shards];

    /// The tags whose channels are heard in this way.
    fn tags(self) -> impl Iterator<Item = usize> {
        (0..TAGS).filter(move |&tag| has_channel(tag, self == Self::Shards))
    }
}

/// What all subscribers heard.
#[derive(Default)]
pub struct Heard(Mutex<Ears>);

#[derive(Default)]
struct Ears {
    sessions: Vec<Session>,
    over: bool,
}

/// One connection of a subscriber.
struct Session {
    who: usize,
    way: Way,
    begun: Ms,
    /// By tag, when its subscription was confirmed.
    confirmed: BTreeMap<usize, Ms>,
    /// By client and tag, the numbers of the messages.
    heard: BTreeMap<(usize, usize), BTreeSet<usize>>,
    /// Messages that came behind a later one of their client and channel, or, if that is said, again: client, tag,
    /// number, and when.
    late: Vec<(usize, usize, usize, Ms, bool)>,
    /// When it was disconnected, if it was.
    cut: Option<Ms>,
}

impl Heard {
    /// Nothing is published any more.
    pub fn over(&self) {
        lock(&self.0).over = true;
    }

    pub fn is_over(&self) -> bool {
        lock(&self.0).over
    }
}

impl Run {
    /// Subscribes to all channels until everything is over.
    pub fn subscribe(&self, who: usize, way: Way, heard: &Heard) {
        while !heard.is_over() {
            let Ok(mut conn) = Conn::connect(&self.listener(who), Duration::from_millis(500)) else {
                continue;
            };
            let mut session = Session::new(who, way, self.journal.now());
            let end = match conn.send(&session.request()) {
                Ok(()) => self.listen(&mut conn, &mut session, heard),
                Err(error) => Some(Err(error)),
            };
            if let Some(end) = end {
                let now = self.journal.now();
                session.cut = Some(now);
                self.journal.event(format!("subscriber {who} lost its connection: {end:?}"));
                self.journal.count("subscribers disconnected", 1);
                if !self.journal.is_anybody_away(now, now) {
                    let what = format!("subscriber {who} of {way:?} at {now}: {end:?}");
                    self.journal.fault("connection lost", what, String::new());
                }
            }
            lock(&heard.0).sessions.push(session);
        }
    }

    /// Listens until the end, or until something else comes than messages: what it was.
    fn listen(&self, conn: &mut Conn, session: &mut Session, heard: &Heard) -> Option<io::Result<Value>> {
        loop {
            match conn.read() {
                Ok(Value::Array(items)) if items.len() >= 3 => match items[0].text().as_str() {
                    "message" | "pmessage" | "smessage" => {
                        self.journal.count(&format!("messages of {:?} heard", session.way), 1);
                        if !session.hear(&items, self.journal.now()) {
                            let what = format!("subscriber {} of {:?}: {items:?}", session.who, session.way);
                            self.journal.fault("wrong message", what, String::new());
                        }
                    }
                    "subscribe" | "psubscribe" | "ssubscribe" => {
                        session.confirm(&items[1].text(), self.journal.now())
                    }
                    _ => return Some(Ok(Value::Array(items))),
                },
                Err(error) if Conn::is_silence(&error) && heard.is_over() => return None,
                Err(error) if Conn::is_silence(&error) => {}
                other => return Some(other),
            }
        }
    }

    /// Whoever was subscribed throughout has missed nothing that was published.
    pub fn judge_channels(&self, clients: &[Client], heard: &Heard) {
        for session in &lock(&heard.0).sessions {
            let Session { who, way, begun, .. } = session;
            let end = session.cut.unwrap_or(Ms::MAX);
            let lasted = session.cut.unwrap_or_else(|| self.journal.now()).saturating_sub(*begun);
            let log = |client: usize, tag: usize| Some(&*clients.get(client)?.keys.get(tag)?.channel);
            for (&(client, tag), numbers) in &session.heard {
                if numbers.last().copied() >= log(client, tag).map(<[_]>::len) {
                    let what = format!("subscriber {who} of {way:?} got {client}.{tag}.{:?}", numbers.last());
                    self.journal.fault("message that nobody published", what, String::new());
                }
            }
            for &(client, tag, n, at, again) in &session.late {
                let Some(&(sent, got, outcome)) = log(client, tag).and_then(|log| log.get(n)) else {
                    continue;
                };
                let by_force = *way == Way::Shards && !self.journal.lossy(tag, (sent, at)).is_empty();
                // A node that paused publishes what it was sent before, when those who asked have given it up; and one
                // that was stopped behind its answer tells other nodes late.
                let stopped = || self.journal.is_anybody_stopped(sent, got + BUS, at);
                let paused = !again && (outcome == Some(Outcome::Doubt) || stopped());
                // What an old primary has put off, as it does in a planned failover, it publishes as a replica, when nobody
                // listens there any more: its bus is slower than what the new one tells itself.
                let put_off = *way == Way::Shards && !again && self.journal.has_moved(tag, sent, at);
                if by_force {
                    self.journal.count("messages of Shards that came late or again after a takeover", 1);
                } else if put_off {
                    self.journal.count("messages of Shards that came late in a move", 1);
                } else if !paused {
                    let what = format!(
                        "subscriber {who} of {way:?} got {client}.{tag}.{n} at {at}, published {sent}..{got}: \
                         {outcome:?}"
                    );
                    let kind = if again { "duplicate message" } else { "order of messages" };
                    self.journal.fault(kind, what, String::new());
                }
            }
            for tag in way.tags() {
                let Some(&confirmed) = session.confirmed.get(&tag) else {
                    if lasted > CONFIRMED_WITHIN {
                        let what = format!("{way:?} {tag} of subscriber {who}, asked for at {begun}");
                        self.journal.fault("never subscribed", what, String::new());
                    }
                    continue;
                };
                for client in clients {
                    let log = &client.keys[tag].channel;
                    let first = log.partition_point(|(sent, ..)| *sent < confirmed);
                    for (n, &(sent, got, outcome)) in log.iter().enumerate().skip(first) {
                        let told = outcome == Some(Outcome::Done) && got <= end;
                        if told
                            && !session.has(client.me, tag, n)
                            && !self.may_miss(session, client.me, tag, n, sent, got)
                        {
                            let what = format!(
                                "subscriber {who} of {way:?} from {confirmed} to {end} missed {}.{tag}.{n}, published \
                                 {sent}..{got}",
                                client.me
                            );
                            self.journal.fault("message lost", what, String::new());
                        }
                    }
                }
            }
        }
    }

    /// Whether a message may have been missed because of that for which the subscriber was disconnected later.
    fn may_miss(&self, session: &Session, client: usize, tag: usize, n: usize, sent: Ms, got: Ms) -> bool {
        if session.way == Way::Shards && self.journal.has_moved(tag, sent, got) {
            return true;
        }
        // Of one channel later ones do not come before the connection is closed.
        let later = session.heard.get(&(client, tag)).is_some_and(|heard| heard.last() > Some(&n));
        session.cut.is_some()
            && !(later && session.way != Way::Patterns)
            && self.journal.is_anybody_away(sent, got + ON_ITS_WAY)
    }
}

impl Session {
    fn new(who: usize, way: Way, begun: Ms) -> Self {
        Self {
            who,
            way,
            begun,
            confirmed: BTreeMap::new(),
            heard: BTreeMap::new(),
            late: Vec::new(),
            cut: None,
        }
    }

    fn request(&self) -> Vec<u8> {
        let word = match self.way {
            Way::Channels => "SUBSCRIBE",
            Way::Patterns => "PSUBSCRIBE",
            Way::Shards => "SSUBSCRIBE",
        };
        let topics = self.way.tags().map(|tag| self.topic(tag));
        encode(&[word.to_owned()].into_iter().chain(topics).collect::<Vec<_>>())
    }

    fn topic(&self, tag: usize) -> String {
        key(tag, if self.way == Way::Patterns { "chan*" } else { "channel" })
    }

    fn confirm(&mut self, topic: &str, now: Ms) {
        if let Some(tag) = self.way.tags().find(|&tag| self.topic(tag) == topic) {
            self.confirmed.insert(tag, now);
        }
    }

    fn has(&self, client: usize, tag: usize, n: usize) -> bool {
        self.heard.get(&(client, tag)).is_some_and(|heard| heard.contains(&n))
    }

    /// A message came. False if it is not of a channel that was subscribed to in this way.
    fn hear(&mut self, items: &[Value], now: Ms) -> bool {
        let message = items[items.len() - 1].text();
        let mut numbers = message.split('.').map(|n| n.parse::<usize>().unwrap_or(usize::MAX));
        let mut next = || numbers.next().unwrap_or(usize::MAX);
        let (client, tag, n) = (next(), next(), next());
        let heard = self.heard.entry((client, tag)).or_default();
        let is_behind = heard.last() > Some(&n);
        let again = !heard.insert(n);
        if again || (is_behind && self.way != Way::Patterns) {
            self.late.push((client, tag, n, now, again));
        }
        if !self.way.tags().any(|own| own == tag) {
            return false;
        }
        let (channel, topic) = (key(tag, "channel"), self.topic(tag));
        let head = match self.way {
            Way::Channels => Value::bulks(&["message", &channel]),
            Way::Patterns => Value::bulks(&["pmessage", &topic, &channel]),
            Way::Shards => Value::bulks(&["smessage", &channel]),
        };
        head.items() == &items[..items.len() - 1]
    }
}
