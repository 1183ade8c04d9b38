//! What a frame says, for people.

use std::collections::BTreeMap;

use quorate_core::DecodeError;
use quorate_core::kv::Command;
use quorate_core::wire::{
    AppendRequest, AppendResponse, Frame, FrameKind, Hello, PullRequest, PulledPart, Refusal, Request, Response,
    SnapshotPart, SnapshotReply, VoteRequest, VoteResponse, Welcome,
};
use quorate_core::{Entry, LogId, NodeId, Payload, Vote};

use super::shorten;

/// Raft's ids of nodes and the names that people know them by.
pub(super) type Names = BTreeMap<u64, String>;

/// What a message is about, in the order of [`KINDS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Append,
    AppendReply,
    Heartbeat,
    HeartbeatReply,
    Vote,
    Snapshot,
    Forward,
    Founding,
    Handshake,
    Control,
}

/// The names of all [`Kind`]s, for the page's filter.
pub(super) const KINDS: [&str; 10] = [
    "append entries",
    "append reply",
    "heartbeat",
    "heartbeat reply",
    "vote",
    "snapshot",
    "forwarded request",
    "founding",
    "handshake",
    "ping and stream control",
];

/// A frame in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    /// What it is about.
    pub(super) kind: Kind,
    /// What it says.
    pub(super) text: String,
}

fn said(kind: Kind, text: impl Into<String>) -> Said {
    Said { kind, text: text.into() }
}

/// Puts a frame into words. Of an append's answer only its sender knows whether it was to a heartbeat.
pub(super) fn describe(frame: &Frame, names: &Names, answers_heartbeat: bool) -> Said {
    let payload = frame.payload.clone();
    let described = match frame.kind {
        FrameKind::Hello => Hello::decode(payload).map(|hello| {
            said(
                Kind::Handshake,
                format!("hello from {}, start {}, for {:?}", hello.name, hello.boot_epoch, hello.purpose),
            )
        }),
        FrameKind::Welcome => Welcome::decode(payload)
            .map(|it| said(Kind::Handshake, format!("welcome from {}, start {}", it.name, it.boot_epoch))),
        FrameKind::Refused => Refusal::decode(payload).map(|refusal| said(Kind::Handshake, refusal.to_string())),
        FrameKind::Request => Request::decode(frame.what, payload).map(|it| request(it, names)),
        FrameKind::Response => Response::decode(frame.what, payload).map(|it| response(it, names)),
        FrameKind::StreamItem => item(frame, names),
        FrameKind::StreamReply => reply(frame, names, answers_heartbeat),
        FrameKind::StreamEnd => Ok(said(Kind::Control, "end of stream")),
        FrameKind::Ping => Ok(said(Kind::Control, "ping")),
        FrameKind::Pong => Ok(said(Kind::Control, "pong")),
    };
    described.unwrap_or_else(|error| said(Kind::Control, format!("{:?} that cannot be read: {error}", frame.kind)))
}

fn item(frame: &Frame, names: &Names) -> Result<Said, DecodeError> {
    let payload = frame.payload.clone();
    if let Ok(pull) = PullRequest::decode(frame.what, payload.clone()) {
        return Ok(said(
            Kind::Snapshot,
            match pull {
                PullRequest::Begin { at_least } => format!("asks for a snapshot, at least {at_least}"),
                PullRequest::Next => "asks for the next part of a snapshot".to_owned(),
            },
        ));
    }
    if let Ok(part) = SnapshotPart::decode(frame.what, payload.clone()) {
        return Ok(said(
            Kind::Snapshot,
            match part {
                SnapshotPart::Begin { vote, meta } => {
                    format!("snapshot up to {}, {}", id(meta.last_log_id), said_by(&vote, names))
                }
                SnapshotPart::Chunk(bytes) => format!("snapshot chunk, {} B", bytes.len()),
                SnapshotPart::End(_) => "end of snapshot".to_owned(),
            },
        ));
    }
    AppendRequest::decode(payload).map(|it| append(&it, names))
}

fn reply(frame: &Frame, names: &Names, answers_heartbeat: bool) -> Result<Said, DecodeError> {
    let payload = frame.payload.clone();
    if let Ok(part) = PulledPart::decode(frame.what, payload.clone()) {
        return Ok(said(
            Kind::Snapshot,
            match part {
                PulledPart::Begin(_) => "begin of the snapshot that was asked for".to_owned(),
                PulledPart::Chunk(bytes) => format!("snapshot chunk, {} B", bytes.len()),
                PulledPart::End(_) => "end of snapshot".to_owned(),
                PulledPart::Failed(failure) => format!("no snapshot: {failure}"),
            },
        ));
    }
    if let Ok(reply) = SnapshotReply::decode(frame.what, payload.clone()) {
        return Ok(said(
            Kind::Snapshot,
            match reply {
                SnapshotReply::Taken => "snapshot part taken".to_owned(),
                SnapshotReply::Installed(vote) => format!("snapshot installed; {}", vote_text(&vote, names)),
                SnapshotReply::Failed(failure) => format!("snapshot failed: {failure}"),
            },
        ));
    }
    AppendResponse::decode(payload).map(|it| appended(&it, names, answers_heartbeat))
}

fn request(request: Request, names: &Names) -> Said {
    match request {
        Request::Append(request) => append(&request, names),
        Request::Vote(request) => said(Kind::Vote, format!("asks for a vote: {}", asks(&request, names))),
        Request::PreVote(request) => {
            said(Kind::Vote, format!("asks whether it would get a vote (pre-vote): {}", asks(&request, names)))
        }
        Request::TransferLeader(transfer) => said(
            Kind::Vote,
            format!("hands leadership to {}, log up to {}", name(transfer.to, names), id(transfer.last_log_id)),
        ),
        Request::Write(write) => said(Kind::Forward, format!("forwards {}", command(&write.command))),
        Request::ReadIndex => said(Kind::Forward, "asks from where it may read"),
        Request::Founding(bytes) => said(Kind::Founding, format!("founding record, {} B", bytes.len())),
        Request::Member(request) => said(Kind::Forward, format!("membership: {:?}", request.action)),
    }
}

fn response(response: Response, names: &Names) -> Said {
    match response {
        Response::Failed(failure) => said(Kind::Forward, format!("failed: {failure}")),
        Response::Append(response) => appended(&response, names, false),
        Response::Vote(response) => said(Kind::Vote, answers(&response, names)),
        Response::TransferLeader(Ok(())) => said(Kind::Vote, "takes leadership"),
        Response::TransferLeader(Err(refusal)) => said(Kind::Vote, format!("does not take leadership: {refusal:?}")),
        Response::Written { log_id, .. } => said(Kind::Forward, format!("written as entry {log_id}")),
        Response::ReadIndex(log_id) => said(Kind::Forward, format!("may read from entry {log_id}")),
        Response::NotLeader(None) => said(Kind::Forward, "does not lead, and knows nobody who does"),
        Response::NotLeader(Some(hint)) => said(Kind::Forward, format!("does not lead: ask {}", hint.member.name)),
        Response::Founding(bytes) => said(Kind::Founding, format!("answer about founding, {} B", bytes.len())),
        Response::Member(Ok(done)) => said(Kind::Forward, format!("membership {} has it", done.at)),
        Response::Member(Err(refusal)) => said(Kind::Forward, format!("membership stays: {refusal}")),
    }
}

fn append(request: &AppendRequest, names: &Names) -> Said {
    let by = said_by(&request.vote, names);
    let commit = format!("after {}, commit {}", id(request.prev), id(request.leader_commit));
    match &request.entries[..] {
        [] => said(Kind::Heartbeat, format!("heartbeat {by}, {commit}")),
        [one] => said(Kind::Append, format!("entry {}: {}; {by}, {commit}", one.log_id, entry(one))),
        [first, .., last] => {
            let count = request.entries.len();
            said(
                Kind::Append,
                format!("{count} entries {}..{}: {}, …; {by}, {commit}", first.log_id, last.log_id, entry(first)),
            )
        }
    }
}

fn appended(response: &AppendResponse, names: &Names, answers_heartbeat: bool) -> Said {
    let kind = if answers_heartbeat { Kind::HeartbeatReply } else { Kind::AppendReply };
    match response {
        AppendResponse::Success(upto) => said(kind, format!("has the log up to {}", id(*upto))),
        AppendResponse::Conflict(prev) => said(Kind::AppendReply, format!("conflict: has no entry {prev}")),
        AppendResponse::HigherVote(vote) => said(Kind::AppendReply, format!("rejects: {}", vote_text(vote, names))),
        AppendResponse::DiskFull => said(Kind::AppendReply, "rejects: disk full"),
    }
}

fn asks(request: &VoteRequest, names: &Names) -> String {
    let transfer = if request.leadership_transfer { ", leadership was handed over" } else { "" };
    let (term, who) = (request.vote.term, name(request.vote.node, names));
    format!("{who} for term {term}, log up to {}{transfer}", id(request.last_log_id))
}

fn answers(response: &VoteResponse, names: &Names) -> String {
    let answer = if response.granted { "grants the vote" } else { "refuses the vote" };
    format!("{answer}: {}, log up to {}", vote_text(&response.vote, names), id(response.last_log_id))
}

fn said_by(vote: &Vote, names: &Names) -> String {
    format!("from leader {} of term {}", name(vote.node, names), vote.term)
}

fn vote_text(vote: &Vote, names: &Names) -> String {
    let who = name(vote.node, names);
    match vote.committed {
        true => format!("{who} leads term {}", vote.term),
        false => format!("voted for {who} in term {}", vote.term),
    }
}

/// The name of a node; its id if nobody has said yet whose that is.
pub(super) fn name(node: NodeId, names: &Names) -> String {
    names.get(&node.0).cloned().unwrap_or_else(|| node.to_string())
}

fn id(log_id: Option<LogId>) -> String {
    log_id.map_or_else(|| "nothing".to_owned(), |log_id| log_id.to_string())
}

fn entry(entry: &Entry) -> String {
    match &entry.payload {
        Payload::Blank => "blank".to_owned(),
        Payload::Membership(membership) => {
            let voters = |config: &std::collections::BTreeSet<NodeId>| {
                let names = config.iter().map(|id| membership.members.get(id).map_or("?", |member| &member.name));
                names.collect::<Vec<_>>().join(" ")
            };
            format!("membership [{}]", membership.configs.iter().map(voters).collect::<Vec<_>>().join("] and ["))
        }
        Payload::Command(bytes) => command(bytes),
    }
}

fn command(bytes: &bytes::Bytes) -> String {
    let text = |bytes: &[u8]| shorten(&String::from_utf8_lossy(bytes), 40);
    match Command::decode(bytes) {
        Ok(Command::Put { key, document }) => format!("put {}={}", text(&key), text(&document.bytes())),
        Ok(Command::Delete { key }) => format!("delete {}", text(&key)),
        Err(_) => format!("command of {} B", bytes.len()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn frame(kind: FrameKind, (what, payload): (u8, Vec<Bytes>)) -> Frame {
        Frame { kind, what, id: 1, payload: payload.concat().into() }
    }

    #[test]
    fn frames_are_put_into_words() {
        let names = Names::from([(7, "n2".to_owned())]);
        let vote = Vote { term: 3, node: NodeId(7), committed: false };
        let leader = Vote { committed: true, ..vote };
        let ask = VoteRequest { vote, last_log_id: Some(LogId::new(2, 9)), leadership_transfer: false };
        let blank = Entry { log_id: LogId::new(3, 10), payload: Payload::Blank };
        let beat = AppendRequest { vote: leader, prev: Some(LogId::new(2, 9)), leader_commit: None, entries: vec![] };
        let full = AppendRequest { entries: vec![blank], ..beat.clone() };
        let success = AppendResponse::Success(Some(LogId::new(3, 10))).encode();
        let cases = [
            (frame(FrameKind::Request, Request::Vote(ask).encode()), Kind::Vote, "n2 for term 3, log up to 2.9"),
            (frame(FrameKind::StreamItem, (0, beat.encode())), Kind::Heartbeat, "heartbeat from leader n2 of term 3"),
            (frame(FrameKind::StreamItem, (0, full.encode())), Kind::Append, "entry 3.10: blank"),
            (frame(FrameKind::StreamReply, (0, success)), Kind::AppendReply, "has the log up to 3.10"),
            (
                frame(FrameKind::StreamItem, SnapshotPart::Chunk(Bytes::from_static(b"abc")).encode()),
                Kind::Snapshot,
                "3 B",
            ),
            (frame(FrameKind::StreamItem, PullRequest::Next.encode()), Kind::Snapshot, "next part"),
            (frame(FrameKind::Response, Response::NotLeader(None).encode()), Kind::Forward, "does not lead"),
            (frame(FrameKind::Ping, (0, vec![])), Kind::Control, "ping"),
        ];
        for (frame, kind, text) in cases {
            let said = describe(&frame, &names, false);
            assert_eq!(said.kind, kind, "{said:?}");
            assert!(said.text.contains(text), "{said:?}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_said_to_be_so() {
        for kind in [FrameKind::Hello, FrameKind::Request, FrameKind::Response, FrameKind::StreamReply] {
            let said = describe(&frame(kind, (99, vec![Bytes::from_static(b"\xff\xff")])), &Names::new(), false);
            assert!(said.text.contains("cannot be read"), "{said:?}");
        }
    }
}
