//! Framing and writing RESP2 and RESP3. Pure: bytes in, events out; no I/O, no clock.

mod args;
mod inline;
mod push;
mod reply;
mod request;
mod value;
pub mod write;

pub use args::{Args, Span};
pub use push::{Push, Said, Topics};
pub use reply::{ReplyError, ReplyFramer, Rest};
pub(crate) use request::integer;
pub use request::{Framed, MAX_BULK, MAX_LINE, RequestError, RequestFramer, RequestLimits};
pub use value::Value;
pub use write::Protocol;
