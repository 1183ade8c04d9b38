//! Every message round-trips; bytes that are none are errors.

use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::proto::tests::{bytes, log_id, member, membership, vote};
use crate::wire::append::tests::append_request;
use crate::wire::failure::Fault;
use crate::wire::member::tests::{member_reply, member_request};

fn vote_request() -> impl Strategy<Value = VoteRequest> {
    (vote(), option::of(log_id()), any::<bool>()).prop_map(|(vote, last_log_id, leadership_transfer)| VoteRequest {
        vote: Vote { committed: false, ..vote },
        last_log_id,
        leadership_transfer,
    })
}

fn request() -> impl Strategy<Value = Request> {
    prop_oneof![
        append_request().prop_map(Request::Append),
        vote_request().prop_map(Request::Vote),
        vote_request().prop_map(Request::PreVote),
        (vote(), any::<u64>(), option::of(log_id())).prop_map(|(from, to, last_log_id)| {
            Request::TransferLeader(TransferLeader { from, to: NodeId(to), last_log_id })
        }),
        (any::<(u64, u32, u64)>(), bytes()).prop_map(|((origin, hops, deadline_ms), command)| {
            Request::Write(ForwardWrite { origin: NodeId(origin), hops, deadline_ms, command })
        }),
        Just(Request::ReadIndex),
        bytes().prop_map(Request::Founding),
        member_request().prop_map(Request::Member),
    ]
}

fn failure() -> impl Strategy<Value = Failure> {
    let fault = prop_oneof![
        Just(Fault::NoLeader),
        Just(Fault::LeaderChanged),
        Just(Fault::Timeout),
        Just(Fault::Overloaded),
        Just(Fault::DiskFull),
        any::<(u64, u64)>().prop_map(|(bytes, bytes_max)| Fault::TooLarge { bytes, bytes_max }),
        Just(Fault::Stopping),
        ".{0,9}".prop_map(Fault::NotReady),
        ".{0,9}".prop_map(Fault::Unreachable),
        ".{0,9}".prop_map(Fault::Storage),
        ".{0,9}".prop_map(Fault::Invalid),
        ".{0,9}".prop_map(Fault::Other),
    ];
    (any::<bool>(), fault).prop_map(|(unknown, fault)| Failure { unknown, fault })
}

fn response() -> impl Strategy<Value = Response> {
    let refusal = prop_oneof![
        (vote(), vote()).prop_map(|(expected, actual)| TransferRefusal::VoteChanged { expected, actual }),
        (option::of(log_id()), option::of(log_id()))
            .prop_map(|(expected, actual)| TransferRefusal::LogNotFlushed { expected, actual }),
    ];
    prop_oneof![
        failure().prop_map(Response::Failed),
        (vote(), any::<bool>(), option::of(log_id()))
            .prop_map(|(vote, granted, last_log_id)| { Response::Vote(VoteResponse { vote, granted, last_log_id }) }),
        option::of(refusal).prop_map(|refusal| Response::TransferLeader(refusal.map_or(Ok(()), Err))),
        (log_id(), bytes()).prop_map(|(log_id, response)| Response::Written { log_id, response }),
        log_id().prop_map(Response::ReadIndex),
        option::of((any::<u64>(), member()))
            .prop_map(|hint| { Response::NotLeader(hint.map(|(id, member)| LeaderHint { id: NodeId(id), member })) }),
        bytes().prop_map(Response::Founding),
        member_reply().prop_map(Response::Member),
    ]
}

fn joined((what, parts): (u8, Vec<Bytes>)) -> (u8, Bytes) {
    (what, parts.concat().into())
}

proptest! {
    #[test]
    fn round_trips(request in request(), response in response(), vote in vote(), failure in failure()) {
        let (what, payload) = joined(request.encode());
        prop_assert_eq!(Request::decode(what, payload), Ok(request));
        let (what, payload) = joined(response.encode());
        prop_assert_eq!(Response::decode(what, payload), Ok(response));
        for reply in [SnapshotReply::Taken, SnapshotReply::Installed(vote), SnapshotReply::Failed(failure)] {
            let (what, payload) = joined(reply.encode());
            prop_assert_eq!(SnapshotReply::decode(what, payload), Ok(reply));
        }
    }

    #[test]
    fn a_snapshot_is_not_newer_than_its_sender(
        vote in vote(), last in option::of(log_id()), at in option::of(log_id()), membership in membership(),
    ) {
        let last_membership = StoredMembership { log_id: at, membership };
        let part = SnapshotPart::Begin { vote, meta: SnapshotMeta { last_log_id: last, last_membership } };
        let (what, payload) = joined(part.encode());
        let sane = vote.committed && last.is_none_or(|last| last.term <= vote.term) && at <= last;
        prop_assert_eq!(SnapshotPart::decode(what, payload).ok(), sane.then_some(part));
    }

    #[test]
    fn cut_or_garbled_bytes_never_panic(request in request(), garbage in bytes(), what in 0..40u8, cut in 0..99usize) {
        let (kind, mut payload) = joined(request.encode());
        payload.truncate(payload.len().saturating_sub(cut));
        let _ = Request::decode(kind, payload);
        let _ = Request::decode(what, garbage.clone());
        let _ = Response::decode(what, garbage.clone());
        let _ = SnapshotPart::decode(what, garbage.clone());
        let _ = SnapshotReply::decode(what, garbage);
    }
}

#[test]
fn an_unknown_message_is_an_error() {
    assert!(Request::decode(99, Bytes::new()).is_err());
    assert!(Response::decode(99, Bytes::new()).is_err());
}
