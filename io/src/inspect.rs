//! A data directory as text, for a person who wants to know what is in it. Changes nothing.

use std::fmt::{Display, Write};
use std::io;
use std::path::Path;

use quorate_core::LogId;
use quorate_core::admission::{self, Admission};
use quorate_core::disk::{Disk, File, OpenMode, read_file};
use quorate_core::founding::{self, FoundingRecord, PROMISE_FILE_NAME, Promise};
use quorate_core::identity;
use quorate_core::log::Damage;
use quorate_core::log::format::{BatchKind, LogIdentity, segment_name};
use quorate_core::log::record::{Base, Record};
use quorate_core::log::recovery::{DamageKind, Found, FoundBatch, Recovered, SegmentFacts, Tail, recover};

use crate::log_store::scan_dir;
use crate::store::StoreError;
use crate::store::redb;

/// What [`inspect`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inspection {
    /// For a person, several lines.
    pub text: String,
    /// The first thing that is damaged, with its file; a node would refuse to start, or rebuild what can be rebuilt.
    pub damage: Option<String>,
}

/// Describes the data directory `dir`: identity, founding record or admission, log, store; with `records` every record of the log.
/// A node may be using it, in which case what is being written meanwhile may look torn.
///
/// # Errors
/// The directory cannot be read, or holds no data of a node.
pub fn inspect<D: Disk>(disk: &D, dir: &Path, records: bool) -> io::Result<Inspection> {
    let names = disk.list(dir)?;
    let known = |name: &String| name == identity::FILE_NAME || name.ends_with(".seg") || name == founding::FILE_NAME;
    if !names.iter().any(known) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no node has kept data in this directory"));
    }
    let mut report = Report::default();
    report.in_use(disk, dir, &names)?;
    let identity = report.identity(disk, dir)?;
    report.founding(disk, dir)?;
    if ![founding::FILE_NAME, admission::FILE_NAME].iter().any(|file| names.iter().any(|name| name == file)) {
        report.promise(disk, dir)?;
    }
    report.admission(disk, dir)?;
    let applied = report.store(disk, dir)?;
    report.log(disk, dir, identity, applied, records)?;
    Ok(Inspection { text: report.text, damage: report.damage })
}

#[derive(Default)]
struct Report {
    text: String,
    damage: Option<String>,
}

fn or_none(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

/// The content of a file; `None` if it is not there.
fn content<D: Disk>(disk: &D, path: &Path) -> io::Result<Option<Vec<u8>>> {
    match read_file(disk, path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
    }
}

impl Report {
    fn line(&mut self, what: &str, text: impl Display) {
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{what:<10} {text}");
    }

    fn damaged(&mut self, what: &str, text: impl Display) {
        self.line(what, format_args!("DAMAGED: {text}"));
        self.damage.get_or_insert_with(|| text.to_string());
    }

    fn in_use<D: Disk>(&mut self, disk: &D, dir: &Path, names: &[String]) -> io::Result<()> {
        // Taking the lock makes its file; so only where it is.
        let locked = names.iter().any(|name| name == "lock")
            && match disk.lock(dir) {
                Ok(_) => false,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
                Err(error) => return Err(error),
            };
        let note = if locked { ", in use by a running node: what it writes meanwhile may look torn" } else { "" };
        self.line("directory", format_args!("{}{note}", dir.display()));
        Ok(())
    }

    fn identity<D: Disk>(&mut self, disk: &D, dir: &Path) -> io::Result<Option<LogIdentity>> {
        let path = dir.join(identity::FILE_NAME);
        match content(disk, &path)?.map(|bytes| identity::decode(&bytes)) {
            None => self.line("identity", "none: the first start of this node was interrupted"),
            Some(Ok(identity)) => {
                self.line("identity", format_args!("node {}", identity.node_id));
                return Ok(Some(identity));
            }
            Some(Err(error)) => self.damaged("identity", format_args!("{}: {error}", path.display())),
        }
        Ok(None)
    }

    fn founding<D: Disk>(&mut self, disk: &D, dir: &Path) -> io::Result<()> {
        let path = dir.join(founding::FILE_NAME);
        match content(disk, &path)?.map(|bytes| FoundingRecord::from_file(&bytes)) {
            None => self.line("founding", "none: this node has founded no cluster"),
            Some(Ok(record)) => {
                self.line("founding", format_args!("cluster {}", record.cluster_id()));
                if let Some(from) = record.forced_from() {
                    self.line("", format_args!("forced: its founder survived cluster {from}"));
                }
                for (id, member) in record.membership().members {
                    self.line(
                        "",
                        format_args!("founder {} is node {id} at {}", member.name, member.peer_addrs.join(" ")),
                    );
                }
            }
            Some(Err(error)) => self.damaged("founding", format_args!("{}: {error}", path.display())),
        }
        Ok(())
    }

    fn promise<D: Disk>(&mut self, disk: &D, dir: &Path) -> io::Result<()> {
        let path = dir.join(PROMISE_FILE_NAME);
        match content(disk, &path)?.map(|bytes| Promise::from_file(&bytes)) {
            None => {}
            Some(Ok(promise)) => match promise.record() {
                Some(record) => self.line("promise", format_args!("accepted the founding of {}", record.cluster_id())),
                None => self.line("promise", "to those who found a cluster; nothing is accepted"),
            },
            Some(Err(error)) => self.damaged("promise", format_args!("{}: {error}", path.display())),
        }
        Ok(())
    }

    fn admission<D: Disk>(&mut self, disk: &D, dir: &Path) -> io::Result<()> {
        let path = dir.join(admission::FILE_NAME);
        match content(disk, &path)?.map(|bytes| Admission::from_file(&bytes)) {
            None => {}
            Some(Ok(Admission { cluster, node, at })) => {
                self.line("admission", format_args!("node {node} to cluster {cluster}, by membership {at}"));
            }
            Some(Err(error)) => self.damaged("admission", format_args!("{}: {error}", path.display())),
        }
        Ok(())
    }

    /// Returns what the store has applied, for the log to be compared with; `None` if that cannot be read.
    fn store<D: Disk>(&mut self, disk: &D, dir: &Path) -> io::Result<Option<Option<LogId>>> {
        match redb::inspect(disk, &dir.join("store")) {
            Ok(None) => {
                self.line("store", "none: the first start of this node was interrupted");
                Ok(Some(None))
            }
            Ok(Some(store)) => {
                let applied = store.manifest.applied;
                self.line(
                    "store",
                    format_args!("{}: {} pairs, every block is whole", store.path.display(), store.pairs),
                );
                self.line("snapshot", format_args!("the store at entry {}", or_none(applied)));
                for (id, member) in store.manifest.membership.membership.members {
                    self.line(
                        "",
                        format_args!("member {} is node {id} at {}", member.name, member.peer_addrs.join(" ")),
                    );
                }
                Ok(Some(applied))
            }
            Err(StoreError::Io { file, source }) => {
                Err(io::Error::new(source.kind(), format!("{}: {source}", file.display())))
            }
            Err(error) => {
                self.damaged("store", error);
                self.line("next start", "rebuilds the store: from the log if all of it is there, else from a peer");
                Ok(None)
            }
        }
    }

    fn log<D: Disk>(
        &mut self,
        disk: &D,
        dir: &Path,
        identity: Option<LogIdentity>,
        applied: Option<Option<LogId>>,
        records: bool,
    ) -> io::Result<()> {
        let facts = scan_dir(disk, dir, identity).map_err(io::Error::other)?;
        for facts in facts.values() {
            let len = disk.open(&dir.join(segment_name(facts.segment)), OpenMode::Read)?.len()?;
            self.segment(facts, len, records);
        }
        let recovered = match (applied, recover(&facts, identity, applied.flatten())) {
            // The store cannot be read. What the log has let go of is there, or in a peer's.
            (None, Err(Damage { kind: DamageKind::StoreBehindPurge { purged, .. }, .. })) => {
                recover(&facts, identity, Some(purged))
            }
            (_, recovered) => recovered,
        };
        match recovered {
            Ok(recovered) => self.recovered(&recovered),
            Err(damage) => self.damaged("log", format_args!("{}/{damage}", dir.display())),
        }
        Ok(())
    }

    fn segment(&mut self, facts: &SegmentFacts, len: u64, records: bool) {
        let entries = || {
            facts.batches.iter().flat_map(|batch| &batch.records).filter_map(|found| match found {
                Found::Entry(id, ..) => Some(*id),
                Found::Other(_) => None,
            })
        };
        let tail = match facts.tail {
            Tail::Clean => "nothing",
            Tail::Torn => "a torn batch",
            Tail::Overtaken => "a bad batch before a good one",
        };
        let holds = match (entries().next(), entries().last()) {
            (Some(first), Some(last)) => format!("entries {first} to {last}"),
            _ => "no entries".to_owned(),
        };
        self.line(
            "segment",
            format_args!(
                "{}, {len} bytes: {} batches up to offset {}, behind them {tail}; {holds}",
                segment_name(facts.segment),
                facts.batches.len(),
                facts.end()
            ),
        );
        if let Err(error) = &facts.header {
            self.line("", format_args!("header: {error}"));
        }
        if let Some((offset, why)) = &facts.unreadable {
            self.line("", format_args!("offset {offset}: {why}"));
        }
        if records {
            facts.batches.iter().for_each(|batch| self.batch(batch, facts.base.as_ref()));
        }
    }

    fn batch(&mut self, batch: &FoundBatch, base: Option<&Base>) {
        let header = &batch.header;
        let kind = match header.kind {
            BatchKind::Base => "base",
            BatchKind::Data => "data",
            BatchKind::Seal => "seal",
        };
        self.line(
            "",
            format_args!("offset {:>10}  {kind} {}, {} bytes", header.offset, header.sequence, header.body_len),
        );
        if let (BatchKind::Base, Some(base)) = (header.kind, base) {
            self.line("", format_args!(
                "                   boot epoch {}, needs segments from {}, vote {}, committed {}, purged {}, last {}",
                base.boot_epoch, base.first_segment, or_none(base.vote), or_none(base.committed), or_none(base.purged), or_none(base.last)
            ));
        }
        for found in &batch.records {
            let text = match found {
                Found::Entry(id, place, membership) => {
                    let kind = if *membership { "membership" } else { "entry" };
                    format!("{kind} {id}, {} bytes at {}", place.len, place.offset)
                }
                Found::Other(Record::Vote(vote)) => format!("vote {vote}"),
                Found::Other(Record::Committed(id)) => format!("committed {id}"),
                Found::Other(Record::Truncate(after)) => format!("truncate after {}", or_none(*after)),
                Found::Other(Record::Purge(id)) => format!("purge up to {id}"),
                Found::Other(Record::Entry(entry)) => format!("entry {}", entry.log_id),
            };
            self.line("", format_args!("                   {text}"));
        }
    }

    fn recovered(&mut self, recovered: &Recovered) {
        let base = &recovered.resume.base;
        self.line(
            "log",
            format_args!(
                "{} entries, last {}, purged up to {}, committed at least up to {}",
                recovered.entries.len(),
                or_none(base.last),
                or_none(base.purged),
                or_none(base.committed)
            ),
        );
        self.line("vote", or_none(base.vote));
        self.line("starts", base.boot_epoch);
        if let Some((id, ..)) = recovered.entries.iter().rfind(|(_, _, membership)| *membership) {
            self.line("membership", format_args!("last changed by entry {id}"));
        }
        if let Some((segment, offset)) = recovered.cut {
            self.line(
                "next start",
                format_args!("cuts {} at offset {offset}: a flush that was never acknowledged", segment_name(segment)),
            );
        }
        if recovered.reset {
            self.line("next start", "resets the log to the snapshot that was installed last");
        }
        for segment in &recovered.resume.delete {
            self.line("next start", format_args!("removes {}, which nothing needs", segment_name(*segment)));
        }
    }
}
