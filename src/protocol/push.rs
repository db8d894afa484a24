//! What a node says of channels: messages, and the answers to subscriptions.

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Topics {
    /// Channels, of which every node of a cluster hears.
    Channels,
    /// Patterns that channels match.
    Patterns,
    /// Channels of which only their shard hears.
    Shards,
}

impl Topics {
    /// All kinds, in the order of their indices.
    pub const ALL: [Topics; 3] = [Topics::Channels, Topics::Patterns, Topics::Shards];

    /// The command that subscribes, in lower case, as its reply repeats it.
    #[must_use]
    pub const fn subscribe(self) -> &'static str {
        match self {
            Topics::Channels => "subscribe",
            Topics::Patterns => "psubscribe",
            Topics::Shards => "ssubscribe",
        }
    }

    /// The command that ends that, as above.
    #[must_use]
    pub const fn unsubscribe(self) -> &'static str {
        match self {
            Topics::Channels => "unsubscribe",
            Topics::Patterns => "punsubscribe",
            Topics::Shards => "sunsubscribe",
        }
    }

    /// What a message says that it is.
    const fn message(self) -> &'static str {
        match self {
            Topics::Channels => "message",
            Topics::Patterns => "pmessage",
            Topics::Shards => "smessage",
        }
    }
}

/// What a push is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// A message.
    Message,
    /// The answer to a subscription.
    Subscribed,
    /// A subscription has ended, asked for or not.
    Unsubscribed,
}

/// A push about a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Push<'a> {
    /// What it is.
    pub said: Said,
    /// What kind of topic it is about.
    pub kind: Topics,
    /// The topic: a channel or pattern; empty if there is none.
    pub topic: &'a [u8],
    /// Where the message was published; for a channel the topic itself.
    pub channel: &'a [u8],
}

impl<'a> Push<'a> {
    /// Reads a whole frame, of RESP3 or RESP2; `None` if it is about something else.
    #[must_use]
    pub fn parse(frame: &'a [u8]) -> Option<Self> {
        let mut rest = line(frame.strip_prefix(b">").or_else(|| frame.strip_prefix(b"*"))?)?.1;
        let word = bulk(&mut rest)?;
        let is = |known: &str| word == known.as_bytes();
        let (kind, said) = Topics::ALL.into_iter().find_map(|kind| match kind {
            _ if is(kind.message()) => Some((kind, Said::Message)),
            _ if is(kind.subscribe()) => Some((kind, Said::Subscribed)),
            _ if is(kind.unsubscribe()) => Some((kind, Said::Unsubscribed)),
            _ => None,
        })?;
        let topic = bulk(&mut rest).unwrap_or_default();
        let two = said == Said::Message && kind == Topics::Patterns;
        let channel = if two { bulk(&mut rest)? } else { topic };
        Some(Push { said, kind, topic, channel })
    }
}

/// The number of a line, and what is behind it.
fn line(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let end = memchr::memchr(b'\r', bytes)?;
    let number = std::str::from_utf8(&bytes[..end]).ok()?.parse().ok()?;
    Some((number, bytes.get(end + 2..)?))
}

fn bulk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, behind) = line(rest.strip_prefix(b"$")?)?;
    let text = behind.get(..len)?;
    *rest = behind.get(len + 2..)?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pushes_name_their_topic() {
        let parse = |text: &'static str| {
            Push::parse(text.as_bytes()).map(|push| (push.said, push.kind, push.topic, push.channel))
        };
        let channels = Topics::Channels;
        assert_eq!(
            parse(">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n"),
            Some((Said::Message, channels, &b"a"[..], &b"a"[..]))
        );
        assert_eq!(
            parse("*4\r\n$8\r\npmessage\r\n$2\r\na*\r\n$2\r\nab\r\n$2\r\nhi\r\n"),
            Some((Said::Message, Topics::Patterns, &b"a*"[..], &b"ab"[..]))
        );
        assert_eq!(
            parse(">3\r\n$12\r\nsunsubscribe\r\n$1\r\na\r\n:0\r\n"),
            Some((Said::Unsubscribed, Topics::Shards, &b"a"[..], &b"a"[..]))
        );
        let none = parse(">3\r\n$11\r\nunsubscribe\r\n_\r\n:0\r\n");
        assert_eq!(none, Some((Said::Unsubscribed, channels, &b""[..], &b""[..])));
        for other in [">2\r\n$10\r\ninvalidate\r\n_\r\n", "+OK\r\n", ">1\r\n:1\r\n", ">3\r\n$7\r\nmess"] {
            assert_eq!(parse(other), None);
        }
    }
}
