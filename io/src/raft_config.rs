//! openraft's settings. Several of its defaults lose data or stall with our storage and transport; each line that
//! departs from one says why, and a test holds it there.

use openraft::{Config, SnapshotPolicy};
use quorate_core::NodeId;
use quorate_core::config::Timing;

/// How much of the log is kept and when snapshots are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactionConfig {
    /// A snapshot is made after this many entries, or up to half as many more: nodes differ, so that not all are busy with it
    /// at once.
    pub snapshot_every_entries: u64,
    /// So many entries below the snapshot stay in the log, for followers that are a little behind. All that come after a
    /// snapshot that is being sent stay, too.
    pub keep_entries: u64,
    /// Whatever the two above say, the log is cut to about half of this many bytes when it exceeds them.
    pub log_bytes_max: usize,
}

impl Default for CompactionConfig {
    fn default() -> Self {
        Self { snapshot_every_entries: 50_000, keep_entries: 10_000, log_bytes_max: 512 << 20 }
    }
}

/// openraft's configuration for node `id`. `quiet` starts it without campaigning.
///
/// # Errors
/// openraft refuses the combination, which [`Timing`] should have prevented.
pub fn raft_config(id: NodeId, timing: &Timing, compaction: &CompactionConfig, quiet: bool) -> Result<Config, String> {
    let later = compaction.snapshot_every_entries / 16 * (id.0 % 9);
    let lease = timing.election_timeout_max_ms();
    let config = Config {
        cluster_name: "quorate".to_owned(),
        heartbeat_interval: timing.heartbeat_ms(),
        election_timeout_min: timing.election_timeout_min_ms(),
        election_timeout_max: lease,
        // Restored, a leader goes on in its old term. It replicates before its own flush, so after a power loss it
        // could put another entry under an id that its followers have already committed.
        enable_leader_restore: Some(false),
        // Without it a node that was cut off comes back with a high term and deposes a working leader.
        enable_pre_vote: Some(true),
        // Without it a leader whose messages still go out, but to whom no answer comes back, keeps its followers
        // loyal for ever.
        quorum_loss_probe_interval: Some(2 * lease),
        // A follower that lost its log must not be fed as if nothing had happened: it gets a new identity instead.
        allow_log_reversion: Some(false),
        // A restarted node may have promised loyalty to a leader; it campaigns only after that has run out.
        enable_elect: !quiet,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(compaction.snapshot_every_entries.saturating_add(later)),
        // openraft would let go of entries that whoever is being sent a snapshot needs next, and then send another one,
        // and so on. The node does it: see `purge_log` in `node/tasks.rs`.
        max_in_snapshot_log_to_keep: u64::MAX,
        // Idle time between two chunks of a snapshot; the default of 200 ms is less than one slow sync.
        install_snapshot_timeout: 5_000,
        max_payload_entries: 1024,
        ..Config::default()
    };
    config.validate().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings that openraft's own defaults get wrong for us.
    #[test]
    fn unsafe_defaults_are_off() {
        let timing = Timing::default();
        let config = raft_config(NodeId(7), &timing, &CompactionConfig::default(), true).expect("valid");
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.allow_log_reversion, Some(false));
        assert_eq!(config.quorum_loss_probe_interval, Some(2 * timing.election_timeout_max_ms()));
        assert!(!config.enable_elect, "a node with history starts quiet");
        assert!(raft_config(NodeId(7), &timing, &CompactionConfig::default(), false).expect("valid").enable_elect);
        assert!(config.install_snapshot_timeout >= 1_000);
        assert_eq!(config.max_in_snapshot_log_to_keep, u64::MAX);
    }

    #[test]
    fn every_valid_timing_is_valid_for_openraft() {
        for (heartbeat, min, max) in [(1, 3, 5), (50, 150, 300), (100, 1000, 2000), (10_000, 30_000, 45_000)] {
            let timing = Timing::new(heartbeat, min, max).expect("valid");
            raft_config(NodeId(7), &timing, &CompactionConfig::default(), false).expect("openraft takes it");
        }
    }
}
