//! The deterministic simulator of Quorate, and the checkers of what it records.

pub mod check;
