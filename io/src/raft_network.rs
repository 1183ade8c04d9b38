//! openraft's network, over the [transport](crate::transport).
//!
//! Times: openraft's option for an append says the heartbeat interval, which is no deadline for an answer that waits
//! for a sync; a stream of appends has [`TransportConfig::append_idle_ms`](crate::transport::TransportConfig) instead.
//! Votes, heartbeats and transfers keep openraft's.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use openraft::StorageError;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{ErrorSource, NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{Backoff, RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendError, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::raft::{TransferLeaderError, TransferLeaderRequest, TransferLeaderResponse};
use openraft_rt::{AsyncRuntime, Select2};
use quorate_core::NodeId;
use quorate_core::wire::{
    AppendRequest, AppendResponse, Failure, Fault, Request, Response, SnapshotMeta, SnapshotPart, SnapshotReply,
    TransferLeader, TransferRefusal, VoteRequest as WireVoteRequest,
};

use crate::Platform;
use crate::jobs::lock;
use crate::snapshot::{ChunkReader, SnapshotData};
use crate::transport::{CallError, Lost, NotSent, Peers, Target};
use crate::types::{
    SharedMember, Types, entry_from, log_id_from, log_id_to, raft, stored_membership_from, vote_from, vote_to,
};

/// Makes openraft's clients of other members.
pub struct NetworkFactory<P: Platform> {
    peers: Peers<P>,
    sending: Sending,
}

/// The snapshots that are being sent.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sending(Arc<Mutex<Vec<u64>>>);

/// One of them, until it is dropped.
#[derive(Debug)]
struct Sent(Sending, u64);

impl Sending {
    fn begin(&self, last: Option<u64>) -> Sent {
        let first_needed = last.map_or(0, |last| last.saturating_add(1));
        lock(&self.0).push(first_needed);
        Sent(self.clone(), first_needed)
    }

    /// The first entry that somebody needs who has got one of them.
    pub(crate) fn first_needed(&self) -> Option<u64> {
        lock(&self.0).iter().min().copied()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        let mut all = lock(&self.0.0);
        if let Some(at) = all.iter().position(|first_needed| *first_needed == self.1) {
            all.swap_remove(at);
        }
    }
}

impl<P: Platform> NetworkFactory<P> {
    /// Clients that share the connections of `peers`.
    pub fn new(peers: Peers<P>) -> Self {
        Self { peers, sending: Sending::default() }
    }

    /// Follows the snapshots that they send.
    pub(crate) fn sending(&self) -> Sending {
        self.sending.clone()
    }

    fn client(&self, target: NodeId, node: &SharedMember, heartbeat: bool) -> Network<P> {
        Network {
            peers: self.peers.clone(),
            sending: self.sending.clone(),
            id: self.peers.identity().get().node_id,
            target: Target { node: Some(target), addrs: node.peer_addrs.clone() },
            target_id: target,
            heartbeat,
        }
    }
}

impl<P: Platform> fmt::Debug for NetworkFactory<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetworkFactory").finish_non_exhaustive()
    }
}

impl<P: Platform> RaftNetworkFactory<Types<P::Runtime>> for NetworkFactory<P> {
    type Network = Network<P>;

    async fn new_client(&mut self, target: NodeId, node: &SharedMember) -> Self::Network {
        self.client(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &SharedMember) -> Self::Network {
        self.client(target, node, true)
    }
}

/// openraft's client of one member. All clients of a member share its connections.
pub struct Network<P: Platform> {
    peers: Peers<P>,
    sending: Sending,
    id: NodeId,
    target: Target,
    target_id: NodeId,
    /// Its streams have one request each, which is sent as such.
    heartbeat: bool,
}

impl<P: Platform> fmt::Debug for Network<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Network").field("target", &self.target).finish_non_exhaustive()
    }
}

type RpcError<P> = RPCError<Types<<P as Platform>::Runtime>>;

impl<P: Platform> Network<P> {
    /// What openraft makes of an error. It treats all of them as "perhaps", so no more than the pace of its retries
    /// depends on the kind.
    fn error(&self, e: &CallError, action: RPCTypes, timeout: Duration) -> RpcError<P> {
        match e {
            CallError::NotSent(NotSent::Timeout) | CallError::Unknown(Lost::Timeout) => {
                RPCError::Timeout(Timeout { action, id: self.id, target: self.target_id, timeout })
            }
            CallError::NotSent(_) => RPCError::Unreachable(Unreachable::new(e)),
            CallError::Unknown(_) => RPCError::Network(NetworkError::new(e)),
        }
    }

    async fn call(&self, request: Request, action: RPCTypes, timeout: Duration) -> Result<Response, RpcError<P>> {
        match self.peers.call(&self.target, &request, timeout).await {
            Ok(Response::Failed(failure)) => Err(RPCError::Unreachable(Unreachable::new(&failure))),
            Ok(response) => Ok(response),
            Err(e) => Err(self.error(&e, action, timeout)),
        }
    }

    async fn request_vote(
        &self,
        rpc: VoteRequest<Types<P::Runtime>>,
        option: RPCOption,
        kind: fn(WireVoteRequest) -> Request,
    ) -> Result<VoteResponse<Types<P::Runtime>>, RpcError<P>> {
        let request = WireVoteRequest {
            vote: vote_from(&rpc.vote),
            last_log_id: rpc.last_log_id.as_ref().map(log_id_from),
            leadership_transfer: rpc.leadership_transfer,
        };
        match self.call(kind(request), RPCTypes::Vote, option.hard_ttl()).await? {
            Response::Vote(response) => Ok(VoteResponse {
                vote: vote_to(&response.vote),
                vote_granted: response.granted,
                last_log_id: response.last_log_id.map(log_id_to),
            }),
            _ => Err(unexpected()),
        }
    }
}

fn unexpected<R: AsyncRuntime>() -> RPCError<Types<R>> {
    RPCError::Network(NetworkError::from_string("a response to another request"))
}

/// Ours from openraft's. Copies no command bytes.
pub fn append_from<R: AsyncRuntime>(rpc: &AppendEntriesRequest<Types<R>>) -> AppendRequest {
    AppendRequest {
        vote: vote_from(&rpc.vote),
        prev: rpc.prev_log_id.as_ref().map(log_id_from),
        leader_commit: rpc.leader_commit.as_ref().map(log_id_from),
        entries: rpc.entries.iter().map(entry_from).collect(),
    }
}

fn read_snapshot<R: AsyncRuntime>(e: io::Error) -> StorageError<Types<R>> {
    StorageError::read_snapshot(None, <Types<R> as openraft::RaftTypeConfig>::ErrorSource::from_error(&e))
}

fn append_result<R: AsyncRuntime>(
    response: AppendResponse,
) -> Result<StreamAppendResult<Types<R>>, RPCError<Types<R>>> {
    match response {
        AppendResponse::Success(matching) => Ok(Ok(matching.map(log_id_to))),
        AppendResponse::Conflict(id) => Ok(Err(StreamAppendError::Conflict(log_id_to(id)))),
        AppendResponse::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote_to(&vote)))),
        AppendResponse::DiskFull => Err(disk_full()),
    }
}

/// The kind of error at which openraft backs off before it sends the same entries again. Heartbeats go on.
fn disk_full<R: AsyncRuntime>() -> RPCError<Types<R>> {
    RPCError::Unreachable(Unreachable::new(&Failure::not_applied(Fault::DiskFull)))
}

impl<P: Platform> RaftNetworkV2<Types<P::Runtime>> for Network<P> {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<P::Runtime>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<P::Runtime>>, RpcError<P>> {
        let request = append_from(&rpc);
        let (prev, last) = (request.prev, request.last());
        let response = self.call(Request::Append(request), RPCTypes::AppendEntries, option.hard_ttl()).await?;
        let Response::Append(response) = response else { return Err(unexpected()) };
        crate::transport::check_answer(prev, last, &response)
            .map_err(|why| RPCError::Network(NetworkError::from_string(why)))?;
        Ok(match response {
            AppendResponse::Success(matching) if matching == last => AppendEntriesResponse::Success,
            AppendResponse::Success(matching) => AppendEntriesResponse::PartialSuccess(matching.map(log_id_to)),
            AppendResponse::Conflict(_) => AppendEntriesResponse::Conflict,
            AppendResponse::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_to(&vote)),
            AppendResponse::DiskFull => return Err(disk_full()),
        })
    }

    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Result<StreamAppendResult<Types<P::Runtime>>, RpcError<P>>>, RpcError<P>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types<P::Runtime>>> + Send + Unpin + 'static,
    {
        if self.heartbeat {
            return stream_append_sequential(self, input, option);
        }
        let open = async move {
            let config = self.peers.config();
            let (dial, idle) = (
                Duration::from_millis(config.connect_ms + config.handshake_ms),
                Duration::from_millis(config.append_idle_ms),
            );
            // openraft backs off inside its request stream: it must be polled before anything can fail, or a peer that
            // cannot be dialled is tried again without a pause.
            let Some(first) = input.next().await else {
                let nothing: BoxStream<'s, _> = Box::pin(futures_util::stream::empty());
                return Ok(nothing);
            };
            let input = futures_util::stream::iter([first]).chain(input).map(|rpc| append_from(&rpc));
            let stream = self.peers.open_append_stream(&self.target, input, dial).await;
            let stream = stream.map_err(|e| self.error(&e, RPCTypes::AppendEntries, dial))?;
            let this: &Self = self;
            let results = stream.into_stream().map(move |result| match result {
                Ok(response) => append_result(response),
                Err(e) => Err(this.error(&e, RPCTypes::AppendEntries, idle)),
            });
            let results: BoxStream<'s, _> = Box::pin(results);
            Ok(results)
        };
        Box::pin(open)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<P::Runtime>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<P::Runtime>>, RpcError<P>> {
        self.request_vote(rpc, option, Request::Vote).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<P::Runtime>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<P::Runtime>>, RpcError<P>> {
        self.request_vote(rpc, option, Request::PreVote).await
    }

    async fn full_snapshot(
        &mut self,
        vote: raft::Vote,
        snapshot: openraft::Snapshot<
            openraft::vote::leader_id_std::CommittedLeaderId<u64>,
            NodeId,
            SharedMember,
            Self::SnapshotData,
        >,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<P::Runtime>>, StreamingError<Types<P::Runtime>>> {
        let limit = Duration::from_millis(self.peers.config().snapshot_ms);
        let _sent = self.sending.begin(snapshot.meta.last_log_id.as_ref().map(|id| id.index));
        let part = SnapshotPart::Begin {
            vote: vote_from(&vote),
            meta: SnapshotMeta {
                last_log_id: snapshot.meta.last_log_id.as_ref().map(log_id_from),
                last_membership: stored_membership_from(&snapshot.meta.last_membership),
            },
        };
        let chunks = snapshot.snapshot.chunks().map_err(read_snapshot::<P::Runtime>)?;
        let send = P::Runtime::timeout(limit, self.send_snapshot(part, chunks));
        match P::Runtime::select2(cancel.boxed(), send).await {
            Select2::First(closed) => Err(StreamingError::Closed(closed)),
            Select2::Second(Ok(result)) => result,
            Select2::Second(Err(_)) => {
                let e = CallError::Unknown(Lost::Timeout);
                Err(self.error(&e, RPCTypes::InstallSnapshot, limit).into())
            }
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types<P::Runtime>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<P::Runtime>>, RpcError<P>> {
        let request = Request::TransferLeader(TransferLeader {
            from: vote_from(req.from_leader()),
            to: *req.to_node_id(),
            last_log_id: req.last_log_id().map(log_id_from),
        });
        match self.call(request, RPCTypes::TransferLeader, option.hard_ttl()).await? {
            Response::TransferLeader(Ok(())) => Ok(Ok(())),
            Response::TransferLeader(Err(TransferRefusal::VoteChanged { expected, actual })) => {
                Ok(Err(TransferLeaderError::VoteChanged { expected: vote_to(&expected), actual: vote_to(&actual) }))
            }
            Response::TransferLeader(Err(TransferRefusal::LogNotFlushed { expected, actual })) => {
                let (expected, actual) = (expected.map(log_id_to), actual.map(log_id_to));
                Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual }))
            }
            _ => Err(unexpected()),
        }
    }

    fn backoff(&self) -> Option<Backoff> {
        let config = self.peers.config();
        let (min, max) = (config.retry_min_ms, config.retry_max_ms);
        let delays = std::iter::successors(Some(min), move |ms| Some(ms.saturating_mul(2).min(max)));
        Some(Backoff::new(delays.map(Duration::from_millis)))
    }
}

impl<P: Platform> Network<P> {
    async fn send_snapshot(
        &self,
        begin: SnapshotPart,
        mut chunks: ChunkReader,
    ) -> Result<SnapshotResponse<Types<P::Runtime>>, StreamingError<Types<P::Runtime>>> {
        let config = self.peers.config();
        let dial = Duration::from_millis(config.connect_ms + config.handshake_ms);
        let error = |e: CallError| {
            let idle = Duration::from_millis(config.chunk_idle_ms);
            StreamingError::from(self.error(&e, RPCTypes::InstallSnapshot, idle))
        };
        let done = |vote| Ok(SnapshotResponse::new(vote_to(&vote)));
        let failed = |failure| Err(StreamingError::Unreachable(Unreachable::new(&failure)));

        let mut stream = self.peers.open_snapshot_stream(&self.target, dial).await.map_err(error)?;
        let mut part = begin;
        loop {
            match stream.send(&part).await.map_err(error)? {
                None | Some(SnapshotReply::Taken) => {}
                Some(SnapshotReply::Installed(vote)) => return done(vote),
                Some(SnapshotReply::Failed(failure)) => return failed(failure),
            }
            if matches!(part, SnapshotPart::End(_)) {
                break;
            }
            let chunk = chunks.next_chunk().map_err(read_snapshot::<P::Runtime>)?;
            part = match chunk {
                Some(bytes) => SnapshotPart::Chunk(bytes),
                None => SnapshotPart::End(chunks.trailer().encode()),
            };
        }
        match stream.finish().await.map_err(error)? {
            Ok(vote) => done(vote),
            Err(failure) => failed(failure),
        }
    }
}
