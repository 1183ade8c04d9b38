//! What every write and read goes through, each part by itself: `cargo bench -p quorate-io`. Compare with another commit on
//! the same machine, not with figures from elsewhere.
#![allow(missing_docs, reason = "a program")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "measures real time")]

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::{BytesCount, ItemsCount};
use futures_util::stream;
use openraft::async_runtime::watch::Watch;
use openraft::storage::RaftStateMachine;
use quorate_core::kv::{self, Command, Document, Kv, Scan};
use quorate_core::log::format::LogIdentity;
use quorate_core::log::record::Record;
use quorate_core::log::recover;
use quorate_core::log::recovery::scan_segment;
use quorate_core::log::writer::{LogOptions, LogWriter, Resume, WriteStep};
use quorate_core::wire::AppendRequest;
use quorate_core::{Entry, LogId, NodeId, Payload, Vote};
use quorate_io::state_machine::{Location, StateMachineStore};
use quorate_io::tokio::{TokioPlatform, TokioRuntime};
use quorate_io::types::entry_to;
use tokio::runtime::Runtime;

type Store = StateMachineStore<TokioPlatform>;

const LOG: LogIdentity = LogIdentity { uuid: 1, node_id: NodeId(1) };
const VALUE_BYTES: usize = 256;
const KEYS: u64 = 10_000;
/// Entries of one message, of one flush, of one call of the state machine.
const TOGETHER: u64 = 16;

fn main() {
    divan::main();
}

fn key(number: u64) -> Bytes {
    format!("{:032}", number * 7919 % KEYS).into()
}

fn command(number: u64) -> Bytes {
    let value = format!("\"{}\"", "v".repeat(VALUE_BYTES - 2));
    let document = Document::parse(&value.into()).expect("a JSON string");
    Command::Put { key: key(number), document }.encode()
}

fn entries(from: u64, count: u64) -> Vec<Entry> {
    let entry = |index| Entry { log_id: LogId::new(1, index), payload: Payload::Command(command(index)) };
    (from..from + count).map(entry).collect()
}

fn request() -> AppendRequest {
    let vote = Vote { term: 1, node: NodeId(1), committed: true };
    AppendRequest {
        vote,
        prev: Some(LogId::new(1, 9)),
        leader_commit: Some(LogId::new(1, 9)),
        entries: entries(10, TOGETHER),
    }
}

#[divan::bench]
fn command_decode(bencher: Bencher<'_, '_>) {
    let bytes = command(1);
    bencher.bench_local(|| Command::decode(divan::black_box(&bytes)));
}

#[divan::bench]
fn append_request_encode(bencher: Bencher<'_, '_>) {
    let request = request();
    bencher.counter(ItemsCount::new(TOGETHER)).bench_local(|| divan::black_box(&request).encode());
}

#[divan::bench]
fn append_request_decode(bencher: Bencher<'_, '_>) {
    let bytes = Bytes::from(request().encode().concat());
    bencher.counter(ItemsCount::new(TOGETHER)).bench_local(|| AppendRequest::decode(divan::black_box(bytes.clone())));
}

/// What a flush writes, without the disk.
#[divan::bench]
fn log_append(bencher: Bencher<'_, '_>) {
    let (mut writer, _) = LogWriter::open(LOG, LogOptions::default(), Resume::default());
    writer.on_done();
    let entries = entries(0, TOGETHER);
    bencher.counter(ItemsCount::new(TOGETHER)).bench_local(|| {
        for entry in &entries {
            writer.push(Record::Entry(entry.clone()));
        }
        let flush = writer.next_batch();
        writer.on_done();
        flush
    });
}

/// Files as a log of some segments leaves them.
fn segments() -> BTreeMap<u64, Bytes> {
    let mut files = BTreeMap::<u64, Vec<u8>>::new();
    let (mut writer, mut flush) = LogWriter::open(LOG, LogOptions::default(), Resume::default());
    for round in 0..2_500 {
        for step in flush.steps {
            match step {
                WriteStep::Create { segment, len, header } => {
                    let mut file = vec![0; len as usize];
                    file[..header.len()].copy_from_slice(&header);
                    files.insert(segment, file);
                }
                WriteStep::Write { segment, offset, bytes } => {
                    let file = files.get_mut(&segment).expect("it was created");
                    file[offset as usize..offset as usize + bytes.len()].copy_from_slice(&bytes);
                }
                WriteStep::Trim { segment, len } => {
                    files.get_mut(&segment).expect("it was created").truncate(len as usize)
                }
                WriteStep::Sync { .. } | WriteStep::Delete { .. } => {}
            }
        }
        writer.on_done();
        for entry in entries(round * TOGETHER, TOGETHER) {
            writer.push(Record::Entry(entry));
        }
        flush = writer.next_batch().expect("entries are queued");
    }
    files.into_iter().map(|(segment, bytes)| (segment, bytes.into())).collect()
}

#[divan::bench(sample_count = 20)]
fn recovery_scan(bencher: Bencher<'_, '_>) {
    let files = segments();
    let bytes: usize = files.values().map(Bytes::len).sum();
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let facts = files.iter().map(|(segment, bytes)| (*segment, scan_segment(*segment, bytes, Some(LOG))));
        recover(&facts.collect(), Some(LOG), None).expect("it is whole").entries.len()
    });
}

/// A store in memory with all keys.
fn filled(runtime: &Runtime) -> (Store, u64) {
    let (_, durable) = <<TokioRuntime as openraft_rt::AsyncRuntime>::Watch as Watch>::channel(None);
    let opened = Store::open(Location::Memory, 16 << 20, Arc::new(Kv), durable);
    let mut store = runtime.block_on(opened).expect("memory does not fail");
    apply(runtime, &mut store, entries(0, KEYS));
    (store, KEYS)
}

fn apply(runtime: &Runtime, store: &mut Store, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry_to(entry).expect("a command"), None)));
    runtime.block_on(store.apply(stream::iter(entries.collect::<Vec<_>>()))).expect("memory does not fail");
}

#[divan::bench]
fn apply_puts(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().expect("a runtime");
    let (mut store, mut next) = filled(&runtime);
    bencher
        .counter(ItemsCount::new(TOGETHER))
        .with_inputs(|| {
            next += TOGETHER;
            entries(next - TOGETHER, TOGETHER)
        })
        .bench_local_values(|entries| apply(&runtime, &mut store, entries));
}

#[divan::bench]
fn get(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().expect("a runtime");
    let (store, _) = filled(&runtime);
    let key = key(77);
    bencher.bench_local(|| kv::get(&store.view(), divan::black_box(&key)));
}

#[divan::bench]
fn list_100_keys(bencher: Bencher<'_, '_>) {
    let runtime = Runtime::new().expect("a runtime");
    let (store, _) = filled(&runtime);
    let scan = Scan { prefix: b"", after: Some(b"0"), items_max: 100, bytes_max: 1 << 20 };
    bencher.counter(ItemsCount::new(100_u32)).bench_local(|| kv::list(&store.view(), scan).items.len());
}
