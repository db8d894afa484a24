//! The slotmux program.
fn main() {}
