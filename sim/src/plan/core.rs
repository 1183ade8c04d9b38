//! Who must serve alone once the faults are over, and what stays wrong with everybody else.
//!
//! From TigerBeetle's VOPR (`src/vopr.zig`, "liveness mode"): a quorum is healed, the faults of the others become
//! permanent, and the quorum must get on without them. Its own stream, so that it changes nothing else of a plan.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::rng::SplitMix;

/// A quorum, and the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Core {
    /// Nodes, a majority, that must serve alone; empty if nothing is demanded before everything heals.
    pub members: Vec<u32>,
    /// What is wrong with each of the others meanwhile.
    pub outsiders: Vec<(u32, Ailment)>,
}

/// What is wrong with a node for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ailment {
    /// Its process and its disk are as they were when the faults ended.
    AsItWas,
    /// Its process was killed.
    Dead,
    /// It has no power.
    Off,
    /// It stands still.
    Paused,
    /// It runs, and nothing gets in or out.
    CutOff,
    /// It runs and is heard, and hears nobody.
    Deaf,
    /// It runs and hears everybody, and nobody hears it.
    Mute,
    /// It runs on a disk that takes so many times as long.
    Slow(u64),
    /// It runs on a disk with no room.
    Full,
}

/// Of 1000 plans so many have a core.
const PER_MILLE: u32 = 500;

impl Core {
    pub(super) fn draw(seed: u64, nodes: u32) -> Self {
        let mut rng = SplitMix::labelled(seed, "core");
        if !rng.chance(PER_MILLE) || nodes < 3 {
            return Self::default();
        }
        let quorum = nodes / 2 + 1;
        let count = rng.between(u64::from(quorum), u64::from(nodes) - 1) as u32;
        let members = super::draw::some_nodes(&mut rng, nodes, count);
        let others: Vec<u32> = (1..=nodes).filter(|node| !members.contains(node)).collect();
        let outsiders = others.into_iter().map(|node| (node, Ailment::draw(&mut rng))).collect();
        Self { members, outsiders }
    }

    /// What is wrong with it, as a plan says.
    ///
    /// # Errors
    /// In words.
    pub(super) fn check(&self, nodes: u32) -> Result<(), String> {
        if self.members.is_empty() && self.outsiders.is_empty() {
            return Ok(());
        }
        let mut named: Vec<u32> = self.members.iter().copied().chain(self.outsiders.iter().map(|(n, _)| *n)).collect();
        named.sort_unstable();
        if !named.iter().copied().eq(1..=nodes) {
            return Err(format!(
                "members and outsiders are all of the nodes 1 to {nodes}, each once, and not {named:?}"
            ));
        }
        if self.members.len() as u32 <= nodes / 2 {
            return Err(format!("{} of {nodes} nodes are no majority", self.members.len()));
        }
        match self
            .outsiders
            .iter()
            .find(|(_, ailment)| matches!(ailment, Ailment::Slow(times) if !(1..=1_000).contains(times)))
        {
            Some((node, ailment)) => Err(format!("{ailment:?} of node {node} is not in 1 to 1000")),
            None => Ok(()),
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

impl Ailment {
    fn draw(rng: &mut SplitMix) -> Self {
        match rng.below(12) {
            0 | 1 => Self::AsItWas,
            2 => Self::Dead,
            3 => Self::Off,
            4 => Self::Paused,
            5 => Self::CutOff,
            6..9 => Self::Deaf,
            9 => Self::Mute,
            10 => Self::Slow(rng.between(5, 40)),
            _ => Self::Full,
        }
    }

    /// Its name, for statistics.
    pub fn class(self) -> &'static str {
        match self {
            Self::AsItWas => "outsiders as they were",
            Self::Dead => "outsiders dead",
            Self::Off => "outsiders off",
            Self::Paused => "outsiders paused",
            Self::CutOff => "outsiders cut off",
            Self::Deaf => "outsiders deaf",
            Self::Mute => "outsiders mute",
            Self::Slow(_) => "outsiders with a slow disk",
            Self::Full => "outsiders with a full disk",
        }
    }
}

impl fmt::Display for Ailment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.class())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn cores_are_majorities_and_every_ailment_is_drawn() {
        let mut classes = BTreeSet::new();
        let mut empty = 0;
        for seed in 0..500 {
            let nodes = if seed % 2 == 0 { 3 } else { 5 };
            let core = Core::draw(seed, nodes);
            core.check(nodes).expect("it was drawn");
            empty += u32::from(core.is_empty());
            assert!(core.is_empty() || !core.outsiders.is_empty());
            classes.extend(core.outsiders.iter().map(|(_, ailment)| ailment.class()));
        }
        assert_eq!(classes.len(), 9, "{classes:?}");
        assert!((150..350).contains(&empty), "{empty}");
    }

    #[test]
    fn what_is_no_core_is_refused() {
        let deaf = |nodes: &[u32]| nodes.iter().map(|node| (*node, Ailment::Deaf)).collect::<Vec<_>>();
        for (members, outsiders, says) in [
            (vec![1], deaf(&[2, 3]), "no majority"),
            (vec![1, 2], deaf(&[]), "each once"),
            (vec![1, 2], deaf(&[2]), "each once"),
            (vec![1, 2, 3], deaf(&[4]), "each once"),
            (vec![1, 2], vec![(3, Ailment::Slow(0))], "not in 1 to 1000"),
        ] {
            let error = Core { members, outsiders }.check(3).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
        Core { members: vec![3, 1], outsiders: deaf(&[2]) }.check(3).expect("a core");
        Core::default().check(3).expect("none");
    }
}
