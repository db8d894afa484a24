//! Words of an inline request, as telnet and simple scripts send them.

/// Splits a line into words as the servers' `sdssplitargs` does: `"…"` with `\n \r \t \b \a \xHH \" \\`,
/// `'…'` with `\'`, anything else up to white space. `None` when quotes do not close, or close in
/// front of something else than white space.
pub(super) fn split(line: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut words = Vec::new();
    let mut at = 0;
    loop {
        while line.get(at).is_some_and(|&byte| is_space(byte)) {
            at += 1;
        }
        if at >= line.len() {
            return Some(words);
        }
        let mut word = Vec::new();
        while let Some(&byte) = line.get(at) {
            at += 1;
            match byte {
                b'"' => at = double_quoted(line, at, &mut word)?,
                b'\'' => at = single_quoted(line, at, &mut word)?,
                byte if is_space(byte) => break,
                byte => {
                    word.push(byte);
                    continue;
                }
            }
            // A closing quote ends the word, so white space or the end must follow.
            if line.get(at).is_some_and(|&byte| !is_space(byte)) {
                return None;
            }
            break;
        }
        words.push(word);
    }
}

/// Reads up to the closing quote; returns the place behind it.
fn double_quoted(line: &[u8], mut at: usize, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        match line.get(at..)? {
            [b'\\', b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high) << 4 | hex(*low));
                at += 4;
            }
            [b'\\', escaped, ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                at += 2;
            }
            [b'"', ..] => return Some(at + 1),
            [byte, ..] => {
                word.push(*byte);
                at += 1;
            }
            [] => return None,
        }
    }
}

/// Reads up to the closing quote; returns the place behind it.
fn single_quoted(line: &[u8], mut at: usize, word: &mut Vec<u8>) -> Option<usize> {
    loop {
        match line.get(at..)? {
            [b'\\', b'\'', ..] => {
                word.push(b'\'');
                at += 2;
            }
            [b'\'', ..] => return Some(at + 1),
            [byte, ..] => {
                word.push(*byte);
                at += 1;
            }
            [] => return None,
        }
    }
}

/// What C's `isspace` takes for white space.
fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    fn words(line: &str) -> Option<Vec<String>> {
        split(line.as_bytes()).map(|all| all.iter().map(|w| String::from_utf8_lossy(w).into()).collect())
    }

    #[test]
    fn words_are_split_at_white_space_and_quotes_keep_it() {
        assert_eq!(words("set k \"a b\"").unwrap(), ["set", "k", "a b"]);
        assert_eq!(words("  set\tk 'a \\' b'  ").unwrap(), ["set", "k", "a ' b"]);
        assert_eq!(words("x \"\\x41\\n\\q\"").unwrap(), ["x", "A\nq"]);
        assert_eq!(words("x \"\"").unwrap(), ["x", ""]);
        assert_eq!(words("").unwrap(), Vec::<String>::new());
        assert_eq!(words("ab\"cd\" e").unwrap(), ["abcd", "e"]);
    }

    #[test]
    fn quotes_that_do_not_close_are_refused() {
        assert_eq!(words("set k \"a"), None);
        assert_eq!(words("set k 'a"), None);
        assert_eq!(words("set k \"a\"b"), None);
        assert_eq!(words("set k \"a\\"), None);
    }
}
