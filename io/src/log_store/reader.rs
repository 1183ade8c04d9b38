//! Reads entries: from memory while they are cached, else from their segment.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use openraft::{OptionalSend, RaftLogReader};
use quorate_core::LogId;
use quorate_core::disk::{Disk, File};
use quorate_core::log::format::segment_name;
use quorate_core::log::record::{self, Record};
use quorate_core::log::writer::Place;

use super::{Shared, entry_bytes, entry_to_raft};
use crate::jobs::lock;
use crate::platform::Platform;
use crate::types::{Types, raft, vote_to};

/// A reader of the log. Sees every entry as soon as it was appended, durable or not.
pub struct LogReader<P: Platform> {
    shared: Arc<Shared<P>>,
}

/// An entry to read from disk: its id, where it is, and the file.
type Wanted<P> = (LogId, Place, Arc<<<P as Platform>::Disk as Disk>::File>);

impl<P: Platform> LogReader<P> {
    pub(super) fn new(shared: Arc<Shared<P>>) -> Self {
        Self { shared }
    }

    /// Entries of `[start, end)`, at most about `bytes_max` bytes of commands but at least one entry.
    async fn read(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<raft::Entry>> {
        let (mut found, mut wanted) = (Vec::new(), Vec::<Wanted<P>>::new());
        {
            let state = lock(&self.shared.state);
            let first = state.first_index();
            let from = usize::try_from(start.max(first) - first).map_err(io::Error::other)?;
            let mut bytes = 0;
            for slot in state.slots.iter().skip(from).take_while(|slot| slot.id.index < end) {
                if bytes > bytes_max {
                    break;
                }
                match (&slot.entry, slot.place) {
                    (Some(entry), _) => {
                        bytes += entry_bytes(entry);
                        found.push(entry.clone());
                    }
                    (None, Some(place)) => {
                        let file = state.files.get(&place.segment).cloned();
                        let file = file.ok_or_else(|| io::Error::other("a needed segment is not open"))?;
                        bytes += place.len as usize;
                        wanted.push((slot.id, place, file));
                    }
                    (None, None) => return Err(io::Error::other("an entry is neither cached nor on disk")),
                }
            }
        }
        if wanted.is_empty() {
            return Ok(found);
        }
        let Some(jobs) = &self.shared.jobs else {
            return Err(io::Error::other("an in-memory log has no entries on disk"));
        };
        // Only the oldest entries leave the cache, so what is read comes before what was found.
        let read = move |_: &P::Disk| wanted.iter().map(read_entry::<P>).collect::<io::Result<Vec<_>>>();
        match jobs.run(read).await.map_err(io::Error::other)? {
            Ok(mut entries) => {
                entries.append(&mut found);
                Ok(entries)
            }
            Err(error) => {
                // Nothing is written behind a log that cannot be read.
                let mut state = lock(&self.shared.state);
                state.failed.get_or_insert_with(|| (error.kind(), error.to_string()));
                Err(error)
            }
        }
    }
}

fn read_entry<P: Platform>((id, place, file): &Wanted<P>) -> io::Result<raft::Entry> {
    let failed = |e: io::Error| {
        io::Error::new(e.kind(), format!("{} at offset {}: {e}", segment_name(place.segment), place.offset))
    };
    let damaged = |what: String| failed(io::Error::new(io::ErrorKind::InvalidData, what));
    let mut buf = vec![0; place.len as usize];
    let got = file.read_at(place.offset, &mut buf).map_err(failed)?;
    if got < buf.len() || record::checksum(&buf) != place.crc {
        return Err(damaged(format!("entry {id} is not what was written")));
    }
    match record::decode_one(&Bytes::from(buf)) {
        Ok(Record::Entry(entry)) if entry.log_id == *id => entry_to_raft(entry),
        Ok(_) => Err(damaged(format!("entry {id} is not where it was written"))),
        Err(e) => Err(damaged(format!("entry {id} is unreadable: {e}"))),
    }
}

impl<P: Platform> RaftLogReader<Types<P::Runtime>> for LogReader<P> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<raft::Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<raft::Entry>> {
        self.read(start, end, self.shared.config.read_bytes_max).await
    }

    async fn read_vote(&mut self) -> io::Result<Option<raft::Vote>> {
        Ok(lock(&self.shared.state).vote.as_ref().map(vote_to))
    }
}
