//! The replicated log's form on disk, as pure code: what bytes a batch is ([`mod@format`]), what records it holds
//! ([`record`]), in which order bytes and syncs reach the disk ([`writer`]), and what a directory found after a crash
//! means ([`recovery`]).
//!
//! One stream of records (entries, votes, committed, truncate, purge) in segment files, so that their order needs no
//! second file. Records are written in *flush batches*; batch N+1 is written only after batch N is durable. So after
//! a crash at most the last batch can be incomplete, and that one was never acknowledged.
//!
//! # A segment
//!
//! ```text
//! offset 0        4096                                    end of what was written            preallocated end
//! +---------------+--------+--------+--------------+------+----------------------------------+
//! | header, zeros | base   | seal   | data         | seal | zeros (or a torn batch)          |
//! +---------------+--------+--------+--------------+------+----------------------------------+
//!                 every batch starts at a multiple of 4096 and is padded with zeros to the next
//! ```
//!
//! A segment is preallocated, its header written, the file and then the directory synced before anything else goes
//! into it. A file that nothing needs any more may become another segment: it is cleared and gets its header, both are
//! synced, and only then it is renamed. A block that was synced with other bytes than zeros is never
//! written with others. The space for some batches to come is written with zeros from time to time, together with a
//! batch: syncing a batch is cheaper then.
//!
//! # Segment header (little endian)
//!
//! ```text
//!  0        8         12          16         32        40         48      52
//! +--------+---------+-----------+----------+---------+----------+-------+
//! | magic  | version | block len | log uuid | node id | segment  | crc   |
//! | QRSEG1 | u32     | u32       | u128     | u64     | u64      | u32   |
//! +--------+---------+-----------+----------+---------+----------+-------+
//! ```
//!
//! # Batch header (64 bytes, little endian), then the body, then zeros
//!
//! ```text
//!  0       4         6      7     8          24        32       40         48         52         56         60     64
//! +-------+---------+------+-----+----------+---------+--------+----------+----------+----------+----------+------+
//! | magic | version | kind | 0   | log uuid | segment | offset | sequence | prev crc | body len | body crc | crc  |
//! | QRBT  | u16     | u8   | u8  | u128     | u64     | u64    | u64      | u32      | u32      | u32      | u32  |
//! +-------+---------+------+-----+----------+---------+--------+----------+----------+----------+----------+------+
//! ```
//!
//! `prev crc` is the header CRC of the batch before, across segments, so batches form a chain. The log uuid is random
//! and never shown to a client: no command can contain bytes that look like a batch of this log.
//!
//! Kinds: **base** is the first batch of every segment and repeats what older segments would be needed for (boot
//! epoch, vote, committed, purged, last log id) and where the previous segment ends, so that old segments can go
//! without taking the only vote with them. **data** holds records. **seal** is empty: it is written and synced by
//! itself soon after the log goes idle, always after a base and before a vote counts as saved. A sealed batch has a
//! valid successor, so damage to it cannot be mistaken for a torn tail.

pub mod format;
pub mod record;
pub mod recovery;
pub mod writer;

pub use recovery::{Damage, Recovered, recover};
pub use writer::{Flush, LogWriter, WriteStep};
