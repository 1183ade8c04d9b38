//! Who is at the two ends of a connection.

use std::io;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use openraft_rt::AsyncRuntime;
use quorate_core::wire::{
    Frame, FrameError, FrameKind, HANDSHAKE_BYTES_MAX, Hello, PROTOCOL_VERSION, Purpose, Refusal, RefusalCode, Welcome,
    decode_frame, encode_frame,
};
use quorate_core::{ClusterId, LogId, NodeId};

use super::NotSent;
use super::config::{TransportConfig, ms};
use super::queue::lock;
use crate::net::{Net, ReadHalf, WriteHalf};

/// Who this node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalIdentity {
    /// Its cluster, or [`ClusterId::NONE`].
    pub cluster_id: ClusterId,
    /// Its id.
    pub node_id: NodeId,
    /// Counts its starts.
    pub boot_epoch: u64,
    /// Its name, for people.
    pub name: String,
    /// The newest committed membership that it may rely on, if any: see [`Hello::membership`].
    pub membership: Option<LogId>,
}

/// A handle to [`LocalIdentity`], shared by everything that shakes hands: the cluster may be founded later.
#[derive(Clone, Debug)]
pub struct Identity(Arc<Mutex<LocalIdentity>>);

impl Identity {
    /// A handle to `identity`.
    pub fn new(identity: LocalIdentity) -> Self {
        Self(Arc::new(Mutex::new(identity)))
    }

    /// The identity as it is now.
    pub fn get(&self) -> LocalIdentity {
        lock(&self.0).clone()
    }

    /// The cluster of this node as it is now.
    pub fn cluster(&self) -> ClusterId {
        lock(&self.0).cluster_id
    }

    /// This node now belongs to a cluster. Handshakes from now on say so; a connection that this node had dialled
    /// before is replaced when it is next used.
    pub fn set_cluster(&self, cluster_id: ClusterId) {
        lock(&self.0).cluster_id = cluster_id;
    }

    /// This node knows this committed membership; an older one than before changes nothing. Returns the newest.
    pub fn know_membership(&self, at: Option<LogId>) -> Option<LogId> {
        let mut identity = lock(&self.0);
        identity.membership = identity.membership.max(at);
        identity.membership
    }
}

/// Who is at the other end, as it said in the handshake of this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its id.
    pub node_id: NodeId,
    /// Its cluster, or [`ClusterId::NONE`].
    pub cluster_id: ClusterId,
    /// Counts its starts.
    pub boot_epoch: u64,
    /// Its name, for people.
    pub name: String,
}

/// A frame whose payload is known to be small.
pub(super) fn small_frame(kind: FrameKind, what: u8, id: u64, payload: Vec<Bytes>) -> Vec<Bytes> {
    encode_frame(kind, what, id, payload).expect("the payload is far below the limit of a frame")
}

/// Waits for one frame of the handshake. Nothing of a stranger is held but [`HANDSHAKE_BYTES_MAX`] and one read.
pub(super) async fn read_handshake(read: &mut impl ReadHalf, buf: &mut BytesMut) -> io::Result<Frame> {
    loop {
        let invalid = |e: FrameError| io::Error::new(io::ErrorKind::InvalidData, e);
        if let Some(frame) = decode_frame(buf, HANDSHAKE_BYTES_MAX).map_err(invalid)? {
            return Ok(frame);
        }
        if read.read(buf).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A connection to a peer that has welcomed this node.
pub(super) struct Dialled<N: Net> {
    pub(super) read: N::Read,
    pub(super) write: N::Write,
    /// Bytes that came after the welcome.
    pub(super) buf: BytesMut,
    pub(super) peer: PeerIdentity,
    /// What this node said of its cluster.
    pub(super) local_cluster: ClusterId,
}

/// Dials an address and shakes hands.
pub(super) async fn dial<R: AsyncRuntime, N: Net>(
    net: &N,
    identity: &Identity,
    config: &TransportConfig,
    addr: &str,
    expect: Option<NodeId>,
    purpose: Purpose,
) -> Result<Dialled<N>, NotSent> {
    let unreachable = |e: &dyn std::fmt::Display| NotSent::Unreachable(format!("{addr}: {e}"));
    let (mut read, mut write) = R::timeout(ms(config.connect_ms), net.connect(addr))
        .await
        .map_err(|_| unreachable(&"timeout while connecting"))?
        .map_err(|e| unreachable(&e))?;
    let local = identity.get();
    let hello = Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        cluster_id: local.cluster_id,
        node_id: local.node_id,
        boot_epoch: local.boot_epoch,
        name: local.name,
        expect,
        purpose,
        membership: local.membership,
    };
    let shake = async {
        write.write(small_frame(FrameKind::Hello, 0, 0, hello.encode())).await?;
        let mut buf = BytesMut::new();
        let frame = read_handshake(&mut read, &mut buf).await?;
        io::Result::Ok((frame, buf))
    };
    let (frame, buf) = R::timeout(ms(config.handshake_ms), shake)
        .await
        .map_err(|_| unreachable(&"timeout in the handshake"))?
        .map_err(|e| unreachable(&e))?;
    let welcome = match frame.kind {
        FrameKind::Welcome => Welcome::decode(frame.payload).map_err(|e| unreachable(&e))?,
        FrameKind::Refused => {
            return Err(NotSent::Refused(Refusal::decode(frame.payload).map_err(|e| unreachable(&e))?));
        }
        _ => return Err(unreachable(&"not an answer to a handshake")),
    };
    let Welcome { cluster_id, node_id, boot_epoch, name, .. } = welcome;
    let peer = PeerIdentity { node_id, cluster_id, boot_epoch, name };
    if expect.is_some_and(|id| id != peer.node_id) {
        let text = format!("{addr} is now node {}", peer.node_id);
        return Err(NotSent::Refused(Refusal::new(RefusalCode::NotThisNode, text)));
    }
    if clusters_differ(hello.cluster_id, peer.cluster_id) {
        let text = format!("{addr} belongs to cluster {}, this node to {}", peer.cluster_id, hello.cluster_id);
        return Err(NotSent::Refused(Refusal::new(RefusalCode::OtherCluster, text)));
    }
    Ok(Dialled { read, write, buf, peer, local_cluster: hello.cluster_id })
}

/// Whether both belong to a cluster, and not to the same.
pub(super) fn clusters_differ(a: ClusterId, b: ClusterId) -> bool {
    a != ClusterId::NONE && b != ClusterId::NONE && a != b
}
