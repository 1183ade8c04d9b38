//! Streams of appends and of snapshots.

use futures_util::stream;
use quorate_core::wire::SnapshotMeta;
use quorate_core::{Entry, Payload, StoredMembership};

use super::*;

const VOTE: Vote = Vote { term: 1, node: NodeId(1), committed: true };

/// One entry at `index`.
fn append(index: u64) -> AppendRequest {
    let prev = index.checked_sub(1).map(|index| LogId::new(1, index));
    let payload = Payload::Command(Bytes::from(vec![0; 100]));
    AppendRequest {
        vote: VOTE,
        prev,
        leader_commit: None,
        entries: vec![Entry { log_id: LogId::new(1, index), payload }],
    }
}

#[test]
fn appends_are_pipelined_within_the_window_and_answered_in_order() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        pair.service.allowed.send_replace(0);
        let (polled, mut polls) = watch::channel(0);
        let input = stream::iter(0..300).map(move |i| {
            polled.send_modify(|n| *n += 1);
            append(i)
        });
        let stream = pair.peers.open_append_stream(&pair.target, input, SECONDS).await.unwrap();
        let answers = TokioRuntime::spawn(stream.into_stream().collect::<Vec<_>>());
        polls.wait_for(|n| *n == 64).await.unwrap();
        TokioRuntime::sleep(Duration::from_millis(50)).await;
        assert_eq!(*polls.borrow(), 64, "the window is 64 requests");
        pair.service.allowed.send_replace(u64::MAX);
        let expected: Vec<_> = (0..300).map(|i| Ok(AppendResponse::Success(Some(LogId::new(1, i))))).collect();
        assert_eq!(answers.await.unwrap(), expected);
        reaches(&pair.service.ended, 1).await;
    });
}

/// The leader counts an answer as given to the last request that it fits.
#[test]
fn an_answer_that_would_be_taken_for_that_of_a_later_request_is_not_handed_on() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let success = |index| Ok(AppendResponse::Success(Some(LogId::new(1, index))));
        let empty = || AppendRequest { prev: Some(LogId::new(1, 1)), entries: Vec::new(), ..append(0) };
        pair.service.allowed.send_replace(0);
        let (polled, mut polls) = watch::channel(0);
        let requests = [append(0), append(1), empty(), empty(), append(2)];
        let input = stream::iter(requests).inspect(move |_| polled.send_modify(|n| *n += 1));
        let stream = pair.peers.open_append_stream(&pair.target, input, SECONDS).await.unwrap();
        let answers = TokioRuntime::spawn(stream.into_stream().collect::<Vec<_>>());
        polls.wait_for(|n| *n == 5).await.unwrap();
        pair.service.allowed.send_replace(u64::MAX);
        // Of the answers to entry 1 and to the two requests behind it only the last.
        assert_eq!(answers.await.unwrap(), [success(0), success(1), success(2)]);
        // One that is taken later does not stand in the way.
        let (sender, receiver) = futures_channel::mpsc::unbounded();
        let mut stream = pair.peers.open_append_stream(&pair.target, receiver, SECONDS).await.unwrap();
        for request in [append(1), empty()] {
            sender.unbounded_send(request).unwrap();
            assert_eq!(stream.next().await, Some(success(1)));
        }
    });
}

#[test]
fn what_is_committed_is_told_with_the_next_entries_or_soon() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let success = |index| Ok(AppendResponse::Success(Some(LogId::new(1, index))));
        let committed = |last, commit| AppendRequest {
            prev: Some(LogId::new(1, last)),
            leader_commit: Some(LogId::new(1, commit)),
            entries: Vec::new(),
            ..append(0)
        };
        let (sender, receiver) = futures_channel::mpsc::unbounded();
        let mut stream = pair.peers.open_append_stream(&pair.target, receiver, SECONDS).await.unwrap();
        sender.unbounded_send(append(0)).unwrap();
        assert_eq!(stream.next().await, Some(success(0)));
        // Both are there when it looks: one message says it all.
        sender.unbounded_send(committed(0, 0)).unwrap();
        sender.unbounded_send(append(1)).unwrap();
        assert_eq!(stream.next().await, Some(success(1)));
        assert_eq!(*pair.service.taken.borrow(), 2);
        // Nothing else comes.
        sender.unbounded_send(committed(1, 1)).unwrap();
        assert_eq!(stream.next().await, Some(success(1)));
        assert_eq!(*pair.service.taken.borrow(), 3);
        // An answer is outstanding by which the rest is committed: told at once, and by the last answer.
        pair.service.allowed.send_replace(3);
        sender.unbounded_send(append(2)).unwrap();
        sender.unbounded_send(committed(2, 1)).unwrap();
        let answer = TokioRuntime::spawn(async move { (stream.next().await, stream) });
        TokioRuntime::sleep(Duration::from_millis(20)).await;
        pair.service.allowed.send_replace(u64::MAX);
        let (answer, mut stream) = answer.await.unwrap();
        assert_eq!((answer, *pair.service.taken.borrow()), (Some(success(2)), 5));
        // What waits when the leader has no more to say is told.
        sender.unbounded_send(committed(2, 2)).unwrap();
        drop(sender);
        assert_eq!(stream.next().await, Some(success(2)));
        assert_eq!(stream.next().await, None);
    });
}

#[test]
fn a_large_append_is_sent_in_pieces() {
    run(async {
        let pair = pair(TransportConfig { append_bytes_max: 1000, ..Default::default() }).await;
        let entries = (0..50).flat_map(|i| append(i).entries).collect();
        let request = AppendRequest { entries, ..append(0) };
        let input = stream::iter([request]);
        let stream = pair.peers.open_append_stream(&pair.target, input, SECONDS).await.unwrap();
        let answers: Vec<_> = stream.into_stream().map(|answer| answer.unwrap()).collect().await;
        assert!(answers.len() > 5);
        assert_eq!(answers.last(), Some(&AppendResponse::Success(Some(LogId::new(1, 49)))));
    });
}

#[test]
fn dropping_a_stream_ends_it_on_the_peer() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let input = stream::iter(0..1).map(append).chain(stream::pending());
        let mut stream = pair.peers.open_append_stream(&pair.target, input, SECONDS).await.unwrap();
        assert!(stream.next().await.unwrap().is_ok());
        drop(stream);
        reaches(&pair.service.ended, 1).await;
        pair.echo("the connection stays").await.unwrap();
        assert_eq!(pair.service.hellos.lock().unwrap().len(), 1);
        assert_eq!(*pair.service.gone.borrow(), 0);
        pair.peers.shutdown();
        reaches(&pair.service.gone, 1).await;
    });
}

#[test]
fn a_lost_connection_is_an_error_of_the_stream_and_credits_nothing_to_the_next() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        pair.service.allowed.send_replace(3);
        let input = stream::iter(0..10).map(append);
        let mut stream = pair.peers.open_append_stream(&pair.target, input, SECONDS).await.unwrap();
        for i in 0..3 {
            let expected = AppendResponse::Success(Some(LogId::new(1, i)));
            assert_eq!(stream.next().await, Some(Ok(expected)));
        }
        pair.net.cut_all();
        assert!(matches!(stream.next().await, Some(Err(CallError::Unknown(Lost::Disconnected(_))))));
        assert_eq!(stream.next().await, None);
        pair.service.allowed.send_replace(u64::MAX);
        let input = stream::iter(100..102).map(append);
        let stream = pair.peers.open_append_stream(&pair.target, input, SECONDS).await.unwrap();
        let answers: Vec<_> = stream.into_stream().collect().await;
        let expected: Vec<_> = (100..102).map(|i| Ok(AppendResponse::Success(Some(LogId::new(1, i))))).collect();
        assert_eq!(answers, expected);
    });
}

#[test]
fn an_answer_that_does_not_come_is_a_timeout() {
    run(async {
        let pair = pair(TransportConfig { append_idle_ms: 50, ..Default::default() }).await;
        pair.service.allowed.send_replace(0);
        let input = stream::iter(0..1).map(append);
        let mut stream = pair.peers.open_append_stream(&pair.target, input, SECONDS).await.unwrap();
        assert_eq!(stream.next().await, Some(Err(CallError::Unknown(Lost::Timeout))));
        reaches(&pair.service.ended, 1).await;
    });
}

#[test]
fn an_invalid_append_ends_the_stream() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let request = AppendRequest { prev: Some(LogId::new(1, 7)), ..append(3) };
        let input = stream::iter([request]);
        let mut stream = pair.peers.open_append_stream(&pair.target, input, SECONDS).await.unwrap();
        assert!(matches!(stream.next().await, Some(Err(CallError::Unknown(_)))));
        assert_eq!(*pair.service.taken.borrow(), 0);
    });
}

#[test]
fn streams_are_limited_in_number() {
    run(async {
        let pair = pair(TransportConfig { streams_max: 1, ..Default::default() }).await;
        let input = || stream::iter(0..1).map(append).chain(stream::pending());
        let mut first = pair.peers.open_append_stream(&pair.target, input(), SECONDS).await.unwrap();
        assert!(first.next().await.unwrap().is_ok());
        let mut second = pair.peers.open_append_stream(&pair.target, input(), SECONDS).await.unwrap();
        assert!(second.next().await.unwrap().is_err());
    });
}

fn begin() -> SnapshotPart {
    let last = Some(LogId::new(1, 5));
    let meta = SnapshotMeta { last_log_id: last, last_membership: StoredMembership::default() };
    SnapshotPart::Begin { vote: VOTE, meta }
}

fn chunk() -> SnapshotPart {
    SnapshotPart::Chunk(Bytes::from(vec![9; 100_000]))
}

#[test]
fn a_snapshot_goes_over_its_own_connection_with_back_pressure() {
    run(async {
        let pair = pair(TransportConfig { chunk_idle_ms: 100, ..Default::default() }).await;
        let mut stream = pair.peers.open_snapshot_stream(&pair.target, SECONDS).await.unwrap();
        assert_eq!(stream.send(&begin()).await, Ok(None));
        for _ in 0..50 {
            assert_eq!(stream.send(&chunk()).await, Ok(None));
        }
        assert_eq!(stream.send(&SnapshotPart::End(Bytes::from_static(b"good"))).await, Ok(None));
        assert_eq!(stream.finish().await, Ok(Ok(VOTE)));
        assert_eq!(*pair.service.taken.borrow(), 50);
        pair.echo("control").await.unwrap();
        assert_eq!(pair.service.hellos.lock().unwrap().len(), 2);

        // The peer takes no more.
        pair.service.allowed.send_replace(51);
        let mut stream = pair.peers.open_snapshot_stream(&pair.target, SECONDS).await.unwrap();
        let mut sent = 0;
        let part = chunk();
        assert_eq!(stream.send(&begin()).await, Ok(None));
        let error = loop {
            match stream.send(&part).await {
                Ok(_) => sent += 1,
                Err(e) => break e,
            }
        };
        assert_eq!(error, CallError::Unknown(Lost::Timeout));
        assert_eq!(sent, 1 + TransportConfig::default().chunks_max);
        drop(stream);
        pair.service.allowed.send_replace(u64::MAX);
        reaches(&pair.service.ended, 2).await;
    });
}

#[test]
fn a_snapshot_that_is_not_taken_says_why() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        let mut stream = pair.peers.open_snapshot_stream(&pair.target, SECONDS).await.unwrap();
        assert_eq!(stream.send(&begin()).await, Ok(None));
        assert_eq!(stream.send(&SnapshotPart::End(Bytes::from_static(b"bad"))).await, Ok(None));
        let Ok(Err(failure)) = stream.finish().await else { panic!("it was installed") };
        assert!(!failure.unknown);
    });
}

#[test]
fn a_snapshot_is_pulled_part_by_part_or_refused() {
    run(async {
        let pair = pair(TransportConfig::default()).await;
        // More than may be under way, so that permits are what moves it on.
        let mut stream = pair.peers.open_pull_stream(&pair.target, LogId::new(1, 50), SECONDS).await.unwrap();
        for n in 0..50_u64 {
            assert_eq!(stream.next().await, Ok(PulledPart::Chunk(n.to_le_bytes().to_vec().into())));
        }
        assert_eq!(stream.next().await, Ok(PulledPart::End(Bytes::new())));
        assert!(stream.next().await.is_err(), "it has ended");
        let mut stream = pair.peers.open_pull_stream(&pair.target, LogId::new(1, 0), SECONDS).await.unwrap();
        assert!(matches!(stream.next().await, Ok(PulledPart::Failed(_))));
    });
}
