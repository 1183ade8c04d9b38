//! What a node says about itself and its cluster.

use std::collections::{BTreeMap, BTreeSet};

use openraft::ServerState;
use openraft::async_runtime::watch::{WatchReceiver, WatchSender};
use openraft::type_config::alias::WatchReceiverOf;
use quorate_core::{ClusterId, MemberStatus, NodeId, Observation, classify};

use super::{Node, Seen};
use crate::jobs::lock;
use crate::platform::Platform;
use crate::types::{Types, membership_from};

/// The cluster as one node sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// The cluster; [`ClusterId::NONE`] before it is founded.
    pub cluster_id: ClusterId,
    /// The node that says so.
    pub node_id: NodeId,
    /// The newest term it has seen.
    pub term: u64,
    /// Who leads, as far as it knows.
    pub leader: Option<NodeId>,
    /// Every member, by id.
    pub nodes: Vec<MemberStatus>,
    /// The members whose disks are full, as far as it knows.
    pub disk_full: BTreeSet<NodeId>,
}

/// Whether a process should be restarted, and whether it should be sent requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// `Err` says why the process should be restarted.
    pub live: Result<(), String>,
    /// `Err` says why it cannot serve just now.
    pub ready: Result<(), String>,
}

/// Who leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// The newest term that the node has seen.
    pub term: u64,
    /// The leader, if one is known.
    pub leader: Option<NodeId>,
    /// Whether that is this node.
    pub is_local: bool,
}

/// openraft's metrics of roles and membership, without those of the log.
pub(super) type ServerMetrics<P> = WatchReceiverOf<
    Types<<P as Platform>::Runtime>,
    openraft::metrics::RaftServerMetrics<Types<<P as Platform>::Runtime>>,
>;

/// Follows [`Leadership`].
pub struct LeadershipWatch<P: Platform> {
    metrics: ServerMetrics<P>,
    seen: Leadership,
}

impl<P: Platform> LeadershipWatch<P> {
    /// As it is now.
    pub fn current(&self) -> Leadership {
        let metrics = self.metrics.borrow_watched();
        let leader = metrics.current_leader;
        Leadership { term: metrics.vote.leader_id.term, leader, is_local: leader == Some(metrics.id) }
    }

    /// Waits until it differs from what was returned last; `None` once the node has stopped.
    pub async fn changed(&mut self) -> Option<Leadership> {
        loop {
            let now = self.current();
            if now != self.seen {
                self.seen = now;
                return Some(now);
            }
            self.metrics.changed().await.ok()?;
        }
    }
}

impl<P: Platform> Node<P> {
    /// Every member and what it is doing, as this node sees it.
    pub fn cluster(&self) -> ClusterStatus {
        let inner = &self.inner;
        let metrics = inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let mut membership = membership_from(metrics.membership_config.membership());
        let mut observed = BTreeMap::new();
        for (id, peer) in lock(&inner.seen).iter() {
            observed.insert(*id, Observation { reachable: peer.reachable, candidate: false });
            if let Some(member) = membership.members.get_mut(id) {
                member.api_addrs.clone_from(&peer.api_addrs);
            }
        }
        let candidate = metrics.state == ServerState::Candidate;
        observed.insert(self.node_id(), Observation { reachable: true, candidate });
        if let Some(own) = membership.members.get_mut(&self.node_id()) {
            own.api_addrs.clone_from(&inner.config.api_addrs);
        }
        ClusterStatus {
            cluster_id: inner.identity.get().cluster_id,
            node_id: inner.identity.get().node_id,
            term: metrics.current_term,
            leader: metrics.current_leader,
            nodes: classify(&membership, metrics.current_leader, &observed),
            disk_full: self.full_members().into_iter().filter(|id| membership.members.contains_key(id)).collect(),
        }
    }

    /// Follows who leads. The first [`LeadershipWatch::changed`] returns at once if a leader is known.
    pub fn leadership(&self) -> LeadershipWatch<P> {
        LeadershipWatch { metrics: self.inner.raft.server_metrics(), seen: Leadership::default() }
    }

    /// Whether the node works, and whether it can serve. A node whose disk is full is ready: it serves reads, and the
    /// leader says of each write whether it can be taken.
    pub fn health(&self) -> Health {
        let failed = self.failure().map_or(Ok(()), |e| Err(e.to_string()));
        let live = failed.and_then(|()| match *lock(&self.inner.finished).borrow_watched() {
            None => Ok(()),
            Some(_) => Err("the node has stopped".to_owned()),
        });
        let ready = live.clone().and_then(|()| {
            if self.is_stopping() {
                return Err("the node is stopping".to_owned());
            }
            if self.inner.identity.get().cluster_id == ClusterId::NONE {
                let why = match self.waits() {
                    true => "this node waits to be admitted to a cluster: see --join, or add it there",
                    false => "the cluster is not founded yet: waiting for the peers of --initial-cluster",
                };
                return Err(why.to_owned());
            }
            self.has_its_place()?;
            let Some(leader) = self.leadership().current().leader else {
                return Err("no leader is known".to_owned());
            };
            // A follower remembers its last leader until it hears of another one.
            match lock(&self.inner.seen).get(&leader) {
                Some(Seen { reachable: false, .. }) => Err("the leader does not answer".to_owned()),
                _ => Ok(()),
            }
        });
        Health { live, ready }
    }
}
