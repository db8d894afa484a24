//! Small sets of named bits, for the columns of the table.

/// Declares a set type `$set`, a constant for each member, and a module `$bits` with the same members as plain
/// numbers: the table joins those with `|`, which a constant cannot do with a type of its own.
macro_rules! bitset {
    ($(#[$doc:meta])* $set:ident, $bits:ident { $($(#[$member_doc:meta])* $member:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $set(u32);

        #[allow(non_camel_case_types, clippy::upper_case_acronyms)]
        pub(super) mod $bits {
            enum Place { $($member,)+ }
            $(#[allow(dead_code)] pub(in crate::command) const $member: u32 = 1 << Place::$member as u32;)+
        }

        impl $set {
            $($(#[$member_doc])* pub const $member: $set = $set($bits::$member);)+

            /// The members and their names on the wire, in the order in which they are written.
            const NAMES: &'static [($set, &'static str)] = &[$(($set::$member, $text),)+];

            pub(super) const fn from_bits(bits: u32) -> Self {
                $set(bits)
            }

            /// The members that have these names; other names are left out.
            pub(super) fn named<'a>(names: impl Iterator<Item = &'a str>) -> Self {
                names.fold($set(0), |set, name| {
                    let found = Self::NAMES.iter().find(|(_, known)| *known == name);
                    found.map_or(set, |(member, _)| set.with(*member))
                })
            }

            /// The members of both sets.
            pub const fn with(self, other: $set) -> Self {
                $set(self.0 | other.0)
            }

            /// Whether every member of `other` is in this set.
            #[inline]
            pub const fn has(self, other: $set) -> bool {
                self.0 & other.0 == other.0
            }

            /// The names of the members, as a server writes them.
            pub fn names(self) -> impl Iterator<Item = &'static str> {
                Self::NAMES.iter().filter(move |(member, _)| self.has(*member)).map(|(_, name)| *name)
            }
        }
    };
}
pub(super) use bitset;
