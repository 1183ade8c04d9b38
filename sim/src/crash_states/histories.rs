//! The scripts. A segment has eight blocks, two of which its header and its base and seal leave to others: histories
//! roll soon.

use super::script::End::{Closed, Killed, PowerLost};
use super::script::Step::{
    Abandon, Append, Apply, Blank, Committed, DiesAfter, Found, Idle, Install, Membership, Next, Purge, Restart,
    Snapshot, SyncFails, Together, Truncate, Vote,
};
use super::script::{History, Step};

const fn log(name: &'static str, setup: &'static [Step], steps: &'static [Step]) -> History {
    History { name, store: false, setup: Some(setup), steps }
}

const fn node(name: &'static str, setup: &'static [Step], steps: &'static [Step]) -> History {
    History { name, store: true, setup: Some(setup), steps }
}

const SNAPSHOT: &[Step] = &[Append(1, 0, 5, 60), Apply(0), Snapshot, Apply(2)];
const INSTALL: &[Step] = &[Append(1, 0, 3, 60), Apply(2), Snapshot];
const ROLL: &[Step] = &[Vote(1, 1, true), Append(1, 0, 2, 60), Append(1, 2, 3, 5000), Append(1, 3, 4, 5000)];

/// All of them.
pub(crate) const ALL: &[History] = &[
    History { name: "first start of a log", store: false, setup: None, steps: &[Restart(Killed), Append(1, 0, 1, 60)] },
    log("append", &[], &[Append(1, 0, 1, 60), Append(1, 1, 3, 90), Idle]),
    log("batches", &[], &[Append(1, 0, 1, 700), Append(1, 1, 2, 60), Append(1, 2, 5, 900), Idle]),
    log("vote", &[], &[Vote(1, 1, false), Vote(1, 1, true), Vote(2, 2, false)]),
    log(
        "vote then append",
        &[Vote(1, 1, true)],
        &[Vote(2, 1, false), Vote(2, 1, true), Blank(2, 0), Append(2, 1, 2, 60)],
    ),
    log(
        "group commit",
        &[Append(1, 0, 1, 60)],
        &[
            Together(&[Append(1, 1, 2, 60), Append(1, 2, 3, 300), Vote(3, 2, false), Append(1, 3, 4, 60)]),
            Together(&[Vote(4, 1, true), Truncate(Some((1, 2))), Append(4, 3, 4, 60), Committed(1, 2)]),
            Append(4, 4, 5, 60),
        ],
    ),
    log(
        "leader change",
        &[Vote(1, 1, true), Append(1, 0, 4, 60)],
        &[Vote(2, 2, true), Truncate(Some((1, 1))), Append(2, 2, 3, 60), Truncate(None), Append(3, 0, 2, 60), Idle],
    ),
    log(
        "committed",
        &[Append(1, 0, 3, 60)],
        &[Committed(1, 0), Append(1, 3, 4, 60), Committed(1, 3), Idle, Vote(2, 1, true)],
    ),
    log(
        "roll",
        &[Vote(1, 1, true), Append(1, 0, 1, 60)],
        &[Append(1, 1, 2, 60), Append(1, 2, 3, 60), Append(1, 3, 4, 60), Vote(2, 1, false), Append(1, 4, 5, 60)],
    ),
    log(
        "roll with a vote in the old segment",
        &[Vote(5, 1, true), Append(5, 0, 3, 60)],
        &[Append(5, 3, 4, 5000), Append(5, 4, 5, 5000), Append(5, 5, 6, 60)],
    ),
    log("big batch", &[Append(1, 0, 1, 60)], &[Append(1, 1, 2, 20_000), Append(1, 2, 3, 60)]),
    log(
        "restart",
        &[Vote(1, 1, true), Append(1, 0, 2, 60)],
        &[
            Restart(Closed),
            Append(1, 2, 3, 60),
            Restart(Killed),
            Append(1, 3, 4, 60),
            Restart(PowerLost),
            Vote(2, 1, true),
        ],
    ),
    log(
        "kill before the sync",
        &[Vote(1, 1, true), Append(1, 0, 2, 60)],
        &[
            DiesAfter(1, &Append(1, 2, 4, 400)),
            Restart(Killed),
            Append(1, 4, 5, 60),
            DiesAfter(1, &Vote(2, 2, false)),
            Restart(Killed),
        ],
    ),
    log(
        "power lost before the sync",
        &[Vote(1, 1, true), Append(1, 0, 2, 60)],
        &[
            DiesAfter(1, &Append(1, 2, 4, 400)),
            Restart(PowerLost),
            Append(2, 2, 3, 60),
            Restart(PowerLost),
            Append(2, 3, 4, 60),
        ],
    ),
    log(
        "kill in a roll",
        &[Vote(1, 1, true), Append(1, 0, 2, 60), Append(1, 2, 3, 5000), Append(1, 3, 4, 5000)],
        &[
            DiesAfter(5, &Next(1, 1, 5000)),
            Restart(Killed),
            Next(1, 3, 5000),
            DiesAfter(8, &Next(1, 1, 9000)),
            Restart(Killed),
            Next(1, 1, 60),
        ],
    ),
    log(
        "kill during a start",
        &[Vote(1, 1, true), Append(1, 0, 2, 60)],
        &[
            DiesAfter(3, &Restart(Killed)),
            Restart(Killed),
            DiesAfter(6, &Restart(Killed)),
            Restart(PowerLost),
            Append(1, 2, 3, 60),
        ],
    ),
    log(
        "failed sync",
        &[Vote(1, 1, true), Append(1, 0, 2, 60)],
        &[
            SyncFails(0, &Append(1, 2, 3, 60)),
            Restart(Killed),
            Append(1, 3, 4, 60),
            SyncFails(0, &Vote(2, 1, false)),
            Restart(Killed),
        ],
    ),
    History {
        name: "first start of a node",
        store: true,
        setup: None,
        steps: &[Restart(Killed), Found(false), Found(true), Membership(0, 0), Vote(1, 1, true), Blank(1, 1)],
    },
    node("snapshot", &[Append(1, 0, 4, 60)], &[Committed(1, 3), Apply(3), Snapshot, Append(1, 4, 5, 60)]),
    node(
        "snapshot of entries that are not durable yet",
        &[Append(1, 0, 2, 60)],
        &[Together(&[Append(1, 2, 4, 60), Apply(3), Snapshot]), Purge(1, 3), Append(1, 4, 5, 60)],
    ),
    node(
        "snapshot then purge",
        &[Membership(0, 0), Append(1, 1, 3, 60), Append(1, 3, 4, 5000), Append(1, 4, 6, 60)],
        &[Committed(1, 5), Apply(4), Snapshot, Purge(1, 4), Append(1, 6, 7, 60), Idle],
    ),
    node(
        "two commits",
        &[Append(1, 0, 6, 60)],
        &[Apply(2), Snapshot, Apply(5), Snapshot, Append(1, 6, 8, 60), Apply(7), Snapshot],
    ),
    node(
        "purge and power loss",
        &[Vote(1, 1, true), Append(1, 0, 3, 5000), Append(1, 3, 5, 60), Committed(1, 4)],
        &[
            Apply(4),
            Snapshot,
            Purge(1, 3),
            Restart(PowerLost),
            Apply(4),
            Append(1, 5, 6, 60),
            Apply(5),
            Snapshot,
            Purge(1, 5),
            Vote(2, 1, true),
            Restart(PowerLost),
        ],
    ),
    node(
        "purged segments become new ones",
        &[Vote(1, 1, true), Append(1, 0, 3, 5000), Append(1, 3, 5, 5000), Committed(1, 4), Apply(4), Snapshot],
        &[
            Purge(1, 3),
            Append(1, 5, 6, 5000),
            Append(1, 6, 7, 5000),
            Append(1, 7, 8, 5000),
            Vote(2, 1, false),
            Append(2, 8, 9, 5000),
        ],
    ),
    node(
        "install",
        &[Vote(1, 1, true), Append(1, 0, 3, 60), Committed(1, 1), Apply(1), Snapshot],
        &[Vote(3, 2, true), Install(3, 8), Purge(3, 8), Append(3, 9, 10, 60), Idle],
    ),
    node(
        "install over nothing",
        &[],
        &[
            Vote(3, 2, true),
            Install(3, 8),
            Purge(3, 8),
            Append(3, 9, 10, 60),
            Apply(9),
            Snapshot,
            Install(4, 20),
            Purge(4, 20),
        ],
    ),
    node(
        "install, and a kill before the purge",
        &[Vote(1, 1, true), Append(1, 0, 3, 60), Apply(2), Snapshot],
        &[
            Install(3, 8),
            Restart(Killed),
            Append(3, 9, 10, 60),
            Restart(PowerLost),
            Install(4, 12),
            Restart(PowerLost),
            Append(4, 13, 14, 60),
        ],
    ),
    node(
        "install abandoned",
        &[Append(1, 0, 3, 60), Apply(2), Snapshot],
        &[Abandon(3, 8), Append(1, 3, 4, 60), Restart(Killed), Append(1, 4, 5, 60), Apply(4), Snapshot],
    ),
    node(
        "install cut by a kill",
        &[Append(1, 0, 3, 60), Apply(2), Snapshot],
        &[DiesAfter(20, &Install(3, 8)), Restart(Killed), Append(1, 3, 4, 60), Apply(3), Snapshot],
    ),
    node(
        "failed first sync of a snapshot",
        SNAPSHOT,
        &[
            SyncFails(0, &Snapshot),
            Restart(Killed),
            Apply(4),
            Snapshot,
            Purge(1, 4),
            Append(1, 5, 6, 60),
            Restart(PowerLost),
        ],
    ),
    node(
        "failed sync 0 of an install",
        INSTALL,
        &[SyncFails(0, &Install(3, 8)), Restart(Killed), Append(1, 3, 4, 60), Restart(PowerLost)],
    ),
    node(
        "failed sync 3 of an install",
        INSTALL,
        &[SyncFails(3, &Install(3, 8)), Restart(Killed), Append(1, 3, 4, 60), Restart(PowerLost)],
    ),
    node(
        "failed sync 6 of an install",
        INSTALL,
        &[SyncFails(6, &Install(3, 8)), Restart(Killed), Append(1, 3, 4, 60), Restart(PowerLost)],
    ),
    node(
        "failed sync 9 of an install",
        INSTALL,
        &[SyncFails(9, &Install(3, 8)), Restart(Killed), Append(1, 3, 4, 60), Restart(PowerLost)],
    ),
    node(
        "failed sync 11 of an install",
        INSTALL,
        &[SyncFails(11, &Install(3, 8)), Restart(Killed), Append(1, 3, 4, 60), Restart(PowerLost)],
    ),
    node(
        "failed sync 12 of an install",
        INSTALL,
        &[SyncFails(12, &Install(3, 8)), Restart(Killed), Append(1, 3, 4, 60), Restart(PowerLost)],
    ),
    // The last: of the directory, after the rename that makes the new store count.
    node(
        "failed sync 13 of an install",
        INSTALL,
        &[SyncFails(13, &Install(3, 8)), Restart(Killed), Append(3, 9, 10, 60), Restart(PowerLost)],
    ),
    node(
        "failed syncs of the founding record",
        &[],
        &[
            SyncFails(0, &Found(false)),
            Restart(Killed),
            SyncFails(1, &Found(false)),
            Restart(Killed),
            Vote(1, 1, true),
            Restart(PowerLost),
        ],
    ),
    log(
        "failed sync of a roll 0",
        ROLL,
        &[SyncFails(0, &Append(1, 4, 5, 5000)), Restart(Killed), Blank(2, 4), Restart(PowerLost)],
    ),
    log(
        "failed sync of a roll 1",
        ROLL,
        &[SyncFails(1, &Append(1, 4, 5, 5000)), Restart(Killed), Blank(2, 4), Restart(PowerLost)],
    ),
    log(
        "failed sync of a roll 2",
        ROLL,
        &[SyncFails(2, &Append(1, 4, 5, 5000)), Restart(Killed), Blank(2, 4), Restart(PowerLost)],
    ),
    log(
        "failed sync of a roll 3",
        ROLL,
        &[SyncFails(3, &Append(1, 4, 5, 5000)), Restart(Killed), Blank(2, 4), Restart(PowerLost)],
    ),
    log(
        "failed syncs of starts",
        ROLL,
        &[
            SyncFails(0, &Restart(Killed)),
            SyncFails(1, &Restart(Killed)),
            SyncFails(2, &Restart(Killed)),
            SyncFails(3, &Restart(Killed)),
            SyncFails(4, &Restart(Killed)),
            Restart(Killed),
            Append(1, 4, 5, 60),
            Restart(PowerLost),
        ],
    ),
    node(
        "failed syncs of starts of a node",
        &[Found(true), Vote(1, 1, true), Append(1, 0, 6, 60), Apply(3), Snapshot, Purge(1, 2)],
        &[
            SyncFails(0, &Restart(Killed)),
            SyncFails(1, &Restart(Killed)),
            SyncFails(2, &Restart(Killed)),
            SyncFails(3, &Restart(Killed)),
            SyncFails(4, &Restart(Killed)),
            SyncFails(5, &Restart(Killed)),
            SyncFails(6, &Restart(Killed)),
            SyncFails(7, &Restart(Killed)),
            SyncFails(8, &Restart(Killed)),
            Restart(Killed),
            Append(1, 6, 7, 60),
            Restart(PowerLost),
        ],
    ),
    History {
        name: "failed syncs of first starts",
        store: true,
        setup: None,
        steps: &[
            SyncFails(0, &Restart(Killed)),
            SyncFails(1, &Restart(Killed)),
            SyncFails(2, &Restart(Killed)),
            SyncFails(3, &Restart(Killed)),
            SyncFails(4, &Restart(Killed)),
            SyncFails(5, &Restart(Killed)),
            SyncFails(6, &Restart(Killed)),
            SyncFails(7, &Restart(Killed)),
            Restart(Killed),
            Append(1, 0, 3, 60),
            Apply(2),
            Snapshot,
            Purge(1, 2),
            Restart(PowerLost),
        ],
    },
];
