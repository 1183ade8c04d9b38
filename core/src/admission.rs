//! Belonging to a cluster that was founded by others: a node is admitted by the cluster's leader, which puts it into the
//! membership, and keeps that in a record before it takes anything of consensus.

use prost::Message;

use crate::founding::{RecordDamage, known, seal, unseal};
use crate::proto::LogIdProto;
use crate::types::{ClusterId, LogId, NodeId};

/// The file's name in the data directory.
pub const FILE_NAME: &str = "admission";
const VERSION: u32 = 1;

/// That a node was admitted to a cluster. Its file is a CRC, then protobuf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The cluster.
    pub cluster: ClusterId,
    /// Who was admitted.
    pub node: NodeId,
    /// A committed membership that names it. One that is committed later and does not has removed it; those before it,
    /// which a new member meets as it catches up, say nothing.
    pub at: LogId,
}

#[derive(Clone, PartialEq, Message)]
struct AdmissionProto {
    #[prost(uint32, tag = "1")]
    version: u32,
    #[prost(uint64, tag = "2")]
    cluster: u64,
    #[prost(uint64, tag = "3")]
    node: u64,
    #[prost(message, optional, tag = "4")]
    at: Option<LogIdProto>,
}

impl Admission {
    /// The file's content.
    pub fn to_file(&self) -> Vec<u8> {
        let Self { cluster, node, at } = *self;
        seal(&AdmissionProto { version: VERSION, cluster: cluster.0, node: node.0, at: Some(at.into()) })
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// It is damaged or newer than this program.
    pub fn from_file(bytes: &[u8]) -> Result<Self, RecordDamage> {
        let proto: AdmissionProto = unseal(bytes)?;
        known(proto.version, VERSION)?;
        let at = proto.at.map(LogId::from).unwrap_or_default();
        Ok(Self { cluster: ClusterId(proto.cluster), node: NodeId(proto.node), at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_round_trips_and_damage_and_newer_versions_are_seen() {
        let admission = Admission { cluster: ClusterId(7), node: NodeId(9), at: LogId::new(2, 30) };
        let bytes = admission.to_file();
        assert_eq!(Admission::from_file(&bytes), Ok(admission));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Admission::from_file(&bad).is_err(), "byte {at}");
            assert!(Admission::from_file(&bytes[..at]).is_err(), "length {at}");
        }
        let newer = seal(&AdmissionProto { version: 2, ..AdmissionProto::default() });
        let error = Admission::from_file(&newer).unwrap_err();
        assert!(error.to_string().contains("version 2 is unknown"), "{error}");
    }
}
