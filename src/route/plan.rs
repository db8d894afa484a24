//! Where a request goes, by its keys alone. Pure.

use crate::command::{Find, KeyError, Spec};
use crate::protocol::{Args, integer, write};
use crate::topology::{SLOTS, slot_of};

/// Why a request can't be planned.
#[derive(Debug)]
pub enum PlanError {
    /// Its keys hash to different slots and it can't be split.
    CrossSlot,
    /// Its keys can't be told.
    Keys(KeyError),
}

/// The slot that all keys of a request share, and how many keys there are (0: it has none).
///
/// # Errors
/// See [`PlanError`].
#[inline]
pub fn slot(spec: &'static Spec, args: &Args<'_>) -> Result<(u16, usize), PlanError> {
    if let Some(index) = spec.first_key(args) {
        return Ok((slot_of(args.get(index)), 1));
    }
    let (mut slot, mut count, mut crosses) = (0, 0, false);
    spec.for_each_key(args, &mut |index| {
        let this = slot_of(args.get(index));
        crosses |= count > 0 && this != slot;
        slot = this;
        count += 1;
    })
    .map_err(PlanError::Keys)?;
    if crosses { Err(PlanError::CrossSlot) } else { Ok((slot, count)) }
}

/// The slot whose number is argument 2, if it is one.
pub fn slot_number(args: &Args<'_>) -> Option<u16> {
    let number = u16::try_from(integer(args.get(2))?).ok()?;
    (usize::from(number) < SLOTS).then_some(number)
}

/// Very many keys of a request that may be split, while they are grouped little by little.
#[derive(Debug)]
pub struct Keys {
    /// Of the first ones.
    slots: Vec<u16>,
    /// How many of them each slot has; once all are known, where the next one of each goes.
    places: Vec<u32>,
    /// For each slot with keys how many such slots come before it.
    numbers: Vec<u32>,
    /// The first so many have their place.
    placed: usize,
    groups: Groups,
    order: Vec<u32>,
    count: usize,
}

impl Keys {
    /// The keys of a request of a command that [`crate::command::Route::Split`] names: they begin behind the name.
    ///
    /// # Errors
    /// The keys can't be told.
    pub fn of(spec: &'static Spec, args: &Args<'_>) -> Result<Self, KeyError> {
        let mut count = 0;
        spec.for_each_key(args, &mut |_| count += 1)?;
        let groups = Groups { keys: vec![(0, 0); count], stride: stride(spec) as u32 };
        Ok(Keys {
            slots: Vec::with_capacity(count),
            places: vec![0; SLOTS],
            numbers: Vec::with_capacity(SLOTS),
            placed: 0,
            groups,
            order: vec![0; count],
            count,
        })
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        let tables = (self.places.capacity() + self.numbers.capacity()) * size_of::<u32>();
        tables + self.count * (size_of::<u16>() + size_of::<(u16, u32)>() + size_of::<u32>())
    }

    /// Goes on with as many more: computes their slots, or groups them once all slots are known. In the end the groups,
    /// and [`Groups::order`].
    pub fn group(&mut self, args: &Args<'_>, more: usize) -> Option<(Groups, Vec<u32>)> {
        let stride = self.groups.stride as usize;
        if self.slots.len() < self.count {
            for key in self.slots.len()..self.count.min(self.slots.len() + more) {
                let slot = slot_of(args.get(1 + key * stride));
                self.places[usize::from(slot)] += 1;
                self.slots.push(slot);
            }
            return None;
        }
        if self.numbers.is_empty() {
            self.number();
        }
        let end = self.count.min(self.placed + more);
        for key in self.placed..end {
            let slot = self.slots[key];
            let place = &mut self.places[usize::from(slot)];
            self.groups.keys[*place as usize] = (slot, (1 + key * stride) as u32);
            self.order[key] = self.numbers[usize::from(slot)];
            *place += 1;
        }
        self.placed = end;
        (end == self.count).then(|| (std::mem::take(&mut self.groups), std::mem::take(&mut self.order)))
    }

    fn number(&mut self) {
        let (mut place, mut number) = (0, 0);
        for slot in &mut self.places {
            let keys = std::mem::replace(slot, place);
            self.numbers.push(number);
            place += keys;
            number += u32::from(keys > 0);
        }
    }
}

/// The keys of a request that may be split, grouped by slot.
#[derive(Debug, Default)]
pub struct Groups {
    /// Slot and argument index of every key, sorted: keys of one slot stand together, in their order.
    keys: Vec<(u16, u32)>,
    /// 2 where a value follows each key.
    stride: u32,
}

impl Groups {
    /// The keys of a request of a command that [`crate::command::Route::Split`] names.
    ///
    /// # Errors
    /// The keys can't be told.
    pub fn of(spec: &'static Spec, args: &Args<'_>) -> Result<Self, KeyError> {
        let mut keys = Vec::with_capacity(args.len() - 1);
        spec.for_each_key(args, &mut |index| keys.push((slot_of(args.get(index)), index as u32)))?;
        keys.sort_unstable();
        Ok(Groups { keys, stride: stride(spec) as u32 })
    }

    /// The group that begins with the key of this place among the sorted ones.
    pub fn at(&self, place: usize) -> Option<&[(u16, u32)]> {
        self.keys.get(place..)?.chunk_by(|a, b| a.0 == b.0).next()
    }

    /// The groups: each a slot and its keys.
    pub fn iter(&self) -> impl Iterator<Item = &[(u16, u32)]> {
        self.keys.chunk_by(|a, b| a.0 == b.0)
    }

    /// Bytes of memory.
    pub fn memory(&self) -> usize {
        self.keys.capacity() * size_of::<(u16, u32)>()
    }

    /// How many keys there are.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// The slot, if all keys share one.
    pub fn single_slot(&self) -> Option<u16> {
        let first = self.keys.first()?.0;
        (self.keys.last()?.0 == first).then_some(first)
    }

    /// For every key of the request, in its order, the number of the group that has it.
    pub fn order(&self) -> Vec<u32> {
        let mut order = vec![0; self.keys.len()];
        for (number, group) in self.iter().enumerate() {
            for (_, index) in group {
                order[self.ordinal(*index)] = number as u32;
            }
        }
        order
    }

    /// The how-manieth key an argument is.
    fn ordinal(&self, index: u32) -> usize {
        ((index - 1) / self.stride) as usize
    }

    /// Appends the request for one group of keys.
    pub fn write(&self, args: &Args<'_>, group: &[(u16, u32)], out: &mut Vec<u8>) {
        write::array(out, 1 + group.len() * self.stride as usize);
        write::bulk(out, args.get(0));
        for (_, index) in group {
            for index in *index..*index + self.stride {
                write::bulk(out, args.get(index as usize));
            }
        }
    }
}

/// 2 where a value follows each key.
fn stride(spec: &'static Spec) -> usize {
    match spec.keys.first().map(|spec| spec.find) {
        Some(Find::Range { step, .. }) => usize::from(step),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::resolve;
    use crate::protocol::{RequestFramer, RequestLimits};

    const LIMITS: RequestLimits = RequestLimits { arguments: 100, bytes: 10000, unauthenticated: false };

    fn with<R>(line: &str, f: impl FnOnce(&'static Spec, &Args<'_>) -> R) -> R {
        let mut framer = RequestFramer::default();
        let line = format!("{line}\r\n");
        let request = framer.next(line.as_bytes(), &LIMITS).unwrap().unwrap().rewritten.unwrap();
        let args = framer.args(&request);
        f(resolve(&args).unwrap(), &args)
    }

    #[test]
    fn keys_must_share_a_slot() {
        assert!(with("mset {t}a 1 {t}b 2", |spec, args| matches!(slot(spec, args), Ok((_, 2)))));
        assert!(with("rename a b", |spec, args| matches!(slot(spec, args), Err(PlanError::CrossSlot))));
        assert!(with("sunionstore {x}1 a {x}2", |s, args| matches!(
            slot(s, args),
            Err(PlanError::CrossSlot)
        )));
    }

    #[test]
    fn a_split_request_keeps_each_keys_value_and_the_order() {
        with("mset a 1 b 2 {a}x 3", |spec, args| {
            let groups = Groups::of(spec, args).unwrap();
            let parts: Vec<String> = groups
                .iter()
                .map(|group| {
                    let mut out = Vec::new();
                    groups.write(args, group, &mut out);
                    String::from_utf8(out)
                        .unwrap()
                        .split("\r\n")
                        .filter(|l| !l.starts_with(['*', '$']))
                        .collect::<Vec<_>>()
                        .join(" ")
                })
                .collect();
            assert_eq!(parts, ["mset b 2 ", "mset a 1 {a}x 3 "]);
            assert_eq!(groups.order(), [1, 0, 1]);
        });
    }

    #[test]
    fn very_many_keys_are_grouped_little_by_little_as_few_are_at_once() {
        for line in ["mget a b {a}x c {b}y a", "mset a 1 b 2 {a}x 3 a 4"] {
            with(line, |spec, args| {
                let mut keys = Keys::of(spec, args).unwrap();
                let steps: Vec<_> = std::iter::repeat_with(|| keys.group(args, 3)).take(4).collect();
                let [None, None, .., Some((many, order))] = &steps[..] else { panic!("{steps:?}") };
                let few = Groups::of(spec, args).unwrap();
                assert_eq!((&many.keys, many.stride, order), (&few.keys, few.stride, &few.order()));
                let groups: Vec<_> = few.iter().collect();
                let second = groups[0].len();
                assert_eq!((many.at(0), many.at(second)), (Some(groups[0]), Some(groups[1])));
                assert_eq!(many.at(many.keys()), None);
            });
        }
    }
}
