//! Founding a cluster from a static list: every node gets the same list, starts in any order, none is designated.
//!
//! Ids are random, so somebody has to learn all of them before there can be a first membership. Each blank node shows
//! every peer on the list its [`Card`]: who it is and what it has accepted. Once a node holds the cards of the whole
//! list, the founding record follows from them, the same on every node; the node *accepts* it, durably and once. A
//! record that a majority has accepted is founded: no other record can be, since a node accepts only one. Then every
//! node may initialize consensus with it, since they all do so identically.
//!
//! A peer that already belongs to a cluster vetoes: a node with an empty disk does not found a second cluster beside
//! the one it was wiped out of. It asks to be admitted instead, and the cluster's leader decides.

mod force;

use std::collections::BTreeMap;

use prost::Message;

pub use force::{Forcing, forcing};

use crate::types::{ClusterId, Member, Membership, NodeId};

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
    /// The [`FoundingRecord::cluster_id`] that it has accepted; 0 if none.
    #[prost(uint64, tag = "6")]
    pub accepted: u64,
    /// The cluster that it belongs to; 0 if none.
    #[prost(uint64, tag = "7")]
    pub cluster: u64,
    /// The record that founded that cluster, if it knows it.
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

#[derive(Clone, PartialEq, Eq, Message)]
struct FounderProto {
    #[prost(uint64, tag = "1")]
    node_id: u64,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, repeated, tag = "3")]
    peer_addrs: Vec<String>,
    #[prost(bool, tag = "4")]
    in_memory: bool,
}

/// What founds a cluster: the token and the members with their ids. The file of this content in a data directory is
/// its durable acceptance.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FoundingRecord {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(string, tag = "2")]
    token: String,
    #[prost(message, repeated, tag = "3")]
    founders: Vec<FounderProto>,
    /// Whether a majority is known to have accepted it.
    #[prost(bool, tag = "4")]
    pub founded: bool,
    #[prost(message, optional, tag = "5")]
    forced: Option<force::ForcedProto>,
    /// A [`force::Step`].
    #[prost(uint32, tag = "6")]
    step: u32,
}

/// Why the file of a founding record, or of an [admission](crate::admission), cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record is damaged: {0}")]
pub struct RecordDamage(String);

/// The file's name in the data directory.
pub const FILE_NAME: &str = "founding";
const VERSION: u32 = 1;

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

impl FoundingRecord {
    /// Follows from the list and the ids alone (an id also says whether its node is in memory): whatever else a node
    /// says of itself can differ between two of its starts, and the record must not.
    fn new(list: &FoundingList, cards: &BTreeMap<String, Card>) -> Self {
        let founders = cards.values().map(|card| FounderProto {
            node_id: card.node_id,
            name: card.name.clone(),
            peer_addrs: list.members.get(&card.name).cloned().unwrap_or_default(),
            in_memory: card.in_memory,
        });
        Self { version: VERSION, token: list.token.clone(), founders: founders.collect(), ..Self::default() }
    }

    /// Founds a cluster of one node, for a state that is restored.
    pub fn alone(token: &str, name: &str, node_id: NodeId, peer_addrs: &[String]) -> Self {
        let (name, peer_addrs) = (name.to_owned(), peer_addrs.to_vec());
        let founder = FounderProto { node_id: node_id.0, name, peer_addrs, in_memory: false };
        Self { version: VERSION, token: token.to_owned(), founders: vec![founder], founded: true, ..Self::default() }
    }

    /// The id of the cluster that this record founds.
    pub fn cluster_id(&self) -> ClusterId {
        let bytes = Self { founded: false, step: 0, ..self.clone() }.encode_to_vec();
        ClusterId(hash(&bytes).max(1))
    }

    /// The first membership: every founder votes.
    pub fn membership(&self) -> Membership {
        let members = self.founders.iter().map(|f| {
            let (name, peer_addrs, in_memory) = (f.name.clone(), f.peer_addrs.clone(), f.in_memory);
            (NodeId(f.node_id), Member { name, peer_addrs, in_memory, ..Member::default() })
        });
        let members: BTreeMap<_, _> = members.collect();
        Membership { configs: vec![members.keys().copied().collect()], members }
    }

    /// The file's content: a CRC, then protobuf.
    pub fn to_file(&self) -> Vec<u8> {
        seal(self)
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// It is damaged or newer than this program.
    pub fn from_file(bytes: &[u8]) -> Result<Self, RecordDamage> {
        let record: Self = unseal(bytes)?;
        known(record.version, VERSION)?;
        Ok(record)
    }
}

/// A record's file: a CRC, then protobuf.
pub(crate) fn seal(record: &impl Message) -> Vec<u8> {
    let content = record.encode_to_vec();
    let mut out = crc32c::crc32c(&content).to_le_bytes().to_vec();
    out.extend_from_slice(&content);
    out
}

pub(crate) fn unseal<M: Message + Default>(bytes: &[u8]) -> Result<M, RecordDamage> {
    let (crc, content) = bytes.split_first_chunk::<4>().ok_or_else(|| RecordDamage("too short".to_owned()))?;
    if u32::from_le_bytes(*crc) != crc32c::crc32c(content) {
        return Err(RecordDamage("checksum mismatch".to_owned()));
    }
    M::decode(content).map_err(|e| RecordDamage(e.to_string()))
}

pub(crate) fn known(version: u32, ours: u32) -> Result<(), RecordDamage> {
    if version == ours {
        return Ok(());
    }
    Err(RecordDamage(format!("format version {version} is unknown, use a newer quorate")))
}

/// What a blank node should do next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Ask the peers of these names (again).
    Ask(Vec<String>),
    /// Make this record durable, then call [`Founding::accepted`].
    Accept(FoundingRecord),
    /// So many have accepted this record that it is founded: belong to its cluster and initialize consensus with its
    /// membership.
    Found(FoundingRecord),
    /// A peer on the list belongs to this cluster, which was founded without this node: ask to be admitted.
    Join {
        /// Its name.
        peer: String,
        /// Its cluster.
        cluster: ClusterId,
    },
}

/// Why a node cannot found or enter a cluster with its list. Final: an operator has to act.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoundingError {
    /// This node's name is not on the list.
    #[error("--initial-cluster has no member named {0:?}, which is this node's --name")]
    NotListed(String),
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

/// The founding of a cluster, seen from one blank node. Pure: feed it cards, do what [`Founding::decide`] says.
#[derive(Debug)]
pub struct Founding {
    list: FoundingList,
    own: Card,
    cards: BTreeMap<String, Card>,
    accepted: Option<FoundingRecord>,
    /// The cluster was founded, with this node among its founders, as a peer that belongs to it says.
    founded: Option<FoundingRecord>,
    /// A listed peer, and its cluster, which was founded without this node.
    stranger_to: Option<(String, ClusterId)>,
}

impl Founding {
    /// Begins, or goes on with a record that was accepted before a restart.
    ///
    /// # Errors
    /// The own name is not on the list.
    pub fn new(list: FoundingList, own: Card, accepted: Option<FoundingRecord>) -> Result<Self, FoundingError> {
        if !list.members.contains_key(&own.name) {
            return Err(FoundingError::NotListed(own.name));
        }
        let accepted_id = accepted.as_ref().map_or(0, |r| r.cluster_id().0);
        let own = Card { list: list.hash(), accepted: accepted_id, cluster: 0, ..own };
        let cards = BTreeMap::from([(own.name.clone(), own.clone())]);
        Ok(Self { list, own, cards, accepted, founded: None, stranger_to: None })
    }

    /// What to show peers.
    pub fn card(&self) -> &Card {
        &self.own
    }

    /// Where to ask a listed peer.
    pub fn addrs(&self, name: &str) -> &[String] {
        self.list.members.get(name).map_or(&[], Vec::as_slice)
    }

    /// Takes the card that the node at the address of `listed` showed. An error of one peer does not outweigh what
    /// another says: handle all cards there are, and report an error only if [`Founding::decide`] still asks.
    ///
    /// # Errors
    /// See [`FoundingError`].
    pub fn handle_card(&mut self, listed: &str, card: Card) -> Result<(), FoundingError> {
        if card.cluster != 0 {
            let names_us = |r: &&FoundingRecord| {
                r.cluster_id().0 == card.cluster && r.membership().members.contains_key(&NodeId(self.own.node_id))
            };
            let known = card.record.as_ref().into_iter().chain(&self.accepted).find(names_us);
            // A founded record that names this node was decided with its id, accepted by it or not: no other record
            // can be founded any more.
            self.founded = self.founded.take().or(known.cloned());
            if self.founded.is_some() {
                return Ok(());
            }
            let (peer, cluster) = (listed.to_owned(), ClusterId(card.cluster));
            let same_token = card.record.as_ref().is_none_or(|r| r.token == self.list.token);
            // Anybody else at a listed address is no reason to go there.
            if self.accepted.is_some() || card.name != listed || !same_token {
                return Err(FoundingError::AlreadyFounded { peer, cluster });
            }
            self.stranger_to = Some((peer, cluster));
            return Ok(());
        }
        if card.list != self.own.list {
            return Err(FoundingError::OtherList(listed.to_owned()));
        }
        if card.name != listed {
            return Err(FoundingError::OtherName { listed: listed.to_owned(), answered: card.name });
        }
        let accepted_as = self.accepted.as_ref().map(|r| r.membership().members);
        if accepted_as.is_some_and(|members| !members.contains_key(&NodeId(card.node_id))) {
            return Err(FoundingError::Changed(listed.to_owned()));
        }
        self.cards.insert(listed.to_owned(), card);
        Ok(())
    }

    /// The record that [`Decision::Accept`] gave is durable.
    pub fn accepted(&mut self, record: FoundingRecord) {
        self.own.accepted = record.cluster_id().0;
        self.cards.insert(self.own.name.clone(), self.own.clone());
        self.accepted = Some(record);
    }

    /// What to do now.
    pub fn decide(&self) -> Decision {
        if let Some(record) = &self.founded {
            return Decision::Found(FoundingRecord { founded: true, ..record.clone() });
        }
        if let Some((peer, cluster)) = self.stranger_to.clone() {
            return Decision::Join { peer, cluster };
        }
        let missing = || {
            let names = self.list.members.keys().filter(|name| **name != self.own.name);
            match &self.accepted {
                None => names.filter(|name| !self.cards.contains_key(*name)).cloned().collect(),
                // Now it is their acceptance that is awaited.
                Some(_) => names.cloned().collect(),
            }
        };
        let Some(record) = &self.accepted else {
            if self.cards.len() < self.list.members.len() {
                return Decision::Ask(missing());
            }
            return Decision::Accept(FoundingRecord::new(&self.list, &self.cards));
        };
        let id = record.cluster_id().0;
        let votes = self.cards.values().filter(|c| c.accepted == id).count();
        // What is accepted in memory can be forgotten: there it takes all.
        let forgets = record.founders.iter().any(|f| f.in_memory);
        let needed = if forgets { self.list.members.len() } else { self.list.members.len() / 2 + 1 };
        if votes >= needed {
            return Decision::Found(FoundingRecord { founded: true, ..record.clone() });
        }
        Decision::Ask(missing())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(names: &[&str]) -> FoundingList {
        let members = names.iter().map(|n| ((*n).to_owned(), vec![format!("{n}:2380")])).collect();
        FoundingList { token: "t".to_owned(), members }
    }

    fn blank(list: &FoundingList, name: &str, id: u64) -> Founding {
        let card =
            Card { name: name.to_owned(), node_id: id, peer_addrs: vec![format!("{name}:2380")], ..Card::default() };
        Founding::new(list.clone(), card, None).expect("listed")
    }

    #[test]
    fn three_blank_nodes_found_one_cluster_in_any_order() {
        let list = list(&["a", "b", "c"]);
        let mut nodes = [blank(&list, "a", 11), blank(&list, "b", 5), blank(&list, "c", 8)];
        let mut founded = [None, None, None];
        for round in 0..30 {
            let (from, to) = (round % 3, (round / 3 + 1 + round % 3) % 3);
            let card = nodes[from].card().clone();
            let name = card.name.clone();
            if from != to {
                nodes[to].handle_card(&name, card).expect("same list");
            }
            match nodes[to].decide() {
                Decision::Ask(names) => assert!(!names.is_empty()),
                Decision::Accept(record) => nodes[to].accepted(record),
                Decision::Found(record) => founded[to] = Some(record),
                Decision::Join { .. } => panic!("nobody belongs to a cluster"),
            }
        }
        let ids: Vec<_> = founded.iter().map(|r| r.as_ref().expect("founded").cluster_id()).collect();
        assert!(ids.iter().all(|id| *id == ids[0] && *id != ClusterId::NONE), "{ids:?}");
        let membership = founded[0].as_ref().expect("founded").membership();
        assert_eq!(membership.configs, vec![[5, 8, 11].map(NodeId).into_iter().collect()]);
    }

    /// A founder that was slow, or crashed before its acceptance was durable, is in the record all the same.
    #[test]
    fn a_founder_that_missed_the_founding_enters_late() {
        let list = list(&["a", "b", "c"]);
        let mut a = blank(&list, "a", 1);
        for (name, id) in [("b", 2), ("c", 3)] {
            a.handle_card(name, blank(&list, name, id).card().clone()).expect("same list");
        }
        let Decision::Accept(record) = a.decide() else { panic!("has all cards") };
        let cluster = record.cluster_id().0;
        let founded = Card { cluster, record: Some(record.clone()), ..a.card().clone() };
        let mut late = blank(&list, "c", 3);
        late.handle_card("a", founded.clone()).expect("names c");
        assert_eq!(late.decide(), Decision::Found(FoundingRecord { founded: true, ..record.clone() }));
        // Accepted before, and a peer that lost its disk answers first: what was founded stays founded.
        let card = Card { name: "c".into(), node_id: 3, ..Card::default() };
        let mut again = Founding::new(list.clone(), card, Some(record)).expect("listed");
        let wiped = blank(&list, "b", 77).card().clone();
        assert_eq!(again.handle_card("b", wiped), Err(FoundingError::Changed("b".into())));
        again.handle_card("a", founded.clone()).expect("its own cluster");
        assert!(matches!(again.decide(), Decision::Found(_)));
        // Under another id the same name is a stranger, which the cluster may admit or not.
        let mut wiped = blank(&list, "c", 99);
        wiped.handle_card("a", founded.clone()).expect("it may ask");
        assert_eq!(wiped.decide(), Decision::Join { peer: "a".into(), cluster: ClusterId(cluster) });
        // A cluster of another list is no business of its.
        let other = FoundingList { token: "other".to_owned(), ..list };
        let mut other = blank(&other, "c", 99);
        assert!(matches!(other.handle_card("a", founded), Err(FoundingError::AlreadyFounded { .. })));
    }

    /// What a memory node has accepted it forgets when it restarts; then nothing may have been founded with it.
    #[test]
    fn in_memory_all_must_have_accepted() {
        let list = list(&["a", "b", "c"]);
        let memory = |name: &str, id| Card { in_memory: true, ..blank(&list, name, id).card().clone() };
        let mut a = Founding::new(list.clone(), memory("a", 1), None).expect("listed");
        for (name, id) in [("b", 2), ("c", 3)] {
            a.handle_card(name, memory(name, id)).expect("same list");
        }
        let Decision::Accept(record) = a.decide() else { panic!("has all cards") };
        assert!(record.membership().members.values().all(|member| member.in_memory));
        a.accepted(record.clone());
        for (name, id) in [("b", 2), ("c", 3)] {
            assert!(matches!(a.decide(), Decision::Ask(_)), "before {name}");
            let accepted = Card { accepted: record.cluster_id().0, ..memory(name, id) };
            a.handle_card(name, accepted).expect("the same record");
        }
        assert!(matches!(a.decide(), Decision::Found(_)));
    }

    #[test]
    fn a_single_node_founds_at_once() {
        let mut node = blank(&list(&["only"]), "only", 3);
        let Decision::Accept(record) = node.decide() else { panic!("accepts first") };
        node.accepted(record.clone());
        assert!(matches!(node.decide(), Decision::Found(r) if r.founded && r.cluster_id() == record.cluster_id()));
    }

    #[test]
    fn nothing_is_founded_before_a_majority_has_accepted() {
        let list = list(&["a", "b", "c"]);
        let mut a = blank(&list, "a", 1);
        for (name, id) in [("b", 2), ("c", 3)] {
            assert_eq!(
                a.decide(),
                Decision::Ask(if id == 2 { vec!["b".into(), "c".into()] } else { vec!["c".into()] })
            );
            a.handle_card(name, blank(&list, name, id).card().clone()).expect("same list");
        }
        let Decision::Accept(record) = a.decide() else { panic!("has all cards") };
        a.accepted(record.clone());
        assert_eq!(a.decide(), Decision::Ask(vec!["b".into(), "c".into()]));
        let mut card = blank(&list, "b", 2).card().clone();
        card.accepted = record.cluster_id().0;
        a.handle_card("b", card).expect("accepted the same");
        assert!(matches!(a.decide(), Decision::Found(_)));
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_reason() {
        let list3 = list(&["a", "b", "c"]);
        let card = Card { name: "x".into(), ..Card::default() };
        assert_eq!(Founding::new(list3.clone(), card, None).err(), Some(FoundingError::NotListed("x".into())));
        let mut a = blank(&list3, "a", 1);
        let other = blank(&list(&["a", "b"]), "b", 2).card().clone();
        assert_eq!(a.handle_card("b", other), Err(FoundingError::OtherList("b".into())));
        let c = blank(&list3, "c", 3).card().clone();
        assert!(matches!(a.handle_card("b", c), Err(FoundingError::OtherName { .. })));
        let member = Card { cluster: 9, ..blank(&list3, "c", 2).card().clone() };
        assert!(matches!(a.handle_card("b", member), Err(FoundingError::AlreadyFounded { .. })));
        for (name, id) in [("b", 2), ("c", 3)] {
            a.handle_card(name, blank(&list3, name, id).card().clone()).expect("same list");
        }
        let Decision::Accept(record) = a.decide() else { panic!("has all cards") };
        a.accepted(record);
        let wiped = blank(&list3, "b", 77).card().clone();
        assert_eq!(a.handle_card("b", wiped), Err(FoundingError::Changed("b".into())));
    }

    #[test]
    fn the_file_round_trips_and_damage_is_seen() {
        let mut node = blank(&list(&["only"]), "only", 3);
        let Decision::Accept(record) = node.decide() else { panic!("accepts first") };
        node.accepted(record.clone());
        let bytes = record.to_file();
        assert_eq!(FoundingRecord::from_file(&bytes), Ok(record));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(FoundingRecord::from_file(&bad).is_err(), "byte {at}");
        }
    }
}
