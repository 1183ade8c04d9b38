//! What a node does for its peers: Raft's requests go to openraft, the others to the node.
//!
//! openraft asserts what a correct peer would never send. So beyond what the wire's decoders establish, a request that
//! speaks for a candidate or a leader is taken only from that node itself, and only within the cluster.

use std::collections::BTreeMap;
use std::fmt;
use std::future::ready;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, once, unfold};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, StreamAppendError, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, VoteRequest,
};
use openraft_rt::{AsyncRuntime, Instant};
use quorate_core::snapshot::{Manifest, Trailer};
use quorate_core::wire::{
    AppendRequest, AppendResponse, Failure, Fault, Hello, PulledPart, Refusal, RefusalCode, Request, Response,
    SnapshotMeta, SnapshotPart, TransferLeader, TransferRefusal, VoteRequest as WireVoteRequest, VoteResponse,
};
use quorate_core::{ClusterId, LogId, NodeId, Vote};

use super::{Node, Raft};
use crate::jobs::lock;
use crate::platform::Platform;
use crate::snapshot::SnapshotReceiver;
use crate::transport::{PeerIdentity, PeerService};
use crate::types::{Types, entry_to, log_id_from, log_id_to, raft, stored_membership_to, vote_from, vote_to};

/// See the [module](self).
pub(super) struct Service<P: Platform> {
    node: Node<P>,
    /// No votes before: a node that restarts has forgotten which leader's lease it acknowledged.
    quiet_until: <P::Runtime as AsyncRuntime>::Instant,
    /// The latest boot epoch seen of each member.
    epochs: Mutex<BTreeMap<NodeId, u64>>,
}

fn not_ready(why: &str) -> Failure {
    Failure::not_applied(Fault::NotReady(why.to_owned()))
}

fn invalid(why: impl fmt::Display) -> Failure {
    Failure::not_applied(Fault::Invalid(why.to_string()))
}

fn fatal(e: impl fmt::Display) -> Failure {
    Failure::unknown(Fault::Other(format!("raft has stopped: {e}")))
}

fn storage(e: io::Error) -> Failure {
    match e.kind() {
        io::ErrorKind::InvalidData => invalid(e),
        _ => Failure::not_applied(Fault::Storage(e.to_string())),
    }
}

impl<P: Platform> Service<P> {
    /// Votes and pre-votes are answered with an error for as long as `quiet` says.
    pub(super) fn new(node: &Node<P>, quiet: Option<Duration>) -> Self {
        let quiet_until = <P::Runtime as AsyncRuntime>::Instant::now() + quiet.unwrap_or_default();
        Self { node: node.clone(), quiet_until, epochs: Mutex::default() }
    }

    /// Raft, for a request in which `from` speaks for `vote`.
    fn raft_for(&self, from: &PeerIdentity, vote: &Vote) -> Result<&Raft<P>, Failure> {
        let cluster = self.node.inner.identity.cluster();
        if cluster == ClusterId::NONE || from.cluster_id != cluster {
            return Err(not_ready("not members of the same cluster"));
        }
        if vote.node != from.node_id {
            return Err(invalid("the sender is not the candidate or leader it speaks for"));
        }
        Ok(&self.node.inner.raft)
    }

    async fn vote(&self, from: &PeerIdentity, request: WireVoteRequest, pre: bool) -> Result<Response, Failure> {
        let raft = self.raft_for(from, &request.vote)?;
        if <P::Runtime as AsyncRuntime>::Instant::now() < self.quiet_until {
            return Err(not_ready("no votes so soon after the start"));
        }
        let rpc = VoteRequest {
            vote: vote_to(&request.vote),
            last_log_id: request.last_log_id.map(log_id_to),
            leadership_transfer: request.leadership_transfer,
        };
        let response = if pre { raft.pre_vote(rpc).await } else { raft.vote(rpc).await };
        let response = response.map_err(fatal)?;
        Ok(Response::Vote(VoteResponse {
            vote: vote_from(&response.vote),
            granted: response.vote_granted,
            last_log_id: response.last_log_id.as_ref().map(log_id_from),
        }))
    }

    async fn append_one(&self, from: &PeerIdentity, mut request: AppendRequest) -> Result<Response, Failure> {
        let raft = self.raft_for(from, &request.vote)?;
        if self.node.take_commands_off(&mut request) && request.entries.is_empty() {
            return Ok(Response::Append(AppendResponse::DiskFull));
        }
        let (prev, last) = (request.prev, request.last());
        let response = raft.append_entries(append_to(request)?).await.map_err(fatal)?;
        if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
            self.node.heard_of_leader();
        }
        if response.is_conflict() && prev.is_none() {
            return Err(fatal("conflict before the first entry"));
        }
        let result = response.into_stream_result(prev.map(log_id_to), last.map(log_id_to));
        Ok(Response::Append(append_response(result)))
    }

    async fn transfer(&self, from: &PeerIdentity, request: TransferLeader) -> Result<Response, Failure> {
        let raft = self.raft_for(from, &request.from)?;
        let last_log_id = request.last_log_id.map(log_id_to);
        let rpc = TransferLeaderRequest::new(vote_to(&request.from), request.to, last_log_id);
        let result = raft.handle_transfer_leader(rpc).await.map_err(fatal)?;
        Ok(Response::TransferLeader(result.map_err(|e| match e {
            TransferLeaderError::VoteChanged { expected, actual } => {
                TransferRefusal::VoteChanged { expected: vote_from(&expected), actual: vote_from(&actual) }
            }
            TransferLeaderError::LogNotFlushed { expected, actual } => TransferRefusal::LogNotFlushed {
                expected: expected.as_ref().map(log_id_from),
                actual: actual.as_ref().map(log_id_from),
            },
        })))
    }
}

impl<P: Platform> Service<P> {
    /// The requests up to the first command that a full disk cannot take, and whether that was met.
    fn until_full(
        &self,
        requests: BoxStream<'static, AppendRequest>,
    ) -> (BoxStream<'static, AppendRequest>, Arc<AtomicBool>) {
        let refused = Arc::new(AtomicBool::new(false));
        let start = (self.node.clone(), requests, refused.clone());
        let taken = unfold(start, |(node, mut requests, refused)| async move {
            if refused.load(Ordering::Acquire) {
                return None;
            }
            let mut request = requests.next().await?;
            if node.take_commands_off(&mut request) {
                refused.store(true, Ordering::Release);
                if request.entries.is_empty() {
                    return None;
                }
            }
            Some((request, (node, requests, refused)))
        });
        (taken.boxed(), refused)
    }
}

/// openraft's from ours. Copies no command bytes.
fn append_to<R: AsyncRuntime>(request: AppendRequest) -> Result<AppendEntriesRequest<Types<R>>, Failure> {
    let entries: Result<Vec<_>, _> = request.entries.into_iter().map(entry_to).collect();
    Ok(AppendEntriesRequest {
        vote: vote_to(&request.vote),
        prev_log_id: request.prev.map(log_id_to),
        entries: entries.map_err(invalid)?,
        leader_commit: request.leader_commit.map(log_id_to),
    })
}

fn append_response<R: AsyncRuntime>(result: StreamAppendResult<Types<R>>) -> AppendResponse {
    match result {
        Ok(matching) => AppendResponse::Success(matching.as_ref().map(log_id_from)),
        Err(StreamAppendError::Conflict(id)) => AppendResponse::Conflict(log_id_from(&id)),
        Err(StreamAppendError::HigherVote(vote)) => AppendResponse::HigherVote(vote_from(&vote)),
    }
}

impl<P: Platform> PeerService for Service<P> {
    fn admit(&self, hello: &Hello) -> Result<(), Refusal> {
        if hello.node_id == self.node.node_id() {
            return Err(Refusal::new(RefusalCode::NotThisNode, "this node has the same id: its disk was copied"));
        }
        let cluster = self.node.inner.identity.cluster();
        if hello.cluster_id == ClusterId::NONE {
            return Ok(());
        }
        if hello.cluster_id == cluster && self.node.has_seen_removed(hello.node_id, hello.membership) {
            let text = format!("cluster {cluster} has removed node {}", hello.node_id);
            return Err(Refusal::new(RefusalCode::Removed, text));
        }
        let mut epochs = lock(&self.epochs);
        let seen = epochs.entry(hello.node_id).or_default();
        if hello.boot_epoch < *seen {
            let text = format!("boot epoch {} after {seen}: the disk was copied or rolled back", hello.boot_epoch);
            return Err(Refusal::new(RefusalCode::StaleEpoch, text));
        }
        *seen = hello.boot_epoch;
        Ok(())
    }

    async fn call(&self, from: PeerIdentity, request: Request) -> Response {
        let member = from.cluster_id == self.node.inner.identity.cluster();
        let result = match request {
            Request::Write(_) | Request::ReadIndex if !member => Err(not_ready("not members of the same cluster")),
            Request::Append(request) => self.append_one(&from, request).await,
            Request::Vote(request) => self.vote(&from, request, false).await,
            Request::PreVote(request) => self.vote(&from, request, true).await,
            Request::TransferLeader(request) => self.transfer(&from, request).await,
            Request::Write(write) => Ok(self.node.handle_write(write).await),
            Request::ReadIndex => Ok(self.node.handle_read_index().await),
            Request::Founding(shown) => Ok(Response::Founding(self.node.handle_founding(&from, shown))),
            Request::Member(request) => Ok(self.node.handle_member(&from, request).await),
        };
        result.unwrap_or_else(Response::Failed)
    }

    fn append(
        &self,
        from: PeerIdentity,
        requests: BoxStream<'static, AppendRequest>,
    ) -> BoxStream<'static, AppendResponse> {
        let raft = &self.node.inner.raft;
        let (cluster, peer) = (self.node.inner.identity.cluster(), from);
        let (requests, refused) = self.until_full(requests);
        let rpcs = requests.map(move |request| {
            let member = cluster != ClusterId::NONE && peer.cluster_id == cluster;
            let speaks_for_itself = request.vote.node == peer.node_id;
            let rpc = if member && speaks_for_itself { append_to(request).ok() } else { None };
            if rpc.is_none() {
                tracing::warn!(peer = %peer.node_id, member, speaks_for_itself, "append refused");
            }
            rpc
        });
        let rpcs = rpcs.take_while(|rpc| ready(rpc.is_some())).filter_map(ready);
        let results = raft.stream_append(rpcs);
        // A fatal error ends the stream: there is no answer to give.
        let results = results.take_while(|result| ready(result.is_ok())).filter_map(|r| ready(r.ok()));
        let last = once(async move { refused.load(Ordering::Acquire) }).filter(|refused| ready(*refused));
        results.map(append_response).chain(last.map(|_| AppendResponse::DiskFull)).boxed()
    }

    async fn snapshot(&self, from: PeerIdentity, mut parts: BoxStream<'static, SnapshotPart>) -> Result<Vote, Failure> {
        let Some(SnapshotPart::Begin { vote, meta }) = parts.next().await else {
            return Err(invalid("a snapshot without a beginning"));
        };
        let raft = self.raft_for(&from, &vote)?;
        if self.node.disk_full() {
            return Err(Failure::not_applied(Fault::DiskFull));
        }
        let manifest = Manifest { applied: meta.last_log_id, membership: meta.last_membership.clone() };
        let (last, meta) = (meta.last_log_id, snapshot_meta_to(&meta)?);
        let mut receiver = SnapshotReceiver::new(&self.node.inner.store, manifest);
        let trailer = loop {
            match parts.next().await {
                Some(SnapshotPart::Chunk(chunk)) => receiver.chunk(chunk).await.map_err(storage)?,
                Some(SnapshotPart::End(trailer)) => break trailer,
                Some(SnapshotPart::Begin { .. }) => return Err(invalid("a snapshot that begins twice")),
                None => return Err(invalid("the snapshot was abandoned")),
            }
        };
        let trailer = Trailer::decode(&trailer).map_err(invalid)?;
        let snapshot = receiver.finish(trailer).await.map_err(storage)?;
        let log = &self.node.inner.log;
        let follows = raft.metrics().borrow_watched().vote == vote_to(&vote);
        let answer = if follows && last.is_none_or(|last| log.holds(last)) {
            // The leader had lost the answer that said so. openraft would forget that it has written what comes after it.
            vote
        } else {
            let snapshot = openraft::Snapshot { meta, snapshot };
            vote_from(&raft.install_full_snapshot(vote_to(&vote), snapshot).await.map_err(fatal)?.vote)
        };
        // The leader will count on all that is in it. What this node has committed is not installed, and openraft answers
        // then before the log is durable.
        if let Some(last) = last.filter(|_| answer == vote) {
            log.wait_durable(last).await.map_err(storage)?;
        }
        Ok(answer)
    }

    fn gone(&self, peer: NodeId) {
        // Who has restarted a moment ago votes for nobody, and does not ask for votes.
        if <P::Runtime as AsyncRuntime>::Instant::now() >= self.quiet_until {
            let node = self.node.clone();
            self.node.spawn(async move { node.miss_leader(peer).await });
        }
    }

    fn pull(&self, from: PeerIdentity, at_least: LogId) -> BoxStream<'static, PulledPart> {
        self.node.serve_pull(&from, at_least)
    }
}

fn snapshot_meta_to(meta: &SnapshotMeta) -> Result<raft::SnapshotMeta, Failure> {
    Ok(raft::SnapshotMeta {
        last_log_id: meta.last_log_id.map(log_id_to),
        last_membership: stored_membership_to(&meta.last_membership).map_err(invalid)?,
    })
}
