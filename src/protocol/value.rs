//! A reply as values: for the few things that the proxy itself asks of nodes. What is forwarded is never decoded.

/// A reply, as far as anybody here looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A bulk or simple string.
    Text(&'a str),
    /// An integer.
    Number(i64),
    /// An array, a set, or a map's names and values in turns.
    List(Vec<Value<'a>>),
    /// Nothing, or of a type that is not looked at.
    Other,
}

impl<'a> Value<'a> {
    /// The value that `bytes` are, if it nests no deeper than `depth` lists; nothing may follow.
    #[must_use]
    pub fn read(bytes: &'a [u8], depth: usize) -> Option<Self> {
        let mut rest = bytes;
        let value = Self::take(&mut rest, depth)?;
        rest.is_empty().then_some(value)
    }

    /// Takes the first value off `rest`.
    pub fn take(rest: &mut &'a [u8], depth: usize) -> Option<Self> {
        let line = take_line(rest)?;
        let (kind, line) = (line[0], std::str::from_utf8(&line[1..]).ok()?);
        let count = |line: &str| line.parse::<i64>().ok();
        Some(match kind {
            b'$' => match usize::try_from(count(line)?) {
                Ok(len) => {
                    let text = rest.get(..len)?;
                    *rest = rest.get(len.checked_add(2)?..)?;
                    std::str::from_utf8(text).map_or(Self::Other, Self::Text)
                }
                Err(_) => Self::Other,
            },
            b'+' => Self::Text(line),
            b':' => Self::Number(count(line)?),
            b'*' | b'%' | b'~' => {
                let Ok(elements) = usize::try_from(count(line)?) else { return Some(Self::Other) };
                let elements = if kind == b'%' { elements.checked_mul(2)? } else { elements };
                let depth = depth.checked_sub(1)?;
                // Each takes a byte at least: what is claimed is not believed.
                let mut list = Vec::with_capacity(elements.min(rest.len() / 4));
                for _ in 0..elements {
                    list.push(Self::take(rest, depth)?);
                }
                Self::List(list)
            }
            b'_' | b'#' | b',' => Self::Other,
            _ => return None,
        })
    }

    /// How many elements the array has that `rest` begins with; they follow in `rest` then.
    pub fn enter(rest: &mut &'a [u8]) -> Option<usize> {
        let count = take_line(rest)?.strip_prefix(b"*")?;
        std::str::from_utf8(count).ok()?.parse().ok()
    }

    /// The value behind `name` in a list of names and values.
    #[must_use]
    pub fn field(&self, name: &str) -> Option<&Self> {
        self.list()?.chunks_exact(2).find(|pair| pair[0].text() == Some(name)).map(|pair| &pair[1])
    }

    /// The elements of a list.
    #[must_use]
    pub fn list(&self) -> Option<&[Self]> {
        if let Self::List(list) = self { Some(list) } else { None }
    }

    /// The text that it is.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    /// The number that it is.
    #[must_use]
    pub fn number(&self) -> Option<i64> {
        if let Self::Number(number) = self { Some(*number) } else { None }
    }
}

/// A line with its type byte, without its end; never empty.
fn take_line<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = memchr::memchr(b'\n', rest).filter(|end| *end > 0)?;
    let line = &rest[..end];
    *rest = &rest[end + 1..];
    Some(line.strip_suffix(b"\r").unwrap_or(line)).filter(|line| !line.is_empty())
}
