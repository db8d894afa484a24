//! Replies whose size is known before, so that nothing has to be parsed.

use std::{
    io::{Error, ErrorKind, Result},
    time::Duration,
};

use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt},
    time::timeout,
};

/// How long an error reply can be; longer is no reply at all.
const LONGEST_ERROR: usize = 4096;

/// What a good reply looks like.
#[derive(Clone)]
pub(crate) struct Expected {
    /// Its first line.
    head: Vec<u8>,
    /// The bytes behind that.
    rest: usize,
}

/// What came instead of nothing.
pub(crate) enum Reply {
    /// As expected.
    Good,
    /// The error, with its dash.
    Error(String),
}

impl Expected {
    /// A bulk string of a length.
    pub(crate) fn bulk(length: usize) -> Self {
        Self { head: format!("${length}\r\n").into_bytes(), rest: length + 2 }
    }

    /// An array of bulk strings that all have one length.
    pub(crate) fn array(count: usize, length: usize) -> Self {
        let each = Self::bulk(length);
        Self { head: format!("*{count}\r\n").into_bytes(), rest: count * (each.head.len() + each.rest) }
    }

    /// A status.
    pub(crate) fn ok() -> Self {
        Self { head: b"+OK\r\n".to_vec(), rest: 0 }
    }

    /// Reads one reply and drops its content. What is no reply is an error of kind `InvalidData`.
    pub(crate) async fn read(&self, input: &mut (impl AsyncBufRead + Unpin)) -> Result<Reply> {
        let mut head = Vec::new();
        while head.last() != Some(&b'\n') {
            let buffer = input.fill_buf().await?;
            let end = memchr::memchr(b'\n', buffer).map_or(buffer.len(), |at| at + 1);
            if buffer.is_empty() {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            head.extend_from_slice(&buffer[..end]);
            input.consume(end);
            if head.len() > LONGEST_ERROR {
                return Err(no_reply(&head));
            }
        }
        if head.starts_with(b"-") {
            return Ok(Reply::Error(head.trim_ascii_end().escape_ascii().to_string()));
        }
        if head != self.head {
            return Err(no_reply(&head));
        }
        let mut left = self.rest;
        while left > 0 {
            let here = input.fill_buf().await?.len().min(left);
            if here == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            input.consume(here);
            left -= here;
        }
        Ok(Reply::Good)
    }

    /// Reads the reply to a client that is to notice nothing: anything but a good one in good time is an error.
    pub(crate) async fn demand(
        &self,
        input: &mut (impl AsyncBufRead + Unpin),
        patience: Duration,
    ) -> crate::Result<()> {
        match timeout(patience, self.read(input)).await {
            Err(_) => Err(format!("a watched client got no reply within {patience:?}").into()),
            Ok(Err(error)) => Err(format!("a watched client's connection: {error}").into()),
            Ok(Ok(Reply::Error(text))) => Err(format!("a watched client got the error {text}").into()),
            Ok(Ok(Reply::Good)) => Ok(()),
        }
    }
}

fn no_reply(head: &[u8]) -> Error {
    let head = head.trim_ascii_end().escape_ascii();
    Error::new(ErrorKind::InvalidData, format!("not the reply that was expected: {head}"))
}
