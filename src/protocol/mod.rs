//! Framing and writing RESP2 and RESP3. Pure: bytes in, events out; no I/O, no clock.

mod args;

pub use args::{Args, Span};
