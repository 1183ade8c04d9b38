//! `--force-new-cluster`: a survivor of a majority that is lost for ever goes on as a cluster of itself alone.
//!
//! It keeps its id, its state and its log, the entries included whose outcome it does not know: they were proposed, so
//! either outcome is legal. What the lost members had acknowledged without it is gone. The new cluster has an id of its
//! own, so members of the old one are refused in the handshake; whoever is to take part again joins anew.
//!
//! ```text
//!   founded or admitted ──asked──► [record: forced, under way] ──► log: a vote and a membership ──► [record: forced, done]
//!                                   any start goes on from here     of this node alone                │          ▲
//!                                                                                  a start without it ▼          │ under
//!                                                                                            [armed again] ──asked──► way
//! ```
//!
//! The record is replaced atomically, so a crash leaves the old cluster's node, or one that goes on to be the new
//! cluster whatever its next start says. The request works *once*: as long as every start asks for it, nothing more
//! happens, even when others have joined since. A start that does not ask arms it again.

use prost::Message;

use super::FoundingRecord;
use crate::types::{ClusterId, NodeId};

/// What the record of a forced cluster has beyond that of a founded one.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct ForcedProto {
    /// The cluster that the node belonged to.
    #[prost(uint64, tag = "1")]
    from: u64,
    /// Random: no two forced clusters have the same id, not even of copies of one disk.
    #[prost(uint64, tag = "2")]
    nonce: u64,
}

/// How far it is. Not part of what the cluster's id is the hash of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Step {
    /// It was not forced, or may be forced again.
    Armed = 0,
    /// The log is still of the old cluster, perhaps.
    UnderWay = 1,
    /// Done, and asked for at every start since.
    Done = 2,
}

/// What a start has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Forcing {
    /// Nothing.
    No,
    /// Nothing: an earlier start has done it, and it has been asked for ever since.
    DoneBefore,
    /// It is asked for, and there is no cluster to go on from.
    NoCluster,
    /// Make a [`FoundingRecord::forced`] durable, then go on as with [`Forcing::Finish`].
    Begin,
    /// Make the node of this record the only member in the log, then make its [`FoundingRecord::done`] durable.
    Finish(FoundingRecord),
    /// Make this record durable: it is not asked for any more.
    Arm(FoundingRecord),
}

/// Decides it. `cluster` is the one that the node belongs to.
pub fn forcing(asked: bool, record: Option<&FoundingRecord>, cluster: ClusterId) -> Forcing {
    match (record.map(|record| (record, record.progress())), asked) {
        (Some((record, Step::UnderWay)), _) => Forcing::Finish(record.clone()),
        (_, true) if cluster == ClusterId::NONE => Forcing::NoCluster,
        (Some((_, Step::Done)), true) => Forcing::DoneBefore,
        (_, true) => Forcing::Begin,
        (Some((record, Step::Done)), false) => Forcing::Arm(record.at(Step::Armed)),
        (_, false) => Forcing::No,
    }
}

impl FoundingRecord {
    /// Makes a node the only member of a new cluster that goes on from what it has of `from`; not done yet. `nonce` is
    /// random.
    pub fn forced(
        from: ClusterId,
        nonce: u64,
        token: &str,
        name: &str,
        node_id: NodeId,
        peer_addrs: &[String],
    ) -> Self {
        let forced = Some(ForcedProto { from: from.0, nonce });
        Self { forced, step: Step::UnderWay as u32, ..Self::alone(token, name, node_id, peer_addrs) }
    }

    /// The cluster that its only founder survived, if it was forced.
    pub fn forced_from(&self) -> Option<ClusterId> {
        self.forced.as_ref().map(|forced| ClusterId(forced.from))
    }

    /// The log says the same now.
    pub fn done(&self) -> Self {
        self.at(Step::Done)
    }

    fn progress(&self) -> Step {
        let steps = [Step::UnderWay, Step::Done];
        steps.into_iter().find(|step| *step as u32 == self.step).unwrap_or(Step::Armed)
    }

    fn at(&self, step: Step) -> Self {
        Self { step: step as u32, ..self.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone() -> FoundingRecord {
        FoundingRecord::alone("t", "a", NodeId(7), &["a:2380".to_owned()])
    }

    fn forced(from: &FoundingRecord, nonce: u64) -> FoundingRecord {
        FoundingRecord::forced(from.cluster_id(), nonce, "t", "a", NodeId(7), &["a:2380".to_owned()])
    }

    #[test]
    fn every_combination_is_decided() {
        let (old, cluster) = (alone(), alone().cluster_id());
        let begun = forced(&old, 1);
        let done = begun.done();
        let new = begun.cluster_id();
        let armed = match forcing(false, Some(&done), new) {
            Forcing::Arm(record) => record,
            other => panic!("{other:?}"),
        };
        for (asked, record, cluster, expected) in [
            (false, None, ClusterId::NONE, Forcing::No),
            (true, None, ClusterId::NONE, Forcing::NoCluster),
            // Admitted to a cluster.
            (true, None, cluster, Forcing::Begin),
            (false, None, cluster, Forcing::No),
            (true, Some(&old), cluster, Forcing::Begin),
            (false, Some(&old), cluster, Forcing::No),
            (true, Some(&begun), new, Forcing::Finish(begun.clone())),
            (false, Some(&begun), new, Forcing::Finish(begun.clone())),
            (true, Some(&done), new, Forcing::DoneBefore),
            (true, Some(&armed), new, Forcing::Begin),
            (false, Some(&armed), new, Forcing::No),
        ] {
            assert_eq!(forcing(asked, record, cluster), expected, "{asked} {record:?}");
        }
        // Accepted and not founded is no cluster.
        let accepted = FoundingRecord { founded: false, ..old };
        assert_eq!(forcing(true, Some(&accepted), ClusterId::NONE), Forcing::NoCluster);
    }

    #[test]
    fn a_forced_cluster_has_an_id_of_its_own_that_stays_and_its_file_round_trips() {
        let old = alone();
        let begun = forced(&old, 1);
        let again = forced(&begun, 1);
        let copy = forced(&old, 2);
        let ids = [&old, &begun, &again, &copy].map(FoundingRecord::cluster_id);
        assert!((1..4).all(|at| !ids[..at].contains(&ids[at])), "{ids:?}");
        assert_eq!(begun.forced_from(), Some(ids[0]));
        assert_eq!(old.forced_from(), None);
        let done = begun.done();
        assert_eq!(done.cluster_id(), begun.cluster_id());
        assert_eq!(begun.membership(), old.membership());
        for record in [begun, done] {
            assert_eq!(FoundingRecord::from_file(&record.to_file()), Ok(record));
        }
    }
}
