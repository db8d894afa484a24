//! Glob patterns as a server matches them.

/// Whether `text` is matched by `pattern`: `*`, `?`, `[a-z]`, `[^a-z]`, and `\` before a character that is to mean
/// itself; with regard to case or not. It takes at most the product of the lengths.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8], with_case: bool) -> bool {
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
        let step = text.get(seen).and_then(|&byte| one(&pattern[at..], byte, with_case));
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

/// Whether `pattern` may match a text that begins with `prefix`. True as well for some that cannot, behind it.
#[must_use]
pub fn may_begin(pattern: &[u8], prefix: &[u8]) -> bool {
    // Every place in the pattern that the prefix so far may have led to.
    let mut places = vec![0];
    for byte in prefix {
        let mut next = Vec::new();
        while let Some(at) = places.pop() {
            if pattern.get(at) == Some(&b'*') {
                next.push(at);
                // Stars behind it add nothing, and may be a million.
                let stars = pattern[at..].iter().take_while(|byte| **byte == b'*').count();
                places.push(at + stars);
            } else if let Some(taken) = one(&pattern[at..], *byte, true) {
                next.push(at + taken);
            }
        }
        next.sort_unstable();
        next.dedup();
        places = next;
    }
    !places.is_empty()
}

/// How much of the pattern's begin stands for this byte.
fn one(pattern: &[u8], byte: u8, with_case: bool) -> Option<usize> {
    let is = |wanted: &u8| if with_case { *wanted == byte } else { wanted.eq_ignore_ascii_case(&byte) };
    match pattern {
        [] => None,
        [b'?', ..] => Some(1),
        [b'[', class @ ..] => class_of(class, byte, with_case).map(|taken| taken + 1),
        [b'\\', wanted, ..] => is(wanted).then_some(2),
        [wanted, ..] => is(wanted).then_some(1),
    }
}

/// The length of the class with its closing bracket, which may be missing at the end, if the byte is in it.
fn class_of(class: &[u8], byte: u8, with_case: bool) -> Option<usize> {
    let fold = |byte: u8| if with_case { byte } else { byte.to_ascii_lowercase() };
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
        found |= (fold(from)..=fold(to)).contains(&fold(byte));
        at += taken;
    }
    (found != negated).then_some((at + 1).min(class.len()))
}

#[cfg(test)]
mod tests {
    use super::{matches, may_begin};

    #[test]
    fn patterns() {
        let hits = [
            "*", "get", "G?T", "g*", "*t", "*e*", "[f-h]et", "[^a]et", "[]g]et*", "\\get", "ge[t", "**t",
            "g[E]t",
        ];
        for pattern in hits {
            let expected = pattern != "[]g]et*";
            assert_eq!(matches(pattern.as_bytes(), b"get", false), expected, "{pattern}");
        }
        for pattern in ["", "ge", "gett", "g?", "[^g]et", "*x", "????", "get?", "get[", "ge\\*"] {
            assert!(!matches(pattern.as_bytes(), b"get", false), "{pattern}");
        }
    }

    #[test]
    fn case_counts_where_it_is_to() {
        for (pattern, text, hit) in [
            ("a*", "abc", true),
            ("A*", "abc", false),
            ("[A-Z]", "b", false),
            ("[a-z]", "b", true),
            ("[^B]", "b", true),
            ("\\A", "a", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes(), true), hit, "{pattern} {text}");
        }
    }

    #[test]
    fn which_patterns_may_begin_with_a_text() {
        let may = |pattern: &str| may_begin(pattern.as_bytes(), b"__key@");
        for pattern in
            ["*", "__key*", "[_]*", "?_*", "__key@*", "__key@0", "*@0", "_*_k*z", "__[^x]ey@x", "**"]
        {
            assert!(may(pattern), "{pattern}");
        }
        for pattern in ["", "a*", "__kez*", "_", "__key", "[^_]*", "__Key*", "?", "__key[a-z]*"] {
            assert!(!may(pattern), "{pattern}");
        }
    }
}
