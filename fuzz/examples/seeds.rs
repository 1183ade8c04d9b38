//! Writes the corpus that fuzzing starts from: valid encodings, and decisions that lead deep into the log.
//!
//! `cargo run --example seeds` in this folder; files that are there are written again, others stay.

use std::path::Path;

use bytes::Bytes;
use quorate_core::admission::Admission;
use quorate_core::founding::{Card, FoundingRecord};
use quorate_core::kv::{Command, Document, Outcome, Response as KvResponse};
use quorate_core::log::LogWriter;
use quorate_core::log::format::{LogIdentity, encode_segment_header};
use quorate_core::log::record::{self, Base, Record};
use quorate_core::log::writer::{LogOptions, Resume, WriteStep};
use quorate_core::snapshot::{ChunkWriter, Manifest};
use quorate_core::store_file::{BLOCK_BYTES, Header, encode_current};
use quorate_core::wire::*;
use quorate_core::{ClusterId, Entry, LogId, Member, Membership, NodeId, Payload, StoredMembership, Vote, identity};

const LOG: LogIdentity = LogIdentity { uuid: 0xfeed, node_id: NodeId(7) };

fn write(target: &str, name: &str, content: impl AsRef<[u8]>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    std::fs::create_dir_all(&dir).expect("the folder can be made");
    std::fs::write(dir.join(format!("seed-{name}")), content).expect("the file can be written");
}

fn membership() -> Membership {
    let member = |name: &str| Member {
        name: name.to_owned(),
        peer_addrs: vec![format!("{name}:2380")],
        api_addrs: vec![format!("{name}:8080")],
        stays_learner: name == "c",
        in_memory: name == "b",
        replaces: (name == "c").then_some(NodeId(2)),
    };
    let members = [(NodeId(1), member("a")), (NodeId(2), member("b")), (NodeId(3), member("c"))];
    let configs = vec![[NodeId(1), NodeId(2)].into(), [NodeId(2), NodeId(3)].into()];
    Membership { configs, members: members.into() }
}

fn entries() -> Vec<Entry> {
    let payloads =
        [Payload::Blank, Payload::Membership(membership()), Payload::Command(Bytes::from_static(b"command"))];
    (0..).zip(payloads).map(|(i, payload)| Entry { log_id: LogId::new(1 + i / 2, i), payload }).collect()
}

fn vote(committed: bool) -> Vote {
    Vote { term: 2, node: NodeId(1), committed }
}

fn messages() {
    let last_log_id = Some(LogId::new(2, 2));
    let (expected, actual) = (vote(true), vote(false));
    let ask = VoteRequest { vote: vote(false), last_log_id, leadership_transfer: true };
    let append = AppendRequest { vote: vote(true), prev: None, leader_commit: last_log_id, entries: entries() };
    let command = Bytes::from_static(b"command");
    let requests = [
        Request::Append(append),
        Request::Vote(ask),
        Request::TransferLeader(TransferLeader { from: vote(true), to: NodeId(2), last_log_id }),
        Request::Write(ForwardWrite { origin: NodeId(3), hops: 1, deadline_ms: 500, command: command.clone() }),
        Request::Founding(prost_card().into()),
    ];
    let join = MemberAction::Join { id: NodeId(3), member: membership().members[&NodeId(3)].clone() };
    let remove = MemberAction::Remove { who: "a".to_owned(), force: true };
    let done = MemberDone { cluster: ClusterId(5), node: NodeId(3), at: LogId::new(1, 1) };
    let members = [
        Request::Member(MemberRequest { deadline_ms: 500, action: join }).encode(),
        Request::Member(MemberRequest { deadline_ms: 500, action: remove }).encode(),
        Response::Member(Ok(done)).encode(),
        Response::Member(Err(MemberRefusal::new(RefusalKind::Taken, "taken"))).encode(),
    ];
    let member = membership().members[&NodeId(1)].clone();
    let responses = [
        Response::Failed(Failure::unknown(Fault::TooLarge { bytes: 9, bytes_max: 8 })),
        Response::Failed(Failure::not_applied(Fault::Storage("full".to_owned()))),
        Response::Append(AppendResponse::Conflict(LogId::new(1, 1))),
        Response::Vote(VoteResponse { vote: vote(false), granted: true, last_log_id }),
        Response::TransferLeader(Err(TransferRefusal::VoteChanged { expected, actual })),
        Response::Written { log_id: LogId::new(2, 3), response: command.clone() },
        Response::NotLeader(Some(LeaderHint { id: NodeId(1), member })),
    ];
    let last_membership = StoredMembership { log_id: Some(LogId::new(1, 1)), membership: membership() };
    let begin = SnapshotPart::Begin { vote: vote(true), meta: SnapshotMeta { last_log_id, last_membership } };
    let reply = SnapshotReply::Installed(vote(false));
    let requests = requests.iter().map(Request::encode);
    let all =
        requests.chain(responses.iter().map(Response::encode)).chain([begin.encode(), reply.encode()]).chain(members);
    for (n, (what, parts)) in all.enumerate() {
        write("message", &format!("wire-{n:02}"), [&[what][..], &parts.concat()].concat());
    }
    let mut body = vec![0];
    let others = [Record::Vote(vote(true)), Record::Truncate(last_log_id), Record::Purge(LogId::new(1, 1))];
    entries().into_iter().map(Record::Entry).chain(others).for_each(|r| record::encode(&r, &mut body));
    write("message", "records", body);
    let mut body = vec![0];
    record::encode_base(&Base { vote: Some(vote(true)), last: last_log_id, ..Base::default() }, &mut body);
    write("message", "base", body);
    write("message", "identity", [&[0][..], &identity::encode(LOG)].concat());
    let admission = Admission { cluster: ClusterId(5), node: NodeId(7), at: LogId::new(1, 1) };
    write("message", "admission", [&[0][..], &admission.to_file()].concat());
}

fn prost_card() -> Vec<u8> {
    let card = Card { name: "a".to_owned(), node_id: 1, peer_addrs: vec!["a:2380".to_owned()], ..Card::default() };
    let record = FoundingRecord::alone("t", &card.name, NodeId(card.node_id), &card.peer_addrs);
    let file = record.to_file();
    write("message", "founding", [&[0][..], &file].concat());
    file[4..].to_vec()
}

fn frames() {
    let hello = Hello {
        version_min: 1,
        version_max: 1,
        cluster_id: ClusterId(5),
        node_id: NodeId(1),
        boot_epoch: 3,
        name: "node".to_owned(),
        expect: Some(NodeId(2)),
        purpose: Purpose::Bulk,
        membership: Some(LogId::new(1, 1)),
    };
    let welcome =
        Welcome { version: 1, cluster_id: ClusterId(5), node_id: NodeId(2), boot_epoch: 1, name: "n2".to_owned() };
    let refusal = Refusal::new(RefusalCode::OtherCluster, "another cluster");
    let head = [3, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0];
    for (kind, name, parts) in [
        (FrameKind::Hello, "hello", hello.encode()),
        (FrameKind::Welcome, "welcome", welcome.encode()),
        (FrameKind::Refused, "refusal", refusal.encode()),
        (FrameKind::Ping, "ping", vec![]),
    ] {
        let payload = parts.concat();
        write("frame", name, [&head[..], payload.get(8..).unwrap_or(&[])].concat());
        let stream = encode_frame(kind, 0, 1, parts).expect("it is small").concat();
        write("frame", &format!("{name}-frames"), [&head[..], &stream, &stream].concat());
    }
}

fn snapshots() {
    let mut writer = ChunkWriter::default();
    for key in 0..9 {
        writer.push(&[key], &[key; 5]).expect("it is small");
    }
    let chunk = writer.finish_chunk().expect("there are pairs");
    write("snapshot", "chunk", &chunk);
    // The fuzz target puts the checksum right: sequence, count, body.
    write("snapshot", "chunk-unsealed", [&chunk[8..20], &chunk[28..]].concat());
    write("snapshot", "trailer", writer.trailer().encode());
    let membership = StoredMembership { log_id: Some(LogId::new(1, 1)), membership: membership() };
    let manifest = Manifest { applied: Some(LogId::new(2, 9)), membership }.encode();
    write("snapshot", "manifest", &manifest);
    write("snapshot", "manifest-unsealed", &manifest[16..]);
    for change in 0..6 {
        let mut input = vec![2, 1, change, 77, 0, 1, 0];
        (0..9).for_each(|key| input.extend_from_slice(&[1, 3, key, 1, 2, 3]));
        write("snapshot", &format!("change-{change}"), input);
    }
}

fn commands() {
    let document = |text: &'static str| Document::parse(&Bytes::from_static(text.as_bytes())).expect("it is JSON");
    let text = r#" {"a":[1,-0.5e7,"\u00e9"],"b":null} "#;
    let put = Command::Put { key: Bytes::from_static(b"key"), document: document(text) };
    write("kv_command", "put", put.encode());
    write("kv_command", "delete", Command::Delete { key: Bytes::from_static(b"key") }.encode());
    for (name, outcome) in [
        ("put-done", Outcome::Put { create_revision: 3, version: 2 }),
        ("delete-done", Outcome::Delete { deleted: true }),
        ("invalid", Outcome::Invalid { reason: "no".to_owned() }),
    ] {
        write("kv_command", name, KvResponse { revision: 9, outcome }.encode());
    }
    write("kv_command", "document", text);
    let put = [&[0, 1, 2][..], b"12k"].concat();
    let mut script = put.repeat(2);
    script.extend_from_slice(&[1, 1, 0, b'k', 1, 1, 0, b'k', 0, 2, 2, b'{', b'}', b'k', b'l', 2, 0, 3, 1, 2, 3]);
    write("kv_command", "script", script);
}

fn logs() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    for mode in 1..4_u8 {
        for n in 0..5 {
            let input: Vec<u8> = std::iter::once(mode).chain((0..160 + 40 * n).map(|_| byte())).collect();
            write("log_recovery", &format!("random-{mode}-{n}"), input);
        }
    }
    let (_, first) = LogWriter::open(LOG, LogOptions { segment_bytes: 0, batch_bytes_max: 99 }, Resume::default());
    let mut file = encode_segment_header(LOG, 1);
    for step in &first.steps {
        if let WriteStep::Write { bytes, .. } = step {
            file.extend_from_slice(bytes);
        }
    }
    let head = [0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
    write("log_recovery", "one-segment", [&head[..], &file].concat());
    write("log_recovery", "empty", [0, 0, 0]);
}

fn store_files() {
    let header = |sequence, len| Header { sequence, len, block: vec![3; BLOCK_BYTES].into() };
    let (old, new) = (header(4, 8192), header(5, 12_288));
    write("store_file", "header", [new.encode(7), new.encode(7)].concat());
    write("store_file", "between-two-writes", [new.encode(7), old.encode(7)].concat());
    write("store_file", "torn-header", [old.encode(7), vec![0; 100]].concat());
    write("store_file", "current", encode_current(7));
    let decisions: Vec<u8> = (0..60_u32).map(|n| (n * 37 + 11) as u8).collect();
    write("store_file", "decisions", decisions);
}

fn main() {
    messages();
    frames();
    snapshots();
    commands();
    logs();
    store_files();
}
