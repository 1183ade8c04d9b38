//! What is decided, and what a node must not forget until it is.

use std::collections::BTreeMap;

use prost::Message;

use super::force::ForcedProto;
use super::{Card, FoundingList, hash};
use crate::types::{ClusterId, Member, Membership, NodeId};

const VERSION: u32 = 1;

/// The name of the file with a [`Promise`] in the data directory.
pub const PROMISE_FILE_NAME: &str = "promise";

/// Orders the attempts to found. No two are the same: an id is never used again.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
pub struct Ballot {
    /// Counts them.
    #[prost(uint64, tag = "1")]
    pub round: u64,
    /// Whose it is.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct FounderProto {
    #[prost(uint64, tag = "1")]
    pub(super) node_id: u64,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(string, repeated, tag = "3")]
    peer_addrs: Vec<String>,
    #[prost(bool, tag = "4")]
    pub(super) in_memory: bool,
}

/// What founds a cluster: the token and the members with their ids. The file of this content in a data directory says
/// that it did.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct FoundingRecord {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    #[prost(string, tag = "2")]
    pub(super) token: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) founders: Vec<FounderProto>,
    /// Whether enough are known to have accepted it.
    #[prost(bool, tag = "4")]
    pub founded: bool,
    #[prost(message, optional, tag = "5")]
    pub(super) forced: Option<ForcedProto>,
    /// A [`super::force::Step`].
    #[prost(uint32, tag = "6")]
    pub(super) step: u32,
}

/// What a node must not forget as long as there is no cluster: see [the module](super).
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Promise {
    #[prost(uint32, tag = "1")]
    pub(super) version: u32,
    /// Whose it is.
    #[prost(uint64, tag = "2")]
    pub node_id: u64,
    /// [`FoundingList::hash`] of the list.
    #[prost(uint64, tag = "3")]
    pub(super) list: u64,
    /// It accepts nothing under a lesser ballot.
    #[prost(message, optional, tag = "4")]
    pub(super) promised: Option<Ballot>,
    /// The ballot under which it has accepted `record`.
    #[prost(message, optional, tag = "5")]
    pub(super) accepted: Option<Ballot>,
    #[prost(message, optional, tag = "6")]
    pub(super) record: Option<FoundingRecord>,
}

/// Why the file of a founding record, or of an [admission](crate::admission), cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the record is damaged: {0}")]
pub struct RecordDamage(String);

impl FoundingRecord {
    /// Follows from the list and the ids alone (an id also says whether its node is in memory): whatever else a node
    /// says of itself can differ between two of its starts, and the record must not.
    pub(super) fn new<'a>(list: &FoundingList, cards: impl Iterator<Item = &'a Card>) -> Self {
        let founders = cards.map(|card| FounderProto {
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

impl Promise {
    /// Of this node, for this list; nothing so far.
    pub(super) fn new(node_id: u64, list: u64) -> Self {
        Self { version: VERSION, node_id, list, ..Self::default() }
    }

    /// The record that was accepted, if one was.
    pub fn record(&self) -> Option<&FoundingRecord> {
        self.record.as_ref()
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
        let promise: Self = unseal(bytes)?;
        known(promise.version, VERSION)?;
        Ok(promise)
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
