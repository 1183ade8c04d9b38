//! One suite for each seam, written against the seam alone, to be run over every binding: so that the simulated one
//! cannot drift from what it stands for.

pub mod disk;
pub mod net;
