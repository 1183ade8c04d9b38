//! Becoming a member of a cluster that others have founded.
//!
//! A blank node that founds nothing *waits*. It asks to be admitted, again and again, wherever it was told to
//! ([`NodeConfig::join`](super::NodeConfig), or the founding list); or somebody tells the cluster to add it, and the
//! leader comes to it. Either way the leader has put it into a committed membership by the time it learns of that. It
//! then keeps the [`Admission`], durably, and only then takes anything of consensus. It never initializes any.

use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft_rt::AsyncRuntime;
use quorate_core::admission::{Admission, FILE_NAME};
use quorate_core::founding::{self, FoundingError, FoundingRecord, PROMISE_FILE_NAME, Promise};
use quorate_core::log::format::LogIdentity;
use quorate_core::wire::{Failure, Fault, MemberAction, MemberDone, MemberRequest, RefusalKind, Request, Response};
use quorate_core::{ClusterId, LogId, Member};

use super::founding::read_record;
use super::{Inner, Node, StartError, StopError, Storage};
use crate::jobs::{Jobs, lock};
use crate::platform::Platform;
use crate::reserve::{Reserve, replace_spending};
use crate::transport::Target;

/// Between two rounds of asking everybody.
const ASK_EVERY: Duration = Duration::from_millis(300);
/// How long a node that was told of its admission may take to make it durable before its answer is "not yet".
const KEEP_WITHIN: Duration = Duration::from_secs(5);

/// What a data directory says of the cluster that its node belongs to.
#[derive(Default)]
pub(super) struct Records {
    /// It was among the founders.
    pub(super) founding: Option<FoundingRecord>,
    /// What it has promised to those who are to found one; of no interest once there is one.
    pub(super) promise: Option<Promise>,
    /// It was admitted.
    pub(super) admission: Option<Admission>,
}

impl Records {
    /// Reads them, and writes them again as they are.
    pub(super) async fn read<P: Platform>(
        jobs: &Jobs<P::Disk>,
        dir: &Path,
        reserve: &Reserve<P::Disk>,
    ) -> Result<Self, StartError> {
        let founding = read_record::<P, _>(jobs, dir.join(founding::FILE_NAME), reserve, FoundingRecord::from_file);
        let founding = founding.await?;
        let admission = read_record::<P, _>(jobs, dir.join(FILE_NAME), reserve, Admission::from_file).await?;
        let mut records = Self { founding, promise: None, admission };
        if records.cluster() == ClusterId::NONE {
            let path = dir.join(PROMISE_FILE_NAME);
            records.promise = read_record::<P, _>(jobs, path, reserve, Promise::from_file).await?;
        }
        Ok(records)
    }

    /// The cluster, once there is one.
    pub(super) fn cluster(&self) -> ClusterId {
        let founded = self.founding.as_ref().filter(|record| record.founded).map(FoundingRecord::cluster_id);
        founded.or(self.admission.map(|admission| admission.cluster)).unwrap_or_default()
    }

    /// Whether they are about the node that the log belongs to.
    pub(super) fn are_of(&self, identity: &LogIdentity) -> bool {
        let id = identity.node_id;
        let founder = |record: &FoundingRecord| record.membership().members.contains_key(&id);
        self.founding.as_ref().is_none_or(founder)
            && self.promise.as_ref().is_none_or(|promise| promise.node_id == id.0)
            && self.admission.is_none_or(|admission| admission.node == id)
    }
}

impl<P: Platform> Node<P> {
    /// Asks these to be admitted, until one of them says so, or until it cannot be. `founded` is the cluster of whom a
    /// founding list names.
    pub(super) async fn join(&self, addrs: Vec<Vec<String>>, founded: Option<(String, ClusterId)>) {
        let card = lock(&self.inner.card).clone();
        let member = Member {
            name: card.name,
            peer_addrs: card.peer_addrs,
            api_addrs: card.api_addrs,
            in_memory: card.in_memory,
            ..Member::default()
        };
        let timeout = self.inner.config.request_timeout;
        let deadline_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let request =
            Request::Member(MemberRequest { deadline_ms, action: MemberAction::Join { id: self.node_id(), member } });
        let mut told = String::new();
        while self.waits() {
            for addrs in &addrs {
                let why = match self.ask_to_join(addrs, &request, timeout).await {
                    Joined::In(done) => return self.admit(done.cluster, done.at).await,
                    Joined::Never(text) => {
                        let error = match founded {
                            Some((peer, cluster)) => FoundingError::AlreadyFounded { peer, cluster },
                            None => FoundingError::NotAdmitted(text),
                        };
                        self.fail(StopError::Founding(error));
                        return;
                    }
                    Joined::NotYet(why) => why,
                };
                if why != told {
                    tracing::info!(?addrs, why, "not admitted to a cluster yet");
                    told = why;
                }
                if !self.waits() {
                    return;
                }
            }
            P::Runtime::sleep(ASK_EVERY).await;
        }
    }

    async fn ask_to_join(&self, addrs: &[String], request: &Request, timeout: Duration) -> Joined {
        let target = Target { node: None, addrs: addrs.to_vec() };
        match self.inner.peers.call(&target, request, timeout).await {
            Ok(Response::Member(Ok(done))) => Joined::In(done),
            Ok(Response::Member(Err(refusal))) if refusal.kind == RefusalKind::Taken => Joined::Never(refusal.text),
            Ok(Response::Member(Err(refusal))) => Joined::NotYet(refusal.text),
            Ok(Response::Failed(failure)) => Joined::NotYet(failure.to_string()),
            Ok(Response::NotLeader(_)) => Joined::NotYet("no leader is known there".to_owned()),
            Ok(_) => Joined::NotYet("an answer to another question".to_owned()),
            Err(error) => Joined::NotYet(error.to_string()),
        }
    }

    /// Whether this node has no cluster, founds none, and has not been admitted yet.
    pub(super) fn waits(&self) -> bool {
        self.inner.waits.load(Ordering::Acquire) && !self.is_stopping()
    }

    /// This node is blank and founds nothing.
    pub(super) fn begin_to_wait(&self) {
        lock(&self.inner.card).waits = true;
        self.inner.waits.store(true, Ordering::Release);
    }

    /// The leader of a cluster says that this node is a member.
    pub(super) async fn handle_admit(&self, cluster: ClusterId, at: LogId) -> Response {
        self.admit(cluster, at).await;
        if self.inner.identity.cluster() == cluster {
            return Response::Member(Ok(MemberDone { cluster, node: self.node_id(), at }));
        }
        let why = "this node does not wait to be admitted, or could not keep that it was".to_owned();
        Response::Failed(Failure::not_applied(Fault::NotReady(why)))
    }

    /// Belongs to the cluster from now on, if it waited for one. Returns when that is durable, or after a while.
    async fn admit(&self, cluster: ClusterId, at: LogId) {
        if self.inner.waits.swap(false, Ordering::AcqRel) {
            // In a task of its own: who waits for it may go away.
            let node = self.clone();
            self.spawn(async move {
                let admission = Admission { cluster, node: node.node_id(), at };
                if let Err(error) = node.keep(FILE_NAME, admission.to_file()).await {
                    return node.fail(error);
                }
                node.inner.identity.know_membership(Some(at));
                node.inner.identity.set_cluster(cluster);
                {
                    let mut card = lock(&node.inner.card);
                    card.cluster = cluster.0;
                    card.waits = false;
                }
                tracing::info!(%cluster, node = %node.node_id(), "this node was admitted to a cluster");
            });
        }
        let kept = async {
            while self.inner.identity.cluster() == ClusterId::NONE && self.failure().is_none() {
                P::Runtime::sleep(Duration::from_millis(5)).await;
            }
        };
        // Whoever told us tells us again.
        let _ = P::Runtime::timeout(KEEP_WITHIN, kept).await;
    }

    /// Makes a small file of the data directory durable; nothing is to be done in memory.
    pub(super) async fn keep(&self, name: &str, bytes: Vec<u8>) -> Result<(), StopError> {
        let Inner { config, jobs, reserve, .. } = &*self.inner;
        let (Storage::Dir(dir), Some(jobs)) = (&config.storage, jobs) else { return Ok(()) };
        let (path, reserve) = (dir.join(name), reserve.clone());
        let kept = jobs.run(move |disk| replace_spending(disk, reserve.as_ref(), &path, &bytes)).await;
        kept.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| StopError::Storage(e.to_string()))
    }
}

/// What came of asking once.
enum Joined {
    In(MemberDone),
    NotYet(String),
    /// It will not be, unless an operator acts.
    Never(String),
}
