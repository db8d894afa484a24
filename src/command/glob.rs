//! Glob patterns as a server matches them, without regard to case.

/// Whether `text` is matched by `pattern`: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before a character that is to mean
/// itself. It takes at most the product of the lengths.
pub(super) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Behind the last star, and how much of the text it stands for so far.
    let mut star = None;
    loop {
        if pattern.get(at) == Some(&b'*') {
            at += 1;
            star = Some((at, seen));
            continue;
        }
        if seen == text.len() && at == pattern.len() {
            return true;
        }
        let step = text.get(seen).and_then(|&byte| one(&pattern[at..], byte));
        match (step, star) {
            (Some(taken), _) => {
                at += taken;
                seen += 1;
            }
            (None, Some((behind, from))) if from < text.len() => {
                star = Some((behind, from + 1));
                (at, seen) = (behind, from + 1);
            }
            _ => return false,
        }
    }
}

/// How much of the pattern's begin stands for this byte.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => class_of(class, byte).map(|taken| taken + 1),
        [b'\\', wanted, ..] => wanted.eq_ignore_ascii_case(&byte).then_some(2),
        [wanted, ..] => wanted.eq_ignore_ascii_case(&byte).then_some(1),
    }
}

/// The length of the class with its closing bracket, which may be missing at the end, if the byte is in it.
fn class_of(class: &[u8], byte: u8) -> Option<usize> {
    let byte = byte.to_ascii_lowercase();
    let negated = class.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut found = false;
    while at < class.len() && class[at] != b']' {
        let (from, to, taken) = match class[at..] {
            [b'\\', escaped, ..] => (escaped, escaped, 2),
            [from, b'-', to, ..] => (from.min(to), from.max(to), 3),
            [single, ..] => (single, single, 1),
            [] => break,
        };
        found |= (from.to_ascii_lowercase()..=to.to_ascii_lowercase()).contains(&byte);
        at += taken;
    }
    (found != negated).then_some((at + 1).min(class.len()))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        let hits = [
            "*", "get", "G?T", "g*", "*t", "*e*", "[f-h]et", "[^a]et", "[]g]et*", "\\get", "ge[t", "**t",
            "g[E]t",
        ];
        for pattern in hits {
            let expected = pattern != "[]g]et*";
            assert_eq!(matches(pattern.as_bytes(), b"get"), expected, "{pattern}");
        }
        for pattern in ["", "ge", "gett", "g?", "[^g]et", "*x", "????", "get?", "get[", "ge\\*"] {
            assert!(!matches(pattern.as_bytes(), b"get"), "{pattern}");
        }
    }
}
