//! Replies of RESP2 and RESP3 as values, nothing folded together: a test sees what was on the wire.

/// A reply, or a push message.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `+OK`
    Simple(String),
    /// `-ERR …`, without the dash.
    Error(String),
    /// `:1`
    Int(i64),
    /// `$3`; bytes.
    Bulk(Vec<u8>),
    /// `$-1`
    NullBulk,
    /// `*-1`
    NullArray,
    /// `*2`
    Array(Vec<Value>),
    /// `_`
    Null,
    /// `#t`
    Bool(bool),
    /// `,1.5`, as written.
    Double(String),
    /// `(123`, as written.
    BigNumber(String),
    /// `=…`: the three letters of the format, and the text.
    Verbatim(String, Vec<u8>),
    /// `!…`
    BlobError(Vec<u8>),
    /// `%2`
    Map(Vec<(Value, Value)>),
    /// `~2`
    Set(Vec<Value>),
    /// `>2`
    Push(Vec<Value>),
    /// `|1` and the value behind it.
    Attribute(Vec<(Value, Value)>, Box<Value>),
}

impl Value {
    pub fn ok() -> Self {
        Self::Simple("OK".to_owned())
    }

    pub fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(bytes.as_ref().to_vec())
    }

    /// An array of bulk strings.
    pub fn bulks(items: &[&str]) -> Self {
        Self::Array(items.iter().map(Self::bulk).collect())
    }

    pub fn error(text: &str) -> Self {
        Self::Error(text.to_owned())
    }

    /// Whether it is an error of any kind.
    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_) | Self::BlobError(_))
    }

    /// The text of a string, an error or a number; panics at anything else.
    #[track_caller]
    pub fn text(&self) -> String {
        match self {
            Self::Simple(s) | Self::Error(s) | Self::Double(s) | Self::BigNumber(s) => s.clone(),
            Self::Int(n) => n.to_string(),
            Self::Bulk(b) | Self::Verbatim(_, b) | Self::BlobError(b) => {
                String::from_utf8_lossy(b).into_owned()
            }
            other => panic!("no text: {other:?}"),
        }
    }

    #[track_caller]
    pub fn int(&self) -> i64 {
        match self {
            Self::Int(n) => *n,
            other => panic!("no integer: {other:?}"),
        }
    }

    /// The elements of an array, a set or a push message; panics at anything else.
    #[track_caller]
    pub fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) | Self::Set(items) | Self::Push(items) => items,
            other => panic!("no array: {other:?}"),
        }
    }

    /// The value that begins the bytes, and how long it is; `None` while it is not complete. Panics at bytes that
    /// are no reply.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut reader = Reader { bytes, at: 0 };
        let value = reader.value()?;
        Some((value, reader.at))
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn value(&mut self) -> Option<Value> {
        let line = self.line()?;
        let (kind, rest) = (line.as_bytes().first().copied(), line.get(1..).unwrap_or_default().to_owned());
        let n = || rest.parse::<i64>().unwrap_or_else(|_| panic!("no number: {line:?}"));
        Some(match kind {
            Some(b'+') => Value::Simple(rest),
            Some(b'-') => Value::Error(rest),
            Some(b':') => Value::Int(n()),
            Some(b'$') if n() < 0 => Value::NullBulk,
            Some(b'$') => Value::Bulk(self.blob(n())?),
            Some(b'*') if n() < 0 => Value::NullArray,
            Some(b'*') => Value::Array(self.values(n())?),
            Some(b'_') => Value::Null,
            Some(b'#') => Value::Bool(rest == "t"),
            Some(b',') => Value::Double(rest),
            Some(b'(') => Value::BigNumber(rest),
            Some(b'=') => {
                let mut text = self.blob(n())?;
                let format = String::from_utf8_lossy(&text[..3]).into_owned();
                Value::Verbatim(format, text.split_off(4))
            }
            Some(b'!') => Value::BlobError(self.blob(n())?),
            Some(b'%') => Value::Map(self.pairs(n())?),
            Some(b'~') => Value::Set(self.values(n())?),
            Some(b'>') => Value::Push(self.values(n())?),
            Some(b'|') => Value::Attribute(self.pairs(n())?, Box::new(self.value()?)),
            _ => panic!("no reply: {line:?}"),
        })
    }

    fn line(&mut self) -> Option<String> {
        let rest = &self.bytes[self.at..];
        let length = rest.windows(2).position(|pair| pair == b"\r\n")?;
        self.at += length + 2;
        Some(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn blob(&mut self, length: i64) -> Option<Vec<u8>> {
        let length = usize::try_from(length).expect("a length is not negative");
        let blob = self.bytes.get(self.at..self.at + length + 2)?;
        assert!(blob.ends_with(b"\r\n"), "no CRLF behind a string of {length} bytes");
        self.at += length + 2;
        Some(blob[..length].to_vec())
    }

    fn values(&mut self, n: i64) -> Option<Vec<Value>> {
        (0..n).map(|_| self.value()).collect()
    }

    fn pairs(&mut self, n: i64) -> Option<Vec<(Value, Value)>> {
        (0..n).map(|_| Some((self.value()?, self.value()?))).collect()
    }
}
