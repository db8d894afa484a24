//! The replies of a command's parts become one reply. Pure.

use std::collections::HashSet;
use std::ops::Range;

use crate::command::Merge;
use crate::protocol::{ReplyFramer, write};

/// Appends the reply that `parts` make together. An error of any part is the reply, the first part's first.
///
/// `order` says for every key of the request which part has it; parts keep the order of their keys.
pub fn merge(how: Merge, parts: &[&[u8]], order: &[u32], out: &mut Vec<u8>) {
    let begin = out.len();
    if let Some(error) = parts.iter().find(|part| matches!(part.first(), Some(b'-' | b'!'))) {
        out.extend_from_slice(error);
        return;
    }
    let done = match how {
        Merge::Pass | Merge::AllSucceeded | Merge::Receivers(_) => {
            parts.first().map(|part| out.extend_from_slice(part))
        }
        Merge::Sum | Merge::SumPatterns => integers(parts).map(|all| write::integer(out, sum(&all))),
        Merge::MinInt => {
            integers(parts).map(|all| write::integer(out, all.iter().copied().min().unwrap_or_default()))
        }
        Merge::MaxInt => {
            integers(parts).map(|all| write::integer(out, all.iter().copied().max().unwrap_or_default()))
        }
        Merge::LogicalAnd => logical_and(parts, out),
        Merge::Concat => concat(parts, out),
        Merge::Union => union(parts, out),
        Merge::SumByName(_) => sum_by_name(parts, out),
        Merge::ByKeyOrder => by_key_order(parts, order, out),
        Merge::Exec => match parts.iter().find(|part| matches!(**part, b"*-1\r\n" | b"_\r\n")) {
            Some(none) => {
                out.extend_from_slice(none);
                Some(())
            }
            None => by_key_order(parts, order, out),
        },
    };
    if done.is_none() {
        out.truncate(begin);
        write::error(out, "ERR the nodes' replies can't be merged: unexpected reply type");
    }
}

/// The reply of one of several nodes, each with its weight as `:N`: by chance, of those that are no null. `dice` is from 0
/// up to 1. The first reply if all are null; the first error, if there is any.
#[must_use]
pub fn by_weight<'a>(parts: &[(&[u8], &'a [u8])], dice: f64) -> &'a [u8] {
    let is_error = |reply: &[u8]| reply.first() == Some(&b'-');
    if let Some((_, error)) = parts.iter().find(|(_, reply)| is_error(reply)) {
        return error;
    }
    let is_null = |reply: &[u8]| reply.starts_with(b"$-1") || reply.starts_with(b"_");
    // A weight that cannot be read counts as a key.
    let weight = |size: &[u8]| integers(&[size]).map_or(1, |size| size[0].max(1)) as f64;
    let some: Vec<(f64, &'a [u8])> = parts
        .iter()
        .filter(|(_, reply)| !is_null(reply))
        .map(|(size, reply)| (weight(size), *reply))
        .collect();
    let mut left = dice * some.iter().map(|(weight, _)| weight).sum::<f64>();
    for (weight, reply) in &some {
        left -= weight;
        if left < 0.0 {
            return reply;
        }
    }
    some.last()
        .map(|(_, reply)| *reply)
        .or_else(|| parts.first().map(|(_, reply)| *reply))
        .unwrap_or_default()
}

/// Nodes may say anything.
fn sum(integers: &[i64]) -> i64 {
    integers.iter().copied().fold(0, i64::saturating_add)
}

fn integers(parts: &[&[u8]]) -> Option<Vec<i64>> {
    let integer = |part: &&[u8]| {
        let digits = part.strip_prefix(b":")?.strip_suffix(b"\r\n")?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    };
    parts.iter().map(integer).collect()
}

/// An array's (or set's) count and its elements.
fn elements(part: &[u8]) -> Option<(usize, &[u8])> {
    let rest = part.strip_prefix(b"*").or_else(|| part.strip_prefix(b"~"))?;
    let end = memchr::memchr(b'\r', rest)?;
    let count = std::str::from_utf8(&rest[..end]).ok()?.parse().ok()?;
    Some((count, &rest[end + 2..]))
}

fn concat(parts: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let all = parts.iter().map(|part| elements(part)).collect::<Option<Vec<_>>>()?;
    write::array(out, all.iter().map(|(count, _)| count).sum());
    all.iter().for_each(|(_, elements)| out.extend_from_slice(elements));
    Some(())
}

fn union(parts: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let (mut all, mut seen) = (Vec::new(), HashSet::new());
    for part in parts {
        let (count, mut rest) = elements(part)?;
        for _ in 0..count {
            let element = first_element(&mut rest)?;
            if seen.insert(element) {
                all.push(element);
            }
        }
    }
    write::array(out, all.len());
    all.iter().for_each(|element| out.extend_from_slice(element));
    Some(())
}

/// The names are the same in all parts. A number of connections that are none any more may be missing.
fn sum_by_name(parts: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut rests: Vec<(usize, &[u8])> = parts.iter().map(|part| elements(part)).collect::<Option<_>>()?;
    let count = rests.first()?.0;
    if count % 2 != 0 {
        return None;
    }
    write::array(out, count);
    for _ in 0..count / 2 {
        let (mut name, mut sum) = (&b""[..], 0);
        for (_, rest) in &mut rests {
            name = first_element(rest)?;
            sum = i64::saturating_add(sum, integers(&[first_element(rest)?])?[0]);
        }
        out.extend_from_slice(name);
        write::integer(out, sum.max(0));
    }
    Some(())
}

fn logical_and(parts: &[&[u8]], out: &mut Vec<u8>) -> Option<()> {
    let mut rows = Vec::new();
    for part in parts {
        let (count, mut rest) = elements(part)?;
        let mut row = Vec::with_capacity(count);
        for _ in 0..count {
            let element = first_element(&mut rest)?;
            row.push(integers(&[element])?[0]);
        }
        rows.push(row);
    }
    let first = rows.first()?;
    write::array(out, first.len());
    for column in 0..first.len() {
        let all = rows.iter().all(|row| row.get(column) == Some(&1));
        write::integer(out, i64::from(all));
    }
    Some(())
}

fn by_key_order(parts: &[&[u8]], order: &[u32], out: &mut Vec<u8>) -> Option<()> {
    let mut merging = ByKeyOrder::begin(parts.len(), order, out);
    while !merging.is_done(order) {
        let (part, range) = merging.next(order, |part| parts[part])?;
        out.extend_from_slice(&parts[part][range]);
    }
    Some(())
}

/// How far the merging by the order of keys is, which may be done little by little.
#[derive(Debug)]
pub struct ByKeyOrder {
    /// Where the next element of each part begins; 0 before the first one.
    places: Vec<usize>,
    done: usize,
}

impl ByKeyOrder {
    /// Begins to append the reply made of so many parts.
    pub fn begin(parts: usize, order: &[u32], out: &mut Vec<u8>) -> Self {
        write::array(out, order.len());
        ByKeyOrder { places: vec![0; parts], done: 0 }
    }

    /// Whether all elements are there.
    pub fn is_done(&self, order: &[u32]) -> bool {
        self.done == order.len()
    }

    /// In which part the next element lies, and where in its reply; `None` if there is none, or if that is no array.
    pub fn next<'a>(
        &mut self,
        order: &[u32],
        reply_of: impl FnOnce(usize) -> &'a [u8],
    ) -> Option<(usize, Range<usize>)> {
        let part = *order.get(self.done)? as usize;
        let (place, reply) = (self.places.get_mut(part)?, reply_of(part));
        if *place == 0 {
            *place = reply.len() - elements(reply)?.1.len();
        }
        let element = first_element(&mut reply.get(*place..)?)?.len();
        let range = *place..*place + element;
        *place = range.end;
        self.done += 1;
        Some((part, range))
    }
}

/// Cuts off the first element.
fn first_element<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = ReplyFramer::default().next(rest).ok().flatten()?;
    let (element, tail) = rest.split_at(len);
    *rest = tail;
    Some(element)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Topics;

    fn merged(how: Merge, parts: &[&str], order: &[u32]) -> String {
        let parts: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
        let mut out = Vec::new();
        merge(how, &parts, order, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn values_come_in_the_order_of_the_keys() {
        let parts = ["*2\r\n$1\r\na\r\n$1\r\nc\r\n", "*1\r\n$-1\r\n"];
        assert_eq!(merged(Merge::ByKeyOrder, &parts, &[0, 1, 0]), "*3\r\n$1\r\na\r\n$-1\r\n$1\r\nc\r\n");
    }

    #[test]
    fn counts_are_summed_and_arrays_joined() {
        assert_eq!(merged(Merge::Sum, &[":1\r\n", ":41\r\n"], &[]), ":42\r\n");
        assert_eq!(merged(Merge::Concat, &["*1\r\n$1\r\na\r\n", "*0\r\n"], &[]), "*1\r\n$1\r\na\r\n");
        assert_eq!(
            merged(Merge::LogicalAnd, &["*2\r\n:1\r\n:0\r\n", "*2\r\n:1\r\n:1\r\n"], &[]),
            "*2\r\n:1\r\n:0\r\n"
        );
        assert_eq!(merged(Merge::AllSucceeded, &["+OK\r\n", "+OK\r\n"], &[]), "+OK\r\n");
        let parts = ["*2\r\n$1\r\na\r\n$1\r\nb\r\n", "*0\r\n", "*2\r\n$1\r\nb\r\n$1\r\nc\r\n"];
        assert_eq!(merged(Merge::Union, &parts, &[]), "*3\r\n$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n");
        let parts = ["*2\r\n$1\r\na\r\n:3\r\n", "*2\r\n$1\r\na\r\n:-1\r\n"];
        assert_eq!(merged(Merge::SumByName(Topics::Channels), &parts, &[]), "*2\r\n$1\r\na\r\n:2\r\n");
    }

    #[test]
    fn a_reply_is_taken_by_its_weight() {
        let parts: [(&[u8], &[u8]); 4] =
            [(b":0\r\n", b"$-1\r\n"), (b":10\r\n", b"a"), (b":30\r\n", b"b"), (b":5\r\n", b"_\r\n")];
        let taken = |dice: f64| by_weight(&parts, dice);
        assert_eq!(
            (taken(0.0), taken(0.24), taken(0.26), taken(0.999)),
            (&b"a"[..], &b"a"[..], &b"b"[..], &b"b"[..])
        );
        assert_eq!(by_weight(&parts[..1], 0.5), b"$-1\r\n");
        assert_eq!(by_weight(&[(b":1\r\n", b"a"), (b"-x\r\n", b"-ERR x\r\n")], 0.0), b"-ERR x\r\n");
    }

    #[test]
    fn one_error_is_the_reply_and_what_does_not_fit_is_an_error() {
        assert_eq!(merged(Merge::Sum, &[":1\r\n", "-ERR x\r\n", "-ERR y\r\n"], &[]), "-ERR x\r\n");
        assert!(merged(Merge::Sum, &[":1\r\n", "+OK\r\n"], &[]).starts_with("-ERR "));
        assert!(merged(Merge::ByKeyOrder, &["*0\r\n"], &[0]).starts_with("-ERR "));
        assert!(merged(Merge::SumByName(Topics::Channels), &["*1\r\n:1\r\n"], &[]).starts_with("-ERR "));
        assert_eq!(
            merged(Merge::Sum, &[":9223372036854775807\r\n", ":1\r\n"], &[]),
            ":9223372036854775807\r\n"
        );
    }
}
