//! Drives [`Founding`]: asks the peers, makes what it decides durable, and starts consensus with the result.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use openraft::Instant;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::type_config::alias::InstantOf;
use openraft_rt::AsyncRuntime;
use prost::Message;
use quorate_core::ClusterId;
use quorate_core::disk::read_file;
use quorate_core::founding::{Card, Decision, FILE_NAME, Founding, FoundingRecord, PROMISE_FILE_NAME, RecordDamage};
use quorate_core::wire::{Request, Response};

use super::{Node, StartError, StopError};
use crate::jobs::{Jobs, lock};
use crate::platform::Platform;
use crate::reserve::{Reserve, replace_spending};
use crate::transport::{PeerIdentity, Target};
use crate::types::{Types, nodes_to};

/// Between two rounds of looking at all peers: the least as long as all are there, since then it is soon over; twice as long
/// each time as long as some are not.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// So often the first founder looks whether the others can vote, before it leaves the election to chance.
const LOOKS: u32 = 20;
/// For one peer's answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Reads a record of a data directory, and writes it again as it is: if a sync of it had failed in an earlier process,
/// what is read is not yet on the medium.
#[doc(hidden)]
pub async fn read_record<P: Platform, R: Send + 'static>(
    jobs: &Jobs<P::Disk>,
    path: PathBuf,
    reserve: &Reserve<P::Disk>,
    decode: fn(&[u8]) -> Result<R, RecordDamage>,
) -> Result<Option<R>, StartError> {
    let (job_path, reserve) = (path.clone(), reserve.clone());
    let read = jobs.run(move |disk| {
        let bytes = read_file(disk, &job_path)?;
        let record = decode(&bytes);
        if record.is_ok() {
            replace_spending(disk, Some(&reserve), &job_path, &bytes)?;
        }
        io::Result::Ok(record)
    });
    match read.await.unwrap_or_else(|e| Err(io::Error::other(e))) {
        Ok(Ok(record)) => Ok(Some(record)),
        Ok(Err(error)) => Err(StartError::Record { path, error }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StartError::Io { path, error }),
    }
}

impl<P: Platform> Node<P> {
    /// Answers anybody with this node's card. A member that shows its own says where it can be reached.
    pub(super) fn handle_founding(&self, from: &PeerIdentity, shown: Bytes) -> Bytes {
        if let Ok(shown) = Card::decode(shown)
            && shown.node_id == from.node_id.0
            && from.cluster_id != ClusterId::NONE
        {
            self.inner.peers.hint(Some(from.node_id), &shown.peer_addrs);
        }
        self.own_card()
    }

    /// What it shows others.
    pub(super) fn own_card(&self) -> Bytes {
        let card = Card { disk_full: self.disk_full(), ..lock(&self.inner.card).clone() };
        card.encode_to_vec().into()
    }

    /// Until the cluster is founded, or cannot be, or the node stops.
    pub(super) async fn found(&self, mut founding: Founding) {
        let begun = InstantOf::<Types<P::Runtime>>::now();
        let (mut waiting_for, mut pause) = (Vec::new(), PAUSE_MIN);
        while !self.is_stopping() {
            founding.handle_time(InstantOf::<Types<P::Runtime>>::now().saturating_duration_since(begun));
            self.show(founding.card().clone());
            let result = match founding.decide() {
                Decision::Ask { missing } => {
                    if missing != waiting_for {
                        tracing::info!(peers = ?missing, "waiting for peers to found the cluster");
                        (waiting_for, pause) = (missing, PAUSE_MIN);
                    }
                    let result = self.ask(&mut founding).await;
                    P::Runtime::sleep(pause).await;
                    pause = if waiting_for.is_empty() { PAUSE_MIN } else { PAUSE_MAX.min(pause * 2) };
                    result
                }
                Decision::Keep(promise) => {
                    let durable = self.keep(PROMISE_FILE_NAME, promise.to_file()).await;
                    founding.kept(promise);
                    durable
                }
                Decision::Found(record) => match self.keep(FILE_NAME, record.to_file()).await {
                    Ok(()) => {
                        self.enter(&record).await;
                        return self.ask_for_first_votes(&record).await;
                    }
                    failed => failed,
                },
                Decision::Join { peer, cluster } => {
                    tracing::info!(peer, %cluster, "a listed peer belongs to a cluster: asking to be admitted there");
                    self.begin_to_wait();
                    return self.join(self.inner.config.listed_peers().collect(), Some((peer, cluster))).await;
                }
            };
            if let Err(error) = result {
                self.fail(error);
                return;
            }
        }
    }

    /// Belongs to the cluster of a founded record, and initializes consensus if nobody has. All members do so with
    /// the same membership, which is what makes it safe.
    pub(super) async fn enter(&self, record: &FoundingRecord) {
        let cluster = record.cluster_id();
        // Before any peer's vote request is taken: a node that has voted cannot be initialized any more.
        if let Err(error) = self.inner.raft.initialize(nodes_to(&record.membership().members)).await {
            tracing::debug!(%error, "consensus was initialized before");
        }
        self.inner.identity.set_cluster(cluster);
        {
            let mut card = lock(&self.inner.card);
            card.cluster = cluster.0;
            card.record = Some(record.clone());
        }
        tracing::info!(%cluster, node = %self.node_id(), "this node belongs to a cluster");
    }

    /// Of all founders, which have the same log, the first by id campaigns as soon as the others can vote. Without it they
    /// would all wait for an election timeout, and some of them campaign together.
    async fn ask_for_first_votes(&self, record: &FoundingRecord) {
        let founders = record.membership().members;
        if founders.keys().next() != Some(&self.node_id()) {
            return;
        }
        let request = &Request::Founding(self.own_card());
        for _ in 0..LOOKS {
            let others = founders.iter().filter(|(id, _)| **id != self.node_id());
            let can_vote = join_all(others.map(|(id, founder)| async move {
                let target = Target { node: Some(*id), addrs: founder.peer_addrs.clone() };
                let Ok(Response::Founding(card)) = self.inner.peers.call(&target, request, ANSWER_WITHIN).await else {
                    return false;
                };
                Card::decode(card).is_ok_and(|card| card.cluster == record.cluster_id().0)
            }));
            let all_can = can_vote.await.into_iter().all(|can| can);
            if self.inner.raft.server_metrics().borrow_watched().current_leader.is_some() || self.is_stopping() {
                return;
            }
            if all_can {
                if let Err(error) = self.inner.raft.trigger().elect(true).await {
                    tracing::debug!(%error, "no election");
                }
                return;
            }
            P::Runtime::sleep(PAUSE_MIN).await;
        }
    }

    fn show(&self, card: Card) {
        *lock(&self.inner.card) = card;
    }

    async fn ask(&self, founding: &mut Founding) -> Result<(), StopError> {
        let request = Request::Founding(founding.card().encode_to_vec().into());
        let request = &request;
        let peers: Vec<_> = founding.peers().map(|(name, addrs)| (name.clone(), addrs.clone())).collect();
        let calls = peers.iter().map(|(_, addrs)| async move {
            let target = Target { node: None, addrs: addrs.clone() };
            self.inner.peers.call(&target, request, ANSWER_WITHIN).await
        });
        let mut refused = Ok(());
        for ((name, _), answer) in peers.iter().zip(join_all(calls).await) {
            let card = match answer {
                Ok(Response::Founding(bytes)) => Card::decode(bytes).map_err(|error| error.to_string()),
                Ok(_) => Err("an answer to another question".to_owned()),
                Err(error) => Err(error.to_string()),
            };
            match card {
                Ok(card) => refused = refused.and(founding.handle_card(name, card)),
                Err(error) => {
                    tracing::debug!(peer = name, error, "no card");
                    founding.handle_silence(name);
                }
            }
        }
        match founding.decide() {
            Decision::Ask { .. } => Ok(refused?),
            _ => Ok(()),
        }
    }
}
