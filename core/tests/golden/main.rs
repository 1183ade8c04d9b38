//! Every format, to the byte, against files in `testdata/`: what was written once stays readable, and what is written
//! now is what those files hold.
//!
//! If one of these fails, a format has changed. Whoever has data in the old one must still be served: give the format a
//! new version, keep reading this one, and add files of the new version beside these. While no version has been
//! released, `QUORATE_BLESS=1 cargo test -p quorate-core --test golden` writes the files anew.

#![expect(clippy::disallowed_methods, reason = "a test may read its files; what it tests may not")]

mod hex;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quorate_core::admission::Admission;
use quorate_core::founding::{Card, Decision, Founding, FoundingList, FoundingRecord, Promise};
use quorate_core::kv::{self, Command, Document, Kv};
use quorate_core::log::format::LogIdentity;
use quorate_core::log::record::Record;
use quorate_core::log::recovery::{recover, scan_segment};
use quorate_core::log::writer::{LogOptions, LogWriter, Resume};
use quorate_core::log::{Flush, WriteStep};
use quorate_core::snapshot::{ChunkVerifier, ChunkWriter, Manifest, Trailer};
use quorate_core::wire::{
    AppendRequest, AppendResponse, FRAME_BYTES_MAX, Failure, Fault, ForwardWrite, FrameKind, Hello, LeaderHint,
    MemberAction, MemberDone, MemberRefusal, MemberRequest, PullRequest, PulledPart, Purpose, Refusal, RefusalCode,
    RefusalKind, Request, Response, SnapshotMeta, SnapshotPart, SnapshotReply, TransferLeader, TransferRefusal,
    VoteRequest, VoteResponse, Welcome, decode_frame, encode_frame,
};
use quorate_core::{
    ClusterId, Entry, LogId, Member, Membership, NodeId, Payload, StateMachine, StateMut, StateRef, StoredMembership,
    Vote, identity, store_file,
};

const LOG: LogIdentity = LogIdentity { uuid: 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff, node_id: NodeId(0xa1) };
const VOTE: Vote = Vote { term: 3, node: NodeId(0xa1), committed: true };

/// Compares `bytes` with the file of this name, and returns what the file holds.
fn golden(name: &str, bytes: &[u8]) -> Bytes {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata").join(format!("{name}.hex"));
    let text = hex::dump(bytes);
    if std::env::var_os("QUORATE_BLESS").is_some() {
        std::fs::write(&path, &text).expect("testdata can be written");
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    assert_eq!(text, kept, "{} holds other bytes than are written now", path.display());
    hex::parse(&kept).into()
}

fn membership() -> Membership {
    let member = |name: &str| Member {
        name: name.to_owned(),
        peer_addrs: vec![format!("{name}:2380")],
        api_addrs: vec![format!("{name}:8080")],
        ..Member::default()
    };
    Membership {
        configs: vec![BTreeSet::from([NodeId(0xa1), NodeId(0xa2)]), BTreeSet::from([NodeId(0xa2), NodeId(0xa3)])],
        members: BTreeMap::from([
            (NodeId(0xa1), member("n1")),
            (NodeId(0xa2), member("n2")),
            (NodeId(0xa3), member("n3")),
        ]),
    }
}

fn entry(term: u64, index: u64, payload: Payload) -> Entry {
    Entry { log_id: LogId::new(term, index), payload }
}

#[test]
fn log_segments() {
    let options = LogOptions { segment_bytes: 32 << 10, ..LogOptions::default() };
    let (mut writer, first) = LogWriter::open(LOG, options, Resume::default());
    let mut files: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut perform = |flush: &Flush| {
        for step in &flush.steps {
            match step {
                WriteStep::Create { segment, len, header } => {
                    let file = files.entry(*segment).or_default();
                    file.resize(*len as usize, 0);
                    file[..header.len()].copy_from_slice(header);
                }
                WriteStep::Write { segment, offset, bytes } => {
                    let file = files.get_mut(segment).expect("it was created");
                    file[*offset as usize..][..bytes.len()].copy_from_slice(bytes);
                }
                WriteStep::Trim { segment, len } => files.get_mut(segment).expect("created").truncate(*len as usize),
                WriteStep::Delete { segment } => _ = files.remove(segment),
                WriteStep::Sync { .. } => {}
            }
        }
    };
    perform(&first);
    writer.on_done();
    let batches = [
        vec![Record::Vote(VOTE)],
        vec![
            Record::Entry(entry(3, 0, Payload::Membership(membership()))),
            Record::Entry(entry(3, 1, Payload::Blank)),
            Record::Entry(entry(3, 2, Payload::Command(Bytes::from_static(b"a command")))),
            Record::Entry(entry(3, 3, Payload::Command(Bytes::from_static(b"another")))),
        ],
        vec![Record::Committed(LogId::new(3, 1)), Record::Truncate(Some(LogId::new(3, 2)))],
        vec![Record::Purge(LogId::new(3, 0))],
    ];
    for batch in batches {
        batch.into_iter().for_each(|record| _ = writer.push(record));
        let flush = writer.next_batch().expect("something is queued");
        perform(&flush);
        writer.on_done();
    }
    let facts = files.iter().map(|(number, file)| {
        let held = golden(&format!("log-segment-{number}-v1"), file);
        (*number, scan_segment(*number, &held, Some(LOG)))
    });
    let facts = facts.collect();
    let recovered = recover(&facts, Some(LOG), Some(LogId::new(3, 0))).expect("the files are whole");
    let base = &recovered.resume.base;
    assert_eq!((base.boot_epoch, base.vote), (1, Some(VOTE)));
    assert_eq!((base.committed, base.purged, base.last), {
        (Some(LogId::new(3, 1)), Some(LogId::new(3, 0)), Some(LogId::new(3, 2)))
    });
    let ids: Vec<LogId> = recovered.entries.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, [LogId::new(3, 1), LogId::new(3, 2)]);
}

#[test]
fn identity_file() {
    let held = golden("identity-v1", &identity::encode(LOG));
    assert_eq!(identity::decode(&held), Ok(LOG));
}

/// What a node that is alone on its list keeps, and founds.
fn founded(in_memory: bool) -> (Promise, FoundingRecord) {
    let addrs = vec!["n1:2380".to_owned()];
    let list = FoundingList { token: "quorate".to_owned(), members: [("n1".to_owned(), addrs.clone())].into() };
    let card = Card { name: "n1".to_owned(), node_id: 0xa1, peer_addrs: addrs, in_memory, ..Card::default() };
    let mut founding = Founding::new(list, card, None, Duration::ZERO).expect("it is on the list");
    let mut kept = Promise::default();
    loop {
        match founding.decide() {
            Decision::Keep(promise) => {
                kept = promise.clone();
                founding.kept(promise);
            }
            Decision::Found(record) => return (kept, record),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn founding_record() {
    let (promise, record) = founded(false);
    let held = golden("founding-v1", &record.to_file());
    assert_eq!(FoundingRecord::from_file(&held), Ok(record.clone()));
    // The cluster id is on the wire and in every client's hands.
    assert_eq!(record.cluster_id().to_string(), "fafced86db0049fa");
    let held = golden("promise-v1", &promise.to_file());
    assert_eq!(Promise::from_file(&held), Ok(promise));
    let (_, record) = founded(true);
    let held = golden("founding-memory-v1", &record.to_file());
    assert_eq!(FoundingRecord::from_file(&held), Ok(record.clone()));
    let forced = FoundingRecord::forced(record.cluster_id(), 7, "quorate", "n1", NodeId(0xa1), &[]).done();
    let held = golden("founding-forced-v1", &forced.to_file());
    assert_eq!(FoundingRecord::from_file(&held), Ok(forced));
}

#[test]
fn admission() {
    let admission = Admission { cluster: ClusterId(0xc1), node: NodeId(0xa4), at: LogId::new(3, 13) };
    let held = golden("admission-v1", &admission.to_file());
    assert_eq!(Admission::from_file(&held), Ok(admission));
}

#[test]
fn snapshot() {
    let pairs = [("a", "one"), ("b", ""), ("c", "three")];
    let mut writer = ChunkWriter::default();
    for (key, value) in pairs {
        writer.push(key.as_bytes(), value.as_bytes()).expect("small");
    }
    let chunk = golden("snapshot-chunk-v1", &writer.finish_chunk().expect("three pairs"));
    let trailer = golden("snapshot-trailer-v1", &writer.trailer().encode());
    let mut verifier = ChunkVerifier::default();
    let read: Vec<_> =
        verifier.chunk(&chunk).expect("whole").pairs.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(read, pairs.map(|(key, value)| (Bytes::from(key), Bytes::from(value))));
    verifier.finish(&Trailer::decode(&trailer).expect("whole")).expect("they belong together");

    let membership = StoredMembership { log_id: Some(LogId::new(2, 5)), membership: membership() };
    let manifest = Manifest { applied: Some(LogId::new(2, 7)), membership };
    let held = golden("snapshot-manifest-v1", &manifest.encode());
    assert_eq!(Manifest::decode(&held), Ok(manifest));
}

fn frame(kind: FrameKind, what: u8, payload: Vec<Bytes>) -> Vec<u8> {
    encode_frame(kind, what, 77, payload).expect("small").concat()
}

fn unframe(held: &Bytes) -> (u8, Bytes) {
    let mut buf = BytesMut::from(&held[..]);
    let frame = decode_frame(&mut buf, FRAME_BYTES_MAX).expect("whole").expect("complete");
    assert!(buf.is_empty() && frame.id == 77);
    (frame.what, frame.payload)
}

/// Compares a message in its frame with the file of this name, and takes what the file holds out of its frame.
fn held(name: &str, kind: FrameKind, (what, payload): (u8, Vec<Bytes>)) -> (u8, Bytes) {
    unframe(&golden(name, &frame(kind, what, payload)))
}

#[test]
fn handshake() {
    let hello = Hello {
        version_min: 1,
        version_max: 2,
        cluster_id: ClusterId(0xc1),
        node_id: NodeId(0xa1),
        boot_epoch: 9,
        name: "n1".to_owned(),
        expect: Some(NodeId(0xa2)),
        purpose: Purpose::Bulk,
        membership: None,
    };
    let held = golden("wire-hello-v1", &frame(FrameKind::Hello, 0, hello.encode()));
    assert_eq!(Hello::decode(unframe(&held).1), Ok(hello.clone()));
    let hello = Hello { membership: Some(LogId::new(3, 13)), ..hello };
    let held = golden("wire-hello-member-v1", &frame(FrameKind::Hello, 0, hello.encode()));
    assert_eq!(Hello::decode(unframe(&held).1), Ok(hello));
    let welcome = Welcome {
        version: 1,
        cluster_id: ClusterId(0xc1),
        node_id: NodeId(0xa2),
        boot_epoch: 4,
        name: "n2".to_owned(),
    };
    let held = golden("wire-welcome-v1", &frame(FrameKind::Welcome, 0, welcome.encode()));
    assert_eq!(Welcome::decode(unframe(&held).1), Ok(welcome));
    let refusal = Refusal::new(RefusalCode::OtherCluster, "this is cluster c2");
    let held = golden("wire-refusal-v1", &frame(FrameKind::Refused, 0, refusal.encode()));
    assert_eq!(Refusal::decode(unframe(&held).1), Ok(refusal));
}

fn requests() -> Vec<(&'static str, Request)> {
    let vote = Vote { committed: false, ..VOTE };
    let ask = VoteRequest { vote, last_log_id: Some(LogId::new(2, 9)), leadership_transfer: true };
    let append = AppendRequest {
        vote: VOTE,
        prev: Some(LogId::new(2, 9)),
        leader_commit: Some(LogId::new(2, 8)),
        entries: vec![
            entry(3, 10, Payload::Blank),
            entry(3, 11, Payload::Command(Bytes::from_static(b"a command"))),
            entry(3, 12, Payload::Membership(membership())),
        ],
    };
    let transfer = TransferLeader { from: VOTE, to: NodeId(0xa2), last_log_id: Some(LogId::new(3, 12)) };
    let addrs = || vec!["n4:2380".to_owned()];
    let n4 = Member {
        name: "n4".to_owned(),
        peer_addrs: addrs(),
        stays_learner: true,
        in_memory: true,
        replaces: Some(NodeId(0xa2)),
        ..Member::default()
    };
    let member = |action| Request::Member(MemberRequest { deadline_ms: 4000, action });
    let write = ForwardWrite { origin: NodeId(0xa2), hops: 1, deadline_ms: 4000, command: Bytes::from_static(b"put") };
    vec![
        ("append", Request::Append(append)),
        ("vote", Request::Vote(ask)),
        ("pre-vote", Request::PreVote(ask)),
        ("transfer-leader", Request::TransferLeader(transfer)),
        ("write", Request::Write(write)),
        ("read-index", Request::ReadIndex),
        ("founding", Request::Founding(Bytes::from_static(b"a card"))),
        ("member-join", member(MemberAction::Join { id: NodeId(0xa4), member: n4 })),
        ("member-add", member(MemberAction::Add { name: "n4".to_owned(), peer_addrs: addrs(), stays_learner: true })),
        ("member-admit", member(MemberAction::Admit { cluster: ClusterId(0xc1), at: LogId::new(3, 13) })),
        ("member-remove", member(MemberAction::Remove { who: "n4".to_owned(), force: true })),
        ("member-promote", member(MemberAction::Promote { who: "n4".to_owned() })),
        ("member-transfer", member(MemberAction::Transfer { to: Some("n2".to_owned()) })),
        ("member-moved", member(MemberAction::Moved { id: NodeId(0xa4), peer_addrs: addrs(), api_addrs: addrs() })),
    ]
}

fn responses() -> Vec<(&'static str, Response)> {
    let vote = VoteResponse { vote: VOTE, granted: true, last_log_id: Some(LogId::new(3, 12)) };
    let member = membership().members[&NodeId(0xa2)].clone();
    let done = MemberDone { cluster: ClusterId(0xc1), node: NodeId(0xa4), at: LogId::new(3, 13) };
    let refusal = TransferRefusal::LogNotFlushed { expected: Some(LogId::new(3, 12)), actual: None };
    vec![
        ("append", Response::Append(AppendResponse::Success(Some(LogId::new(3, 12))))),
        ("append-conflict", Response::Append(AppendResponse::Conflict(LogId::new(2, 9)))),
        ("append-higher-vote", Response::Append(AppendResponse::HigherVote(VOTE))),
        ("vote", Response::Vote(vote)),
        ("transfer-leader", Response::TransferLeader(Err(refusal))),
        ("written", Response::Written { log_id: LogId::new(3, 12), response: Bytes::from_static(b"done") }),
        ("read-index", Response::ReadIndex(LogId::new(3, 12))),
        ("not-leader", Response::NotLeader(Some(LeaderHint { id: NodeId(0xa2), member }))),
        ("failed", Response::Failed(Failure::unknown(Fault::Storage("no".to_owned())))),
        ("founding", Response::Founding(Bytes::from_static(b"a card"))),
        ("member-done", Response::Member(Ok(done))),
        ("member-refused", Response::Member(Err(MemberRefusal::new(RefusalKind::WouldLoseQuorum, "no")))),
    ]
}

#[test]
fn messages() {
    for (name, request) in requests() {
        let (what, payload) = held(&format!("wire-request-{name}-v1"), FrameKind::Request, request.encode());
        assert_eq!(Request::decode(what, payload), Ok(request));
    }
    for (name, response) in responses() {
        let (what, payload) = held(&format!("wire-response-{name}-v1"), FrameKind::Response, response.encode());
        assert_eq!(Response::decode(what, payload), Ok(response));
    }
}

#[test]
fn snapshot_stream() {
    let last_membership = StoredMembership { log_id: Some(LogId::new(2, 5)), membership: membership() };
    let meta = SnapshotMeta { last_log_id: Some(LogId::new(3, 12)), last_membership };
    for (name, part) in [
        ("begin", SnapshotPart::Begin { vote: VOTE, meta }),
        ("chunk", SnapshotPart::Chunk(Bytes::from_static(b"a chunk"))),
        ("end", SnapshotPart::End(Bytes::from_static(b"a trailer"))),
    ] {
        let (what, payload) = held(&format!("wire-snapshot-{name}-v1"), FrameKind::Request, part.encode());
        assert_eq!(SnapshotPart::decode(what, payload), Ok(part));
    }
    for (name, reply) in [
        ("taken", SnapshotReply::Taken),
        ("installed", SnapshotReply::Installed(VOTE)),
        ("failed", SnapshotReply::Failed(Failure::not_applied(Fault::Stopping))),
    ] {
        let (what, payload) = held(&format!("wire-snapshot-{name}-v1"), FrameKind::Response, reply.encode());
        assert_eq!(SnapshotReply::decode(what, payload), Ok(reply));
    }
}

#[test]
fn pulled_snapshot() {
    for (name, request) in [("begin", PullRequest::Begin { at_least: LogId::new(3, 12) }), ("next", PullRequest::Next)]
    {
        let (what, payload) = held(&format!("wire-pull-{name}-v1"), FrameKind::Request, request.encode());
        assert_eq!(PullRequest::decode(what, payload), Ok(request));
    }
    for (name, part) in [
        ("manifest", PulledPart::Begin(Bytes::from_static(b"a manifest"))),
        ("chunk", PulledPart::Chunk(Bytes::from_static(b"a chunk"))),
        ("end", PulledPart::End(Bytes::from_static(b"a trailer"))),
        ("failed", PulledPart::Failed(Failure::not_applied(Fault::Stopping))),
    ] {
        let (what, payload) = held(&format!("wire-pulled-{name}-v1"), FrameKind::Response, part.encode());
        assert_eq!(PulledPart::decode(what, payload), Ok(part));
    }
}

#[test]
fn store_files() {
    let held = golden("store-current-v1", &store_file::encode_current(7));
    assert_eq!(store_file::decode_current(&held), Ok(7));
    let block = |byte: u8| vec![byte; store_file::BLOCK_BYTES].into();
    let newest = store_file::Header { sequence: 5, len: 3 * 4096, block: block(0xb0) };
    let held = golden("store-header-v1", &newest.encode(7));
    let read = store_file::decode_headers(&[&held[..], &held].concat(), 7).expect("it is whole");
    assert_eq!(read.newest, newest);
    let sums = [1, 1024, 1025].map(|n| store_file::checksum(7, n, &vec![n as u8; store_file::BLOCK_BYTES]));
    golden("store-sums-v1", &sums.map(u32::to_le_bytes).concat());
}

/// A state in memory.
#[derive(Default)]
struct State(BTreeMap<Bytes, Bytes>);

impl StateRef for State {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.0.get(key).cloned()
    }

    fn range(
        &self,
        from: std::ops::Bound<&[u8]>,
        to: std::ops::Bound<&[u8]>,
        each: &mut dyn FnMut(&Bytes, &Bytes) -> bool,
    ) {
        let _ = self.0.range::<[u8], _>((from, to)).all(|(key, value)| each(key, value));
    }
}

impl StateMut for State {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.0.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

/// Commands are in the log for as long as it lasts, and so are their effects in the state: replicas of two versions must
/// do the same with them.
#[test]
fn key_value_machine() {
    let document = Document::parse(&Bytes::from_static(br#"{"max": 9007199254740993}"#)).expect("JSON");
    let put = Command::Put { key: Bytes::from_static(b"limits"), document };
    let delete = Command::Delete { key: Bytes::from_static(b"gone") };
    let mut state = State::default();
    for (index, (name, command)) in [("put", put), ("delete", delete)].into_iter().enumerate() {
        let held = golden(&format!("kv-command-{name}-v1"), &command.encode());
        assert_eq!(Command::decode(&held).as_ref(), Ok(&command));
        let response = Kv.apply(LogId::new(1, index as u64), &held, &mut state);
        let held = golden(&format!("kv-response-{name}-v1"), &response);
        let outcome = kv::Response::decode(&held).expect("whole").outcome;
        assert!(!matches!(outcome, kv::Outcome::Invalid { .. }), "{outcome:?}");
    }
    let pairs = state.0.iter().flat_map(|(key, value)| {
        let len = |bytes: &Bytes| (bytes.len() as u32).to_le_bytes();
        [&len(key)[..], key, &len(value), value].concat()
    });
    golden("kv-state-v1", &pairs.collect::<Vec<u8>>());
    assert_eq!(kv::get(&state, b"limits").map(|kv| kv.mod_revision), Some(1));
}
