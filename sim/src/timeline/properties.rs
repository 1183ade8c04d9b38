//! What each property demands, for a reader who has never seen it.

use crate::atlas::{DAMAGE_IS_FOUND, KEEPS_WHOLE_STORES};
use crate::check::history::WELL_FORMED;
use crate::check::linearizability::LINEARIZABLE;
use crate::check::log_order::FOLLOWS;
use crate::check::raft::{
    APPLIED_STAYS, COMMITTED_IMMUTABLE, COMMITTED_ON_QUORUM, DURABLE_VOTE, ELECTION_SAFETY, LEADER_COMPLETENESS,
    LOG_MATCHING, MATCH_STAYS, MONOTONIC, SINGLE_VOTE, STATE_MACHINE_EQUALITY,
};
use crate::check::revision_order::{
    DURABILITY, EXACTLY_ONCE, LOG_CONSECUTIVE, NO_PHANTOM, NOT_APPLIED_INVISIBLE, READ_STATE, REAL_TIME, REPLAY,
    UNIQUE_REVISIONS,
};
use crate::liveness::CORE_LIVENESS;
use crate::run::{LIVENESS, NO_PANIC};
use crate::witness::{NO_SPONTANEOUS_STOP, ONE_IDENTITY, STOPS_WHEN_DISK_FAILS, WIPED_STAYS_OUT};

/// A property in plain words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Property {
    /// As in [`Violation::property`](crate::check::history::Violation).
    pub(super) name: &'static str,
    /// What it demands.
    pub(super) demands: &'static str,
    /// What it means to a user that it does not hold, and where to look first.
    pub(super) broken: &'static str,
    /// Where it comes from.
    pub(super) source: &'static str,
}

const REVISIONS: &str = "Every write that takes effect gives the store the next revision number, and every answer says \
                         at which revision it was given.";

/// What is known of a property; of one that nobody has described, what is true of any.
pub(super) fn property(name: &'static str) -> Property {
    let other = Property {
        name,
        demands: "The name of the property is what it demands.",
        broken: "The explanation below is the checker's own. Look at what the nodes did just before the red line.",
        source: "the oracle that reported it: search for the property's name in the simulator's sources",
    };
    PROPERTIES.into_iter().find(|property| property.name == name).unwrap_or(other)
}

const PROPERTIES: [Property; 32] = [
    Property {
        name: REAL_TIME,
        demands: "What was finished before an operation began must be visible to it. A read that begins after a write \
                  was acknowledged sees that write, or something newer.",
        broken: "A client got an answer from the past. Look at which node gave the older answer, and whether another \
                 node already led a newer term then: a leader that was deposed and does not know it yet, or a node \
                 that answers before it has applied what was committed.",
        source: "Herlihy & Wing 1990, “Linearizability: a correctness condition for concurrent objects”; Raft §8",
    },
    Property {
        name: LINEARIZABLE,
        demands: "There must be one order of all operations on a key, in which each takes effect at some instant \
                  between its start and its end, that explains every answer.",
        broken: "No such order exists: at least one answer is wrong. Of the marked operations at least one is the \
                 liar; the lists below say which came first in time.",
        source: "Herlihy & Wing 1990; searched as in Wing & Gong 1993 and Lowe 2017",
    },
    Property {
        name: DURABILITY,
        demands: "A write that was acknowledged stays, whatever crashes.",
        broken: "A client was told “done”, and the write is gone. Look at the node that acknowledged it and at the \
                 disk syncs of a majority before that moment, then at power losses and changes of leader after it.",
        source: "Raft §5.3, §5.4 (leader completeness): an entry on a quorum's disks is in every later leader's log",
    },
    Property {
        name: UNIQUE_REVISIONS,
        demands: REVISIONS,
        broken: "Two different writes claim the same revision: two histories of the store existed at once, or one was \
                 forgotten and made again.",
        source: "the store's contract: one global revision, one write (as etcd's)",
    },
    Property {
        name: READ_STATE,
        demands: "A read shows exactly the state of the store at the revision that it states.",
        broken: "The answer belongs to no state that the store was ever in. Look at what the answering node had \
                 applied, and whether it had just installed a snapshot or restarted.",
        source: "the store's contract; Herlihy & Wing 1990",
    },
    Property {
        name: REPLAY,
        demands: "What a write answers follows from the state before it: replaying all writes in order gives the same \
                  answers.",
        broken: "A write was executed on another state than it should have been, or twice.",
        source: "state machine replication: Schneider 1990; Raft §2",
    },
    Property {
        name: NO_PHANTOM,
        demands: "Every value that is seen was put by somebody, under that key, before.",
        broken: "A value was read that nobody has written there.",
        source: "Herlihy & Wing 1990",
    },
    Property {
        name: NOT_APPLIED_INVISIBLE,
        demands: "“Not applied” is a promise: such a write never takes effect, so that the client may safely try again.",
        broken: "A write that was reported as not applied took effect all the same. A client that tried again would \
                 have written twice.",
        source: "the server's contract for failed writes: not applied, or unknown",
    },
    Property {
        name: EXACTLY_ONCE,
        demands: "A write takes effect at most once, and at the revision that the client was told.",
        broken: "One write took effect twice, or elsewhere than was said: a retry inside the cluster, or an entry that \
                 was applied again.",
        source: "Raft §8 (duplicate commands)",
    },
    Property {
        name: LOG_CONSECUTIVE,
        demands: "The revisions of the committed log are consecutive.",
        broken: "The state machine counted wrongly: one entry was applied twice or skipped. Look at what the replicas \
                 applied first.",
        source: "the store's contract; state machine replication: Schneider 1990",
    },
    Property {
        name: WELL_FORMED,
        demands: "The recorded history of the clients makes sense.",
        broken: "This is the recorder's fault, not the store's: a bug in the simulator.",
        source: "the simulator itself",
    },
    Property {
        name: ELECTION_SAFETY,
        demands: "At most one leader in a term.",
        broken: "Two nodes led the same term, so both could commit different entries. Look at votes that were cast \
                 twice: at the votes' durability before a crash.",
        source: "Raft §5.2, figure 3",
    },
    Property {
        name: LOG_MATCHING,
        demands: "Two logs that have an entry with the same index and term are the same up to there.",
        broken: "Logs have diverged where they must not: an entry was replaced under the same term and index.",
        source: "Raft §5.3, figure 3",
    },
    Property {
        name: COMMITTED_IMMUTABLE,
        demands: "What one node applied at an index, every node applies there, with the same result.",
        broken: "Two replicas applied different things at one index, or the same with different results: a committed \
                 entry was replaced, or the state machine is not deterministic.",
        source: "Raft §5.4.3 (state machine safety), figure 3",
    },
    Property {
        name: MONOTONIC,
        demands: "Terms, commit and applied indexes of a process never go back, and a node votes once in a term.",
        broken: "A node went back in time without having restarted, or voted twice.",
        source: "Raft §5.1, §5.2, figure 2",
    },
    Property {
        name: DURABLE_VOTE,
        demands: "A term and a vote are on the disk before anybody is told of them.",
        broken: "A node told others of a vote that its disk did not have: after a crash it could vote again.",
        source: "Raft §5.1, figure 2 (“updated on stable storage before responding to RPCs”)",
    },
    Property {
        name: MATCH_STAYS,
        demands: "What a follower has acknowledged is on its disk. Only the leader of a newer term may take it out again.",
        broken: "A leader counts on entries that a follower does not have: the follower answered before they were \
                 durable, and lost them in a crash. They may be committed on fewer disks than a majority.",
        source: "Raft §5.3, figure 2 (“matchIndex”)",
    },
    Property {
        name: STATE_MACHINE_EQUALITY,
        demands: "Replicas that applied the same entries hold the same state.",
        broken: "Two replicas differ: one applied something twice or not at all, or the state machine is not \
                 deterministic.",
        source: "state machine replication: Schneider 1990; Raft §2",
    },
    Property {
        name: LIVENESS,
        demands: "Soon after all faults have ended, every node serves writes and reads, and all have applied the same.",
        broken: "The cluster did not recover in time. Look at what happens after “everything heals”: who leads, who \
                 asks for votes, which messages go unanswered, which node stands still.",
        source: "Raft §5.6 (timing and availability); the simulator's bound after healing",
    },
    Property {
        name: NO_PANIC,
        demands: "No code panics, whatever happens.",
        broken: "A task panicked, which ended the run: what follows in time is missing. The explanation is the panic's \
                 message.",
        source: "the project's rule for library code",
    },
    Property {
        name: NO_SPONTANEOUS_STOP,
        demands: "A node starts after any crash, and refuses to, or stops by itself, only for a fault of its own disk.",
        broken: "A node did not start, or stopped, though its disk gave it no reason that is allowed.",
        source: "the fault contract (README): any number of crashes at any instant",
    },
    Property {
        name: STOPS_WHEN_DISK_FAILS,
        demands: "A node whose write or sync failed stops: what could not be written cannot be believed any more.",
        broken: "A node went on after its disk had failed. It may acknowledge what is not on the disk.",
        source: "Rebello et al., “Can Applications Recover from fsync Failures?”, ATC 2020",
    },
    Property {
        name: WIPED_STAYS_OUT,
        demands: "A node that has lost its disk has forgotten its votes and its log. It stays out until it is added anew, \
                  under another identity.",
        broken: "A wiped node came back as if it knew what it had promised: it may vote twice, and entries that were on \
                 a quorum are no longer.",
        source: "openraft's FAQ on reusing a node id; Raft §5.1",
    },
    Property {
        name: DAMAGE_IS_FOUND,
        demands: "Data that was durable and has been damaged is found by its checksum, named, and never used.",
        broken: "A node started, or went on, on damaged data as if it were sound.",
        source: "Alagappan et al., “Protocol-Aware Recovery for Consensus-Based Storage”, FAST 2018; the fault contract",
    },
    Property {
        name: LEADER_COMPLETENESS,
        demands: "What was committed in a term is in the log of every leader of a later term.",
        broken: "A leader was elected that lacks a committed entry, and will overwrite it. Look at who voted for it and \
                 what those had on their disks: a vote for a log that is behind, or an entry that was acknowledged \
                 before it was durable.",
        source: "Raft §5.4, figure 3",
    },
    Property {
        name: COMMITTED_ON_QUORUM,
        demands: "What anybody calls committed is durable on the disks of a majority.",
        broken: "Too few disks have a committed entry: the next power loss may lose it. Look at the node that lacks it, \
                 at its disk syncs, and at what it acknowledged.",
        source: "Raft §5.3: an entry is committed once it is on a majority; Pillai et al., OSDI 2014, for what a disk has",
    },
    Property {
        name: SINGLE_VOTE,
        demands: "A node votes for one candidate in a term, however often it restarts.",
        broken: "A node has voted twice in one term: two leaders of that term are possible. Look at its power losses and \
                 at the sync of its first vote.",
        source: "Raft §5.2",
    },
    Property {
        name: APPLIED_STAYS,
        demands: "What a node has applied once, it has applied when everything has come to rest.",
        broken: "A node's state has gone back behind what it had shown. Look at its restarts, rebuilt stores and installed \
                 snapshots.",
        source: "Raft §5.4.3 (state machine safety)",
    },
    Property {
        name: FOLLOWS,
        demands: "Every answer of the state machine follows from the commands before it in the log.",
        broken: "A replica executed a command on another state than the log before it makes.",
        source: "state machine replication: Schneider 1990",
    },
    Property {
        name: KEEPS_WHOLE_STORES,
        demands: "A node gives up its store, to rebuild it, only when it is damaged.",
        broken: "A node threw away a store that nothing had damaged: what it had called durable was not, or it cannot \
                 read what it wrote.",
        source: "the storage contract in the README's table of faults",
    },
    Property {
        name: ONE_IDENTITY,
        demands: "A node that lost what it kept comes back under an id that nobody had before, and a node keeps its id as \
                  long as it keeps its data.",
        broken: "Votes and acknowledgements of the lost node count for one that does not remember them: two majorities \
                 can have nobody in common. Look at where the id was made.",
        source: "Raft §5.1, §6; openraft's FAQ on reusing a node id",
    },
    Property {
        name: CORE_LIVENESS,
        demands: "A quorum whose nodes and links are whole serves in bounded time, whatever ails the others.",
        broken: "The healed core does not serve. The outsiders' ailments are among the faults: look at who keeps the core \
                 from electing a leader, or at what it waits for.",
        source: "TigerBeetle's VOPR (liveness mode); Ongaro 2014, §9.6 (pre-vote), §6.2 (leaders that hear nobody step down)",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_property_is_described_once() {
        let mut names: Vec<_> = PROPERTIES.iter().map(|property| property.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PROPERTIES.len());
        assert_eq!(property(DAMAGE_IS_FOUND).name, DAMAGE_IS_FOUND);
        assert_eq!(property("of somebody else").name, "of somebody else");
    }
}
