//! What a node does while its disk, or a peer's, is full.
//!
//! It keeps answering reads and voting. It takes no commands: a leader refuses them before openraft sees them (an entry
//! that openraft was given must be written, or the node stops), a follower refuses appends from the first new command
//! on. Only commands of earlier terms it takes, as long as half of the reserve is left: they may have been under way
//! when the disks became full, and no new leader can commit anything before they are. What else an append carries, and what votes, truncations and purges need, is paid from the
//! [reserve](crate::reserve). A leader hands leadership to a voter that has space; a node that is no leader does not
//! campaign, unless nobody leads: then a leader without space is better than none, since reads need one.

use std::collections::BTreeSet;
use std::time::Duration;

use openraft::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::InstantOf;
use openraft_rt::AsyncRuntime;
use quorate_core::wire::AppendRequest;
use quorate_core::{Entry, NodeId, Payload};

use super::{Node, StopError};
use crate::jobs::lock;
use crate::platform::Platform;
use crate::reserve::Reserve;
use crate::types::{Types, membership_from};

/// How often a full disk is looked at again.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After so many of the longest election timeouts without a leader a full node campaigns.
const PATIENCE: u32 = 4;

impl<P: Platform> Node<P> {
    /// Whether this node's disk was found full, and there has not been space again since. Then it takes no commands.
    pub fn disk_full(&self) -> bool {
        self.inner.reserve.as_ref().is_some_and(Reserve::is_full)
    }

    /// Who is known to have a full disk.
    pub(super) fn full_members(&self) -> BTreeSet<NodeId> {
        let mut full: BTreeSet<_> =
            lock(&self.inner.seen).iter().filter(|(_, peer)| peer.disk_full).map(|(id, _)| *id).collect();
        if self.disk_full() {
            full.insert(self.node_id());
        }
        full
    }

    /// Whether a command that this leader took could not be committed for want of space: it has none, or so many voters
    /// have none that the others, as far as they can be reached, are no quorum.
    pub(super) fn no_space_to_commit(&self) -> bool {
        if self.disk_full() {
            return true;
        }
        let without: BTreeSet<_> = {
            let seen = lock(&self.inner.seen);
            if !seen.values().any(|peer| peer.disk_full) {
                return false;
            }
            seen.iter().filter(|(_, peer)| peer.disk_full || !peer.reachable).map(|(id, _)| *id).collect()
        };
        let metrics = self.inner.raft.server_metrics();
        let membership = membership_from(metrics.borrow_watched().membership_config.membership());
        !membership.has_quorum(|id| !without.contains(&id))
    }

    /// Takes from an append what a full disk cannot: the first command that must be refused, and all behind it.
    /// Returns whether it took anything. A request may carry what the log has, so that a new leader finds out.
    pub(super) fn take_commands_off(&self, request: &mut AppendRequest) -> bool {
        let Some(reserve) = self.inner.reserve.as_ref().filter(|reserve| reserve.is_full()) else { return false };
        let old_terms_too = !reserve.has_half();
        let refused = |entry: &Entry| {
            matches!(entry.payload, Payload::Command(_))
                && (old_terms_too || entry.log_id.term == request.vote.term)
                && !self.inner.log.holds(entry.log_id)
        };
        let Some(first) = request.entries.iter().position(refused) else { return false };
        request.entries.truncate(first);
        true
    }

    /// A leader has been heard of.
    pub(super) fn heard_of_leader(&self) {
        *lock(&self.inner.led_at) = InstantOf::<Types<P::Runtime>>::now();
    }

    /// Lets openraft campaign, or not: not during the first `quiet` (a restarted voter has forgotten whose lease it
    /// acknowledged), nor while the disk is full and there is a leader, or may soon be one.
    pub(super) async fn campaign_or_not(&self, quiet: Option<Duration>) {
        if let Some(quiet) = quiet {
            P::Runtime::sleep(quiet).await;
        }
        let timeout = Duration::from_millis(self.inner.config.timing.election_timeout_max_ms());
        let mut campaigns = quiet.is_none();
        loop {
            let metrics = self.inner.raft.server_metrics();
            if metrics.borrow_watched().current_leader == Some(self.node_id()) {
                self.heard_of_leader();
            }
            let silence = InstantOf::<Types<P::Runtime>>::now().saturating_duration_since(*lock(&self.inner.led_at));
            let may = !self.disk_full() || silence >= timeout * PATIENCE;
            if may != campaigns {
                self.inner.raft.runtime_config().elect(may);
                campaigns = may;
            }
            P::Runtime::sleep(timeout).await;
        }
    }

    /// While the disk is full: gets rid of leadership, and looks for space.
    pub(super) async fn watch_full_disk(&self) {
        let (Some(reserve), Some(jobs)) = (&self.inner.reserve, self.inner.log.jobs()) else { return };
        loop {
            P::Runtime::sleep(LOOK_EVERY).await;
            if !reserve.is_full() {
                continue;
            }
            if !self.is_stopping() {
                // First, since a disk that is full may hang as well.
                self.step_aside().await;
            }
            self.inner.log.make_room();
            let refilled = reserve.clone();
            match jobs.run(move |_| refilled.refill()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    self.fail(StopError::Storage(format!("the reserve for a full disk: {error}")));
                    let _ = self.inner.raft.shutdown().await;
                    return;
                }
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests;
