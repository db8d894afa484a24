//! Every failure that a client can see and that the proxy itself creates: its text, its metric label,
//! and whether the command may be sent again.
//!
//! Errors that a node sent are not here: they go to the client word for word. What is wrong with a request, in a
//! server's own words, is told where it is found; here it has its kind.

use std::borrow::Cow;
use std::fmt;

use bytes::BufMut;

use crate::net::NodeAddr;

/// A failure as a client sees it. [`Display`](fmt::Display) is the text without the leading `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientError {
    /// The keys of one command hash to different slots, and it cannot be split.
    CrossSlot,
    /// A command of a transaction is in another slot than those before it.
    CrossSlotTransaction,
    /// Watched keys, or those of their transaction, are in several slots.
    CrossSlotWatch,
    /// Too many sessions have connections of their own.
    NoConnection,
    /// CLIENT UNBLOCK ended the wait of a command that had not reached a node.
    Unblocked,
    /// A command that no server takes within MULTI.
    NotInTransaction,
    /// A transaction's commands exceed what one request may be.
    TransactionTooLarge,
    /// A write's link died after the write was sent: it may have been executed, or not.
    Indoubt {
        /// The node that the command was sent to.
        node: NodeAddr,
    },
    /// A write was on a node when `command_timeout` passed: it may have been executed, or may yet be.
    IndoubtTimeout {
        /// The node that the command was sent to.
        node: NodeAddr,
    },
    /// A command that only reads was on a node when `command_timeout` passed.
    Timeout {
        /// The node that the command was sent to.
        node: NodeAddr,
    },
    /// The reply exceeds a limit of the proxy and was not passed on.
    ReplyTooLarge {
        /// The limit's name: `max_reply` or `max_memory`.
        limit: &'static str,
    },
    /// No node can serve the command now, and waiting for one is pointless.
    ClusterDown {
        /// What is wrong, as in `Hash slot not served`.
        reason: Cow<'static, str>,
    },
    /// A command for all nodes could not be sent to this one.
    Unreached {
        /// The node.
        node: NodeAddr,
    },
    /// A command that this proxy does not pass on.
    Refused {
        /// Its name in lower case.
        command: Cow<'static, str>,
        /// Why.
        reason: Cow<'static, str>,
    },
    /// A client password is set and the client has not given it.
    NoAuth,
    /// The client gave a wrong password or user name.
    WrongPass,
    /// `max_clients` is reached.
    MaxClients,
    /// Repeating the command would undo a later one that was already executed.
    OrderConflict,
}

impl ClientError {
    /// The kind, for counting and for [`Repeat`].
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CrossSlot | Self::CrossSlotTransaction | Self::CrossSlotWatch => ErrorKind::CrossSlot,
            Self::NoConnection => ErrorKind::NoConnection,
            Self::Unblocked => ErrorKind::Unblocked,
            Self::NotInTransaction => ErrorKind::Refused,
            Self::TransactionTooLarge => ErrorKind::TooLarge,
            Self::Indoubt { .. } | Self::IndoubtTimeout { .. } => ErrorKind::Indoubt,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::ReplyTooLarge { .. } => ErrorKind::ReplyTooLarge,
            Self::ClusterDown { .. } | Self::Unreached { .. } => ErrorKind::ClusterDown,
            Self::Refused { .. } => ErrorKind::Refused,
            Self::NoAuth => ErrorKind::NoAuth,
            Self::WrongPass => ErrorKind::WrongPass,
            Self::MaxClients => ErrorKind::MaxClients,
            Self::OrderConflict => ErrorKind::OrderConflict,
        }
    }

    /// Appends the error as a reply: `-TEXT\r\n`. Line breaks in the text become spaces, as a server
    /// does it, so that a client's own bytes in it cannot forge a reply.
    pub fn append_to(&self, out: &mut impl BufMut) {
        out.put_u8(b'-');
        for byte in self.to_string().bytes() {
            out.put_u8(if matches!(byte, b'\r' | b'\n') { b' ' } else { byte });
        }
        out.put_slice(b"\r\n");
    }

    /// The error as a reply.
    #[must_use]
    pub fn reply(&self) -> Vec<u8> {
        let mut reply = Vec::new();
        self.append_to(&mut reply);
        reply
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CrossSlot => f.write_str("CROSSSLOT Keys in request don't hash to the same slot"),
            Self::CrossSlotTransaction => f.write_str(
                "CROSSSLOT Keys of one transaction don't hash to the same slot; with cross_slot_transactions: per_slot \
                 this proxy makes a transaction for each slot",
            ),
            Self::CrossSlotWatch => f.write_str(
                "CROSSSLOT Watched keys and those of their transaction must hash to the same slot",
            ),
            Self::NoConnection => f.write_str(
                "TIMEOUT no connection was free within command_deadline: dedicated_per_node is reached",
            ),
            Self::Unblocked => f.write_str("UNBLOCKED client unblocked via CLIENT UNBLOCK"),
            Self::NotInTransaction => f.write_str("ERR Command not allowed inside a transaction"),
            Self::TransactionTooLarge => {
                f.write_str("ERR the transaction exceeds this proxy's max_request or max_arguments")
            }
            Self::Indoubt { node } => write!(
                f,
                "INDOUBT the connection to node {node} was lost after the command was sent; \
                 whether it was executed is unknown"
            ),
            Self::IndoubtTimeout { node } => write!(
                f,
                "INDOUBT node {node} gave no reply within command_timeout; whether the command was executed, \
                 or will be, is unknown"
            ),
            Self::Timeout { node } => write!(f, "TIMEOUT node {node} gave no reply within command_timeout"),
            Self::ReplyTooLarge { limit } => {
                write!(f, "ERR the command was executed, but its reply exceeds this proxy's {limit}")
            }
            Self::ClusterDown { reason } => write!(f, "CLUSTERDOWN {reason}"),
            Self::Unreached { node } => {
                write!(f, "ERR node {node} can't be reached: the others may have carried the command out")
            }
            Self::Refused { command, reason } => {
                write!(f, "ERR command '{command}' is not available through this proxy: {reason}")
            }
            Self::NoAuth => f.write_str("NOAUTH Authentication required."),
            Self::WrongPass => f.write_str("WRONGPASS invalid username-password pair or user is disabled."),
            Self::MaxClients => f.write_str("ERR max number of clients reached"),
            Self::OrderConflict => f.write_str(
                "TRYAGAIN this command was not executed, and a later one of this connection on the same \
                 key was, or may have been: it is not sent again behind it",
            ),
        }
    }
}

impl std::error::Error for ClientError {}

/// Whether the client may send a command again after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It had no effect and may succeed later.
    Safe,
    /// It was executed, and the reply is lost.
    Executed,
    /// Whether it was executed is unknown: only the application knows if a repeat is harmless.
    Unknown,
    /// It had no effect, and the same command would fail again.
    Useless,
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident, $label:literal, $repeat:ident;)*) => {
        /// The kinds of errors that the proxy itself gives, dense, so that a counter for each is one array.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind, in the order of [`index`](Self::index).
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// The value of the metric label `kind`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$kind => $label,)* }
            }

            /// Whether the client may send the command again.
            #[must_use]
            pub const fn repeat(self) -> Repeat {
                match self { $(Self::$kind => Repeat::$repeat,)* }
            }

            /// The place in [`ALL`](Self::ALL).
            #[must_use]
            pub const fn index(self) -> usize {
                self as usize
            }
        }
    };
}

kinds! {
    /// See [`ClientError::CrossSlot`].
    CrossSlot, "crossslot", Useless;
    /// See [`ClientError::Indoubt`].
    Indoubt, "indoubt", Unknown;
    /// See [`ClientError::Timeout`].
    Timeout, "timeout", Safe;
    /// See [`ClientError::NoConnection`].
    NoConnection, "no_connection", Safe;
    /// See [`ClientError::Unblocked`].
    Unblocked, "unblocked", Safe;
    /// See [`ClientError::ReplyTooLarge`].
    ReplyTooLarge, "reply_too_large", Executed;
    /// See [`ClientError::ClusterDown`].
    ClusterDown, "clusterdown", Safe;
    /// See [`ClientError::Refused`].
    Refused, "refused", Useless;
    /// See [`ClientError::NoAuth`].
    NoAuth, "noauth", Useless;
    /// See [`ClientError::WrongPass`].
    WrongPass, "wrongpass", Useless;
    /// See [`ClientError::MaxClients`].
    MaxClients, "max_clients", Safe;
    /// The request is larger than `max_request`; the connection is closed, since the rest was not read. Or a
    /// transaction is.
    TooLarge, "too_large", Useless;
    /// See [`ClientError::OrderConflict`].
    OrderConflict, "order_conflict", Safe;
    /// The bytes are no request.
    Protocol, "protocol", Useless;
    /// No such command.
    UnknownCommand, "unknown_command", Useless;
    /// The wrong number of arguments.
    WrongArity, "wrong_arity", Useless;
    /// An argument is not acceptable to the proxy's own commands.
    BadArgument, "bad_argument", Useless;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn kinds_are_dense_and_their_labels_unique() {
        for (index, kind) in ErrorKind::ALL.iter().enumerate() {
            assert_eq!(kind.index(), index);
        }
        let labels: HashSet<_> = ErrorKind::ALL.iter().map(|kind| kind.label()).collect();
        assert_eq!(labels.len(), ErrorKind::ALL.len());
    }

    #[test]
    fn a_doubtful_write_names_its_node() {
        let error = ClientError::Indoubt { node: NodeAddr::new("::1", 7000) };
        assert_eq!(
            error.to_string(),
            "INDOUBT the connection to node [::1]:7000 was lost after the command was sent; \
             whether it was executed is unknown"
        );
        assert_eq!(error.kind().repeat(), Repeat::Unknown);
    }

    #[test]
    fn a_text_cannot_forge_a_reply() {
        let mut out = Vec::new();
        ClientError::ClusterDown { reason: "a\r\n+OK".into() }.append_to(&mut out);
        assert_eq!(out, b"-CLUSTERDOWN a  +OK\r\n");
    }
}
