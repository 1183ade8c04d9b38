//! Named places in the order of a disk's operations at which a process or the power can end.
//!
//! Nothing in the code under test names them: they follow from what is written where. A cut is at a point if the
//! operation before it in its step, and the one that it keeps from happening, are of the point's kinds.

use std::path::Path;

use quorate_core::{admission, founding, identity, log};
use serde::{Deserialize, Serialize};

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Act {
    /// Creates a file.
    Create,
    /// Writes to one.
    Write,
    /// Cuts, extends or preallocates one.
    SetLen,
    /// Makes one durable.
    Sync,
    /// Renames one over another.
    Rename,
    /// Removes one.
    Remove,
    /// Makes a directory's entries durable.
    SyncDir,
}

/// What a file is for, by its name. What is to replace a file is of that file's class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FileClass {
    /// A segment of the log.
    Segment,
    /// Whose data directory it is.
    Identity,
    /// The founding record, or the admission.
    Founding,
    /// Which store counts.
    Current,
    /// A store; one that does not count yet is a snapshot that is being received.
    Store,
    /// Not a file: the second copy of a store's header, as far as crash points are concerned.
    SecondHeader,
    /// That a store was found damaged.
    Marker,
    /// Space that is set aside.
    Reserve,
    /// Anything else, directories among it.
    Other,
}

impl FileClass {
    /// The class of a path.
    pub fn of(path: &Path) -> Self {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = name.strip_suffix(".new").unwrap_or(name);
        match name {
            "CURRENT" => Self::Current,
            "reserve" => Self::Reserve,
            identity::FILE_NAME => Self::Identity,
            founding::FILE_NAME | founding::PROMISE_FILE_NAME | admission::FILE_NAME => Self::Founding,
            _ if log::format::parse_segment_name(name).is_some() => Self::Segment,
            _ if log::format::parse_spare_name(name).is_some() => Self::Segment,
            _ if name.starts_with("store-") => Self::Store,
            _ if name.starts_with("damaged-") => Self::Marker,
            _ => Self::Other,
        }
    }

    /// The class that a write there counts as.
    pub(super) fn at(self, offset: u64) -> Self {
        if self == Self::Store && offset == SECOND_HEADER_AT { Self::SecondHeader } else { self }
    }
}

/// Where a store has the second copy of its header, in bytes.
const SECOND_HEADER_AT: u64 = 8192;

/// An operation, as crash points see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deed {
    /// What is done.
    pub act: Act,
    /// To what.
    pub class: FileClass,
}

/// A named place.
#[derive(Debug, PartialEq, Eq)]
pub struct CrashPoint {
    /// Its name.
    pub name: &'static str,
    /// The operation before it in the same step; `None` if any, or none, will do.
    after: Option<(Act, FileClass)>,
    /// The operation that does not happen any more; `None` if any, or none, will do: the cut is then at the instant
    /// at which the one before it has taken effect and nobody was told.
    before: Option<(Act, FileClass)>,
}

const fn before(name: &'static str, act: Act, class: FileClass) -> CrashPoint {
    CrashPoint { name, after: None, before: Some((act, class)) }
}

const fn after(name: &'static str, act: Act, class: FileClass) -> CrashPoint {
    CrashPoint { name, after: Some((act, class)), before: None }
}

const fn between(name: &'static str, after: (Act, FileClass), before: (Act, FileClass)) -> CrashPoint {
    CrashPoint { name, after: Some(after), before: Some(before) }
}

use Act::{Create, Remove, Rename, SetLen, Sync, SyncDir, Write};
use FileClass::{Current, Founding, Identity, Other, Reserve, SecondHeader, Segment, Store};

/// All of them. A cut may be at several.
pub const CRASH_POINTS: [CrashPoint; 36] = [
    before("before log create", Create, Segment),
    between("after log create, before its allocation", (Create, Segment), (SetLen, Segment)),
    between("after log allocation, before its header", (SetLen, Segment), (Write, Segment)),
    before("before log write", Write, Segment),
    before("before log sync", Sync, Segment),
    after("after log sync", Sync, Segment),
    between("after log create, before directory sync", (Sync, Segment), (SyncDir, Other)),
    between("after log create, before its base", (SyncDir, Other), (Write, Segment)),
    between("between batch and seal", (Sync, Segment), (Write, Segment)),
    between("before log trim or clear", (Sync, Segment), (SetLen, Segment)),
    before("before log retires or reuses a segment", Rename, Segment),
    between("after log reuse, before directory sync", (Rename, Segment), (SyncDir, Other)),
    before("before log delete", Remove, Segment),
    after("after log delete", Remove, Segment),
    before("before identity write", Write, Identity),
    before("before identity sync", Sync, Identity),
    before("before identity rename", Rename, Identity),
    between("after identity rename, before directory sync", (Rename, Identity), (SyncDir, Other)),
    before("before founding record write", Write, Founding),
    before("before founding record sync", Sync, Founding),
    before("before founding record rename", Rename, Founding),
    between("after founding record rename, before directory sync", (Rename, Founding), (SyncDir, Other)),
    before("before reserve allocation", SetLen, Reserve),
    before("before store create", Create, Store),
    before("before store write", Write, Store),
    before("before store sync", Sync, Store),
    between("between two store syncs", (Sync, Store), (Write, Store)),
    between("between the copies of a store's header", (Sync, Store), (Write, SecondHeader)),
    after("after store sync", Sync, Store),
    between("after store sync, before directory sync", (Sync, Store), (SyncDir, Other)),
    before("before CURRENT write", Write, Current),
    before("before CURRENT sync", Sync, Current),
    before("before CURRENT rename", Rename, Current),
    between("after CURRENT rename, before directory sync", (Rename, Current), (SyncDir, Other)),
    before("before store delete", Remove, Store),
    after("after store delete", Remove, Store),
];

impl CrashPoint {
    /// Whether a disk gets there when a snapshot is received and installed, which is rare, and otherwise only in a start.
    pub fn is_of_an_install(&self) -> bool {
        let of = |wanted: Option<(Act, FileClass)>| matches!(wanted, Some((_, Current) | (Remove | Create, Store)));
        of(self.after) || of(self.before)
    }

    /// Whether every start gets there, too: it makes what says which store counts anew.
    pub fn is_of_every_start(&self) -> bool {
        let of = |wanted: Option<(Act, FileClass)>| matches!(wanted, Some((_, Current)));
        of(self.after) || of(self.before)
    }

    /// Whether what was received, or made anew, counts there already.
    pub fn is_at_the_end_of_an_install(&self) -> bool {
        let of = |wanted: Option<(Act, FileClass)>| matches!(wanted, Some((Rename, Current) | (Remove, Store)));
        of(self.after) || matches!(self.before, Some((Remove, Store)))
    }

    /// Whether a cut between these two operations of a step is at this point.
    pub(super) fn matches(&self, previous: Option<Deed>, next: Option<Deed>) -> bool {
        let fits = |wanted: Option<(Act, FileClass)>, found: Option<Deed>| {
            wanted.is_none_or(|(act, class)| found == Some(Deed { act, class }))
        };
        fits(self.after, previous) && fits(self.before, next)
    }

    /// Whether the cut is behind the operation that is entered, rather than in front of it.
    pub(super) fn is_behind(&self) -> bool {
        self.before.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_classes() {
        for (path, class) in [
            ("/data/log-0000000000000001.seg", Segment),
            ("/data/log-0000000000000001.spare", Segment),
            ("/data/store/CURRENT.new", Current),
            ("/data/store/CURRENT", Current),
            ("/data/store/store-3.db", Store),
            ("/data/store/damaged-3", FileClass::Marker),
            ("/data/store/damaged-3.new", FileClass::Marker),
            ("/data/identity.new", Identity),
            ("/data/founding", Founding),
            ("/data/reserve", Reserve),
            ("/data", Other),
            ("/", Other),
        ] {
            assert_eq!(FileClass::of(Path::new(path)), class, "{path}");
        }
    }

    #[test]
    fn points_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = CRASH_POINTS.iter().map(|point| point.name).collect();
        assert_eq!(names.len(), CRASH_POINTS.len());
        assert!(CRASH_POINTS.iter().all(|point| point.after.is_some() || point.before.is_some()));
    }
}
