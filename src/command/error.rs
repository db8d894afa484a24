//! A server's words for a request that it does not execute at all.

use std::fmt;

use super::spec::Spec;
use crate::error::ErrorKind;
use crate::protocol::Args;

/// How much of a client's words a server repeats.
const REPEATED: usize = 128;

/// Why a request names no command, or names one wrongly. Its text is made only when it is asked for.
#[derive(Clone, Copy, Debug)]
pub enum CommandError<'a> {
    /// There is no such command.
    Unknown(Args<'a>),
    /// There is no such subcommand of this container.
    UnknownSubcommand(&'static Spec, Args<'a>),
    /// The command takes another number of arguments.
    WrongArity(&'static Spec),
}

impl CommandError<'_> {
    /// Its kind, for counting.
    pub fn kind(&self) -> ErrorKind {
        match self {
            CommandError::Unknown(_) | CommandError::UnknownSubcommand(..) => ErrorKind::UnknownCommand,
            CommandError::WrongArity(_) => ErrorKind::WrongArity,
        }
    }

    /// The command or container that is meant, if there is such a one.
    pub fn spec(&self) -> Option<&'static Spec> {
        match self {
            CommandError::Unknown(_) => None,
            CommandError::UnknownSubcommand(spec, _) | CommandError::WrongArity(spec) => Some(spec),
        }
    }

    /// Whether it is a line of an HTTP request, as a web page can make a browser send it to any port of its
    /// machine. A server closes the connection then, so that the body is not taken for commands.
    pub fn is_http(&self) -> bool {
        let CommandError::Unknown(args) = self else { return false };
        [&b"post"[..], b"host:"].iter().any(|word| args.get(0).eq_ignore_ascii_case(word))
    }

    /// Appends a server's text, without the leading `-` and the line's end: the bytes that redis 7.0 sends, which
    /// are not UTF-8 where the request was not.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        match self {
            CommandError::Unknown(args) => {
                out.extend_from_slice(b"ERR unknown command '");
                repeat(args.get(0), REPEATED, out);
                out.extend_from_slice(b"', with args beginning with: ");
                let start = out.len();
                for arg in args.iter().skip(1) {
                    let room = REPEATED.saturating_sub(out.len() - start);
                    if room == 0 {
                        break;
                    }
                    out.push(b'\'');
                    repeat(arg, room, out);
                    out.extend_from_slice(b"' ");
                }
            }
            CommandError::UnknownSubcommand(container, args) => {
                out.extend_from_slice(b"ERR unknown subcommand '");
                repeat(args.get(1), REPEATED, out);
                out.extend_from_slice(b"'. Try ");
                out.extend(container.name.bytes().map(|byte| byte.to_ascii_uppercase()));
                out.extend_from_slice(b" HELP.");
            }
            CommandError::WrongArity(spec) => {
                // A server has discarded the transaction by then, and says so.
                let begin: &[u8] = if spec.name == "exec" {
                    b"EXECABORT Transaction discarded because of: "
                } else {
                    b"ERR "
                };
                out.extend_from_slice(begin);
                out.extend_from_slice(b"wrong number of arguments for '");
                out.extend(spec.name.bytes().map(|byte| if byte == b' ' { b'|' } else { byte }));
                out.extend_from_slice(b"' command");
            }
        }
    }
}

impl fmt::Display for CommandError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::new();
        self.write_to(&mut text);
        f.write_str(&String::from_utf8_lossy(&text))
    }
}

impl std::error::Error for CommandError<'_> {}

/// A server formats with `%.*s`, so a zero byte ends the word; a line's end would end the reply and becomes a space.
pub(crate) fn repeat(word: &[u8], room: usize, out: &mut Vec<u8>) {
    let shown = word.iter().take(room).take_while(|&&byte| byte != 0);
    out.extend(shown.map(|&byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte }));
}
