//! A leader whose process has ended is missed at once, not only when an election timeout has passed.
//!
//! When a process ends, its operating system closes its connections. A follower that sees all of its leader's close asks
//! at the leader's addresses: if each of them refuses the connection, so that the machine is there and nobody listens, the
//! leader is gone. Then the follower that comes first by id campaigns, like one that was asked to take over (Ongaro 2014,
//! §3.10), since nobody votes otherwise so soon after having heard of a leader; the others follow in turn if it does not get
//! elected. Votes are given and counted as always. If the leader lives after all, it is deposed by an election like any other.
//!
//! Who cannot find out, because the machine is gone or the network is cut, waits for the election timeout.

use std::io::ErrorKind;
use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::TransferLeaderRequest;
use openraft_rt::AsyncRuntime;
use quorate_core::NodeId;

use super::Node;
use crate::net::Net;
use crate::platform::Platform;
use crate::transport::Target;
use crate::types::raft;

/// So many heartbeats an heir gets before the next one campaigns.
const STAGGER_HEARTBEATS: u32 = 2;
/// An operating system may close a process's listener after its connections.
const LOOKS: u32 = 5;
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A leader that this node follows.
struct Followed {
    vote: raft::Vote,
    target: Target,
    /// Which of the voters this node is that may take over.
    rank: u32,
}

impl<P: Platform> Node<P> {
    /// All connections that a peer had dialled are closed.
    pub(super) async fn miss_leader(&self, peer: NodeId) {
        let Some(Followed { vote, target, rank }) = self.followed(peer) else { return };
        let mut looks = 1;
        while !self.is_refused_by(&target).await {
            if looks == LOOKS {
                return;
            }
            looks += 1;
            P::Runtime::sleep(LOOK_EVERY).await;
        }
        let heartbeat = Duration::from_millis(self.inner.config.timing.heartbeat_ms());
        P::Runtime::sleep(heartbeat * STAGGER_HEARTBEATS * rank).await;
        if self.followed(peer).is_none_or(|now| now.vote != vote) {
            return;
        }
        tracing::info!(leader = %peer, "the leader's process has ended: asking for votes");
        let taking_over = TransferLeaderRequest::new(vote, self.node_id(), None);
        if let Err(error) = self.inner.raft.handle_transfer_leader(taking_over).await {
            tracing::debug!(%error, "no election");
        }
    }

    /// What there is to take over from a peer, and whether this node could.
    fn followed(&self, peer: NodeId) -> Option<Followed> {
        let own = self.node_id();
        let metrics = self.inner.raft.server_metrics();
        let metrics = metrics.borrow_watched();
        if metrics.current_leader != Some(peer) || peer == own || self.is_stopping() || self.disk_full() {
            return None;
        }
        let rank = metrics.membership_config.voter_ids().filter(|id| *id != peer).position(|id| id == own)?;
        let addrs = metrics.membership_config.get_node(&peer)?.peer_addrs.clone();
        let target = Target { node: Some(peer), addrs };
        Some(Followed { vote: metrics.vote, target, rank: u32::try_from(rank).ok()? })
    }

    /// Whether nobody listens wherever a peer may be, as those machines say.
    async fn is_refused_by(&self, target: &Target) -> bool {
        let within = Duration::from_millis(self.inner.peers.config().connect_ms);
        // Not wherever any member may be: others listen there.
        let addrs = self.inner.peers.own_addrs(target);
        for addr in &addrs {
            match P::Runtime::timeout(within, self.inner.platform.net().connect(addr)).await {
                Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {}
                _ => return false,
            }
        }
        !addrs.is_empty()
    }
}
