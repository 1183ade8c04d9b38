//! Founding a cluster from a static list: every node gets the same list, starts in any order, none is designated.
//!
//! Ids are random, so whoever is to be in the first membership has to be heard of before there is one. It need not be
//! the whole list: so many of its nodes found the cluster that no others can, and who comes later asks to be admitted.
//!
//! # How
//!
//! Founding is one decision of Paxos (Lamport, *Paxos Made Simple*, 2001) among the nodes of the list. What is decided
//! is a [`FoundingRecord`]: the founders with their ids. Nodes only ever read each other: each shows its [`Card`], which
//! says what it has kept, durably, in its [`Promise`]; each looks at the cards of all others, again and again, and changes
//! its own.
//!
//! ```text
//!   the first by name of those present: keep an own ballot, greater than any seen
//!       others see it ────► keep it as promised, if it is greater than what they have promised
//!   it sees enough promises ────► keep as accepted, under its ballot: the record that was accepted under the greatest
//!       ballot, as the promising nodes say; if they say of none, a new one, of exactly these nodes
//!       others see it ────► keep it as accepted, if they have promised nothing greater
//!   anybody sees enough founders of a record that have accepted it under one ballot ────► it is founded
//! ```
//!
//! All that is kept is durable before the card shows it. A ballot has the id of its node in it, and that node accepts
//! one record under it: so there is one record for a ballot. A node waits for the whole list for a while (its *grace*,
//! from when it last heard of one more), then a part will do.
//!
//! A peer that belongs to a cluster outweighs all that: a founder named by that cluster's record enters it; any other node
//! asks to be admitted. A node with an empty disk so does not found a second cluster beside the one that it was wiped out of.
//!
//! # Why no two are founded
//!
//! Of a list of `n` nodes `q` have to promise, the least majority with `2q − n > (q − 1) / 2`: 2 of 3, 3 of 4, 4 of 5, 5
//! of 7. A record of `m` founders, `m ≥ q`, is founded by `a` of them that accept it under one ballot, `a` the least with
//! `a + q − n > (m − 1) / 2` that is also a majority of `m`: 2 of 2, 3 of 3, 3 of 3 or 4, 3 of 4, 4 of 5, 5 of 5.
//!
//! Let `R` be founded under ballot `B`, and at most `(m − 1) / 2` of its founders, a minority, ever have lost their disk
//! (their names then come back with new ids and nothing kept). Then whatever is accepted under a later ballot is `R`. By
//! induction over ballots: the node of a ballot `B' > B` saw `q` names promise it; at least `a + q − n` of them are names
//! of founders that had accepted `R` under `B`, more than have lost their disk. So one that has not is among them. It had
//! accepted `R` before it promised `B'`, since it accepts nothing under less than it has promised; so it showed a record
//! accepted under `B` or later, but before `B'`. The record under the greatest such ballot is `R`: under `B` there is no
//! other, and under later ones not either, by induction. So the node of `B'` could only take `R`. What was promised or
//! accepted by a node that is wiped later stays what it was, and an old card of it says nothing wrong.
//!
//! So crashes, restarts and pauses at any point are harmless, and so is the loss of a minority of the founders' disks. Two
//! disjoint groups do not both found, since `q` is a majority. The order in which a list is written does not matter: it is a
//! map by name. Another list, or another token, is another cluster: its cards are refused.
//!
//! **The limit** is that of the quorums themselves. Of three nodes two may found; if the third has never been there, one of
//! these two loses its disk, and the other cannot be reached, then the wiped node and the third know of nothing and
//! found an empty cluster. From when the third has joined, or has been among the founders, this cannot happen. In a cluster of two
//! a founder's disk is not a minority. Nothing that blank nodes could do would tell this from a first start of these two.
//!
//! # Why one is founded
//!
//! If `q` nodes of the list are up, reach each other, and are not vetoed, one of them is the first by name. Its ballot is
//! the last one, promised by all; a record that it takes over is founded when enough of its founders are up. A new one
//! names only who promised a moment ago.
//!
//! A node in memory forgets what it kept when it restarts. As soon as one is present, all of the list have to be there, to
//! promise and to accept.

mod decide;
mod force;
mod record;

use std::collections::BTreeMap;

use prost::Message;

use crate::types::ClusterId;

pub use decide::{Decision, Founding};
pub use force::{Forcing, forcing};
pub use record::{Ballot, FoundingRecord, PROMISE_FILE_NAME, Promise, RecordDamage};
pub(crate) use record::{known, seal, unseal};

/// The file's name in the data directory.
pub const FILE_NAME: &str = "founding";

/// The list that `--initial-cluster` and `--initial-cluster-token` give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundingList {
    /// Tells clusters apart that would otherwise have the same list.
    pub token: String,
    /// Name to peer addresses (`host:port`).
    pub members: BTreeMap<String, Vec<String>>,
}

/// What a node shows its peers while there is no cluster.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Card {
    /// [`FoundingList::hash`] of its list.
    #[prost(uint64, tag = "1")]
    pub list: u64,
    /// Its name on the list.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Its id.
    #[prost(uint64, tag = "3")]
    pub node_id: u64,
    /// Where peers reach it.
    #[prost(string, repeated, tag = "4")]
    pub peer_addrs: Vec<String>,
    /// Where clients reach it.
    #[prost(string, repeated, tag = "5")]
    pub api_addrs: Vec<String>,
    /// The greatest ballot that it has promised.
    #[prost(message, optional, tag = "12")]
    pub promised: Option<Ballot>,
    /// The ballot under which it has accepted a record.
    #[prost(message, optional, tag = "6")]
    pub accepted: Option<Ballot>,
    /// The cluster that it belongs to; 0 if none.
    #[prost(uint64, tag = "7")]
    pub cluster: u64,
    /// The record that founded that cluster, if it knows it; as long as there is none, the one that it has accepted.
    #[prost(message, optional, tag = "8")]
    pub record: Option<FoundingRecord>,
    /// Whether its disk is full: it takes no commands.
    #[prost(bool, tag = "9")]
    pub disk_full: bool,
    /// Whether it keeps everything in memory. The same for every start under one id.
    #[prost(bool, tag = "10")]
    pub in_memory: bool,
    /// Whether it founds nothing, and waits to be admitted to a cluster.
    #[prost(bool, tag = "11")]
    pub waits: bool,
}

/// FNV-1a: fixed for ever, unlike std's hasher. Collisions matter among accidents, not adversaries.
fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

impl FoundingList {
    /// Tells lists apart.
    pub fn hash(&self) -> u64 {
        hash(format!("{self:?}").as_bytes())
    }
}

/// Why a node cannot found or enter a cluster with its list. Final: an operator has to act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoundingError {
    /// This node's name is not on the list.
    #[error("--initial-cluster has no member named {0:?}, which is this node's --name")]
    NotListed(String),
    /// This node was started with another list or token before, and has accepted a record.
    #[error(
        "this node has accepted a founding record of another --initial-cluster or --initial-cluster-token: start it with \
         those again. If no listed node has ever served, wipe the data directories of all and start again"
    )]
    ListChanged,
    /// A peer was started with another list or token.
    #[error(
        "peer {0:?} was started with another --initial-cluster or --initial-cluster-token; give every node the same"
    )]
    OtherList(String),
    /// The address of a listed name is answered by somebody else.
    #[error("the address of {listed:?} in --initial-cluster is answered by a node named {answered:?}")]
    OtherName {
        /// The name on the list.
        listed: String,
        /// The name on the card.
        answered: String,
    },
    /// The peers belong to a cluster that this node is no member of, and cannot join.
    #[error(
        "peer {peer:?} already belongs to cluster {cluster}, which does not admit this node, and this node's data \
         directory is empty: it does not found a second cluster. If it lost its disk, remove its old identity from the \
         cluster and start it again"
    )]
    AlreadyFounded {
        /// Who said so.
        peer: String,
        /// Its cluster.
        cluster: ClusterId,
    },
    /// The cluster that this node asks does not admit it.
    #[error("the cluster does not admit this node: {0}")]
    NotAdmitted(String),
    /// A peer came back with another identity after this node had accepted a record.
    #[error(
        "peer {0:?} has another identity than in the founding record that this node has accepted, and no listed node \
         says that the cluster was founded with it: the peer lost its disk meanwhile. If no node has ever served, wipe \
         the data directories of all listed nodes and start again; otherwise start the other founders first"
    )]
    Changed(String),
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
