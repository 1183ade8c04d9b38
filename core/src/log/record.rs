//! What a batch's body holds.
//!
//! ```text
//! record:  kind u8 | length u32 | content
//!
//! 1 entry     term u64 | index u64 | payload kind u8 (0 blank, 1 command, 2 membership) | payload
//! 2 vote      term u64 | node u64 | committed u8
//! 3 committed term u64 | index u64
//! 4 truncate  present u8 | term u64 | index u64      entries after this id are gone (all of them if absent)
//! 5 purge     term u64 | index u64                   entries up to and including this id are gone
//!
//! base:    boot epoch u64 | first segment u64 | previous segment u64 | previous end u64
//!          | vote (present u8, as above) | committed | purged | last log id (each: present u8 | term u64 | index u64)
//! ```
//!
//! Numbers are little endian. A membership is protobuf, as on the wire.

use bytes::Bytes;

use crate::proto;
use crate::types::{Entry, LogId, NodeId, Payload, Vote};

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const TRUNCATE: u8 = 4;
const PURGE: u8 = 5;

/// Bytes in front of a record's content.
pub const RECORD_HEADER_BYTES: usize = 5;

/// One change of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry is appended.
    Entry(Entry),
    /// A vote is cast or learnt to have won.
    Vote(Vote),
    /// Entries up to here are known to be committed.
    Committed(LogId),
    /// Entries after this one are removed; all of them if `None`.
    Truncate(Option<LogId>),
    /// Entries up to and including this one are removed.
    Purge(LogId),
}

/// What the first batch of a segment repeats from older segments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base {
    /// Counts starts of this node on this directory.
    pub boot_epoch: u64,
    /// Segments before this one are not needed any more.
    pub first_segment: u64,
    /// The segment before this one; 0 if this is the first ever.
    pub previous_segment: u64,
    /// Where that segment's last batch ends, in bytes.
    pub previous_end: u64,
    /// Newest vote.
    pub vote: Option<Vote>,
    /// Newest committed id that was recorded.
    pub committed: Option<LogId>,
    /// Last purged entry.
    pub purged: Option<LogId>,
    /// Last entry, or the purged id if there is none.
    pub last: Option<LogId>,
}

/// Why a body that passed its CRC cannot be read: a bug or a newer writer, not a torn write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecordError(pub String);

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let (head, tail) =
            self.0.split_first_chunk::<N>().ok_or_else(|| RecordError("record ends too early".to_owned()))?;
        self.0 = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, RecordError> {
        Ok(self.take::<1>()?[0])
    }

    fn u64(&mut self) -> Result<u64, RecordError> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    fn log_id(&mut self) -> Result<LogId, RecordError> {
        Ok(LogId { term: self.u64()?, index: self.u64()? })
    }

    fn vote(&mut self) -> Result<Vote, RecordError> {
        Ok(Vote { term: self.u64()?, node: NodeId(self.u64()?), committed: self.flag()? })
    }

    fn flag(&mut self) -> Result<bool, RecordError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(RecordError(format!("flag byte {other} is neither 0 nor 1"))),
        }
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, RecordError>) -> Result<Option<T>, RecordError> {
        let present = self.flag()?;
        let value = read(self)?;
        Ok(present.then_some(value))
    }

    fn end(&self) -> Result<(), RecordError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(RecordError(format!("{} bytes too many in a record", self.0.len())))
        }
    }
}

fn put_log_id(out: &mut Vec<u8>, id: LogId) {
    out.extend_from_slice(&id.term.to_le_bytes());
    out.extend_from_slice(&id.index.to_le_bytes());
}

fn put_vote(out: &mut Vec<u8>, vote: &Vote) {
    out.extend_from_slice(&vote.term.to_le_bytes());
    out.extend_from_slice(&vote.node.0.to_le_bytes());
    out.push(u8::from(vote.committed));
}

fn put_option_log_id(out: &mut Vec<u8>, id: Option<LogId>) {
    out.push(u8::from(id.is_some()));
    put_log_id(out, id.unwrap_or_default());
}

/// Bytes that a record will take: exact for entries with commands, an upper guess for memberships.
pub fn encoded_len(record: &Record) -> usize {
    RECORD_HEADER_BYTES
        + match record {
            Record::Entry(Entry { payload: Payload::Command(bytes), .. }) => 17 + bytes.len(),
            Record::Entry(Entry { payload: Payload::Blank, .. }) => 17,
            Record::Entry(Entry { payload: Payload::Membership(m), .. }) => 1024 * (1 + m.members.len()),
            Record::Vote(_) | Record::Committed(_) | Record::Truncate(_) | Record::Purge(_) => 17,
        }
}

/// Appends a record to a body.
///
/// # Panics
/// If a record exceeds `u32::MAX` bytes: commands are limited far below that before they get here.
pub fn encode(record: &Record, out: &mut Vec<u8>) {
    let start = out.len();
    let kind = match record {
        Record::Entry(_) => ENTRY,
        Record::Vote(_) => VOTE,
        Record::Committed(_) => COMMITTED,
        Record::Truncate(_) => TRUNCATE,
        Record::Purge(_) => PURGE,
    };
    out.extend_from_slice(&[kind, 0, 0, 0, 0]);
    match record {
        Record::Entry(entry) => {
            put_log_id(out, entry.log_id);
            match &entry.payload {
                Payload::Blank => out.push(0),
                Payload::Command(bytes) => {
                    out.push(1);
                    out.extend_from_slice(bytes);
                }
                Payload::Membership(membership) => {
                    out.push(2);
                    out.extend_from_slice(&proto::encode_membership(membership));
                }
            }
        }
        Record::Vote(vote) => put_vote(out, vote),
        Record::Committed(id) | Record::Purge(id) => put_log_id(out, *id),
        Record::Truncate(id) => put_option_log_id(out, *id),
    }
    let len = u32::try_from(out.len() - start - RECORD_HEADER_BYTES).expect("commands are limited far below 4 GiB");
    out[start + 1..start + RECORD_HEADER_BYTES].copy_from_slice(&len.to_le_bytes());
}

fn decode_content(kind: u8, content: &Bytes) -> Result<Record, RecordError> {
    let mut cursor = Cursor(content);
    let record = match kind {
        ENTRY => {
            let log_id = cursor.log_id()?;
            let payload_kind = cursor.u8()?;
            let rest = content.slice(content.len() - cursor.0.len()..);
            let payload = match payload_kind {
                0 if rest.is_empty() => Payload::Blank,
                1 => Payload::Command(rest),
                2 => Payload::Membership(
                    proto::decode_membership(&rest).map_err(|e| RecordError(format!("membership entry: {e}")))?,
                ),
                other => return Err(RecordError(format!("entry {log_id} has an unknown payload kind {other}"))),
            };
            return Ok(Record::Entry(Entry { log_id, payload }));
        }
        VOTE => Record::Vote(cursor.vote()?),
        COMMITTED => Record::Committed(cursor.log_id()?),
        TRUNCATE => Record::Truncate(cursor.option(Cursor::log_id)?),
        PURGE => Record::Purge(cursor.log_id()?),
        other => return Err(RecordError(format!("record kind {other} is unknown"))),
    };
    cursor.end()?;
    Ok(record)
}

/// Reads the next record of a body from `at`; returns it and the offset after it. `None` at the end of the body.
/// Command bytes are slices of `body`, not copies.
///
/// # Errors
/// The body is not a sequence of records this program knows.
pub fn decode_at(body: &Bytes, at: usize) -> Result<Option<(Record, usize)>, RecordError> {
    if at == body.len() {
        return Ok(None);
    }
    let Some(header) = body.get(at..at + RECORD_HEADER_BYTES) else {
        return Err(RecordError("record ends too early".to_owned()));
    };
    let len = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
    let start = at + RECORD_HEADER_BYTES;
    if body.len() - start < len {
        return Err(RecordError(format!("record of {len} bytes does not fit its batch")));
    }
    let record = decode_content(header[0], &body.slice(start..start + len))?;
    Ok(Some((record, start + len)))
}

/// The CRC of an encoded record, kept in its [`Place`](super::writer::Place).
pub fn checksum(record: &[u8]) -> u32 {
    crc32c::crc32c(record)
}

/// Reads one whole record, as [`encode`] wrote it.
///
/// # Errors
/// The bytes are not exactly one record.
pub fn decode_one(bytes: &Bytes) -> Result<Record, RecordError> {
    match decode_at(bytes, 0)? {
        Some((record, end)) if end == bytes.len() => Ok(record),
        _ => Err(RecordError("not exactly one record".to_owned())),
    }
}

/// Appends a base's content to a body.
pub fn encode_base(base: &Base, out: &mut Vec<u8>) {
    for number in [base.boot_epoch, base.first_segment, base.previous_segment, base.previous_end] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out.push(u8::from(base.vote.is_some()));
    put_vote(out, &base.vote.unwrap_or_default());
    for id in [base.committed, base.purged, base.last] {
        put_option_log_id(out, id);
    }
}

/// Reads a base batch's body.
///
/// # Errors
/// It is not one.
pub fn decode_base(body: &[u8]) -> Result<Base, RecordError> {
    let mut cursor = Cursor(body);
    let base = Base {
        boot_epoch: cursor.u64()?,
        first_segment: cursor.u64()?,
        previous_segment: cursor.u64()?,
        previous_end: cursor.u64()?,
        vote: cursor.option(Cursor::vote)?,
        committed: cursor.option(Cursor::log_id)?,
        purged: cursor.option(Cursor::log_id)?,
        last: cursor.option(Cursor::log_id)?,
    };
    cursor.end()?;
    Ok(base)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::{Member, Membership};

    pub(crate) fn log_id() -> impl Strategy<Value = LogId> {
        (any::<u64>(), any::<u64>()).prop_map(|(term, index)| LogId { term, index })
    }

    fn membership() -> impl Strategy<Value = Membership> {
        proptest::collection::btree_map(any::<u64>().prop_map(NodeId), ".{0,8}", 1..5).prop_map(|names| Membership {
            configs: vec![names.keys().copied().collect()],
            members: names
                .into_iter()
                .map(|(id, name)| (id, Member { name, peer_addrs: vec!["a:1".into()], ..Member::default() }))
                .collect(),
        })
    }

    pub(crate) fn record() -> impl Strategy<Value = Record> {
        let payload = prop_oneof![
            Just(Payload::Blank),
            proptest::collection::vec(any::<u8>(), 0..200).prop_map(|v| Payload::Command(v.into())),
            membership().prop_map(Payload::Membership),
        ];
        let vote = (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, node, committed)| Vote {
            term,
            node: NodeId(node),
            committed,
        });
        prop_oneof![
            (log_id(), payload).prop_map(|(log_id, payload)| Record::Entry(Entry { log_id, payload })),
            vote.prop_map(Record::Vote),
            log_id().prop_map(Record::Committed),
            proptest::option::of(log_id()).prop_map(Record::Truncate),
            log_id().prop_map(Record::Purge),
        ]
    }

    proptest! {
        #[test]
        fn records_round_trip(records in proptest::collection::vec(record(), 0..20)) {
            let mut body = Vec::new();
            for record in &records {
                encode(record, &mut body);
            }
            let body = Bytes::from(body);
            let (mut at, mut read) = (0, Vec::new());
            while let Some((record, next)) = decode_at(&body, at).expect("valid") {
                read.push(record);
                at = next;
            }
            prop_assert_eq!(read, records);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let body = Bytes::from(bytes);
            let mut at = 0;
            while let Ok(Some((_, next))) = decode_at(&body, at) {
                at = next;
            }
            let _ = decode_base(&body);
        }

        #[test]
        fn bases_round_trip(ids in proptest::array::uniform3(proptest::option::of(log_id())), epoch: u64) {
            let base = Base { boot_epoch: epoch, committed: ids[0], purged: ids[1], last: ids[2], ..Base::default() };
            let mut body = Vec::new();
            encode_base(&base, &mut body);
            prop_assert_eq!(decode_base(&body), Ok(base));
        }
    }
}
