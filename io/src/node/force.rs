//! Carries out [`NodeConfig::force_new_cluster`]: what is decided, and why a crash does no harm, is in
//! [`quorate_core::founding::forcing`].

use std::io;
use std::path::Path;

use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage};
use openraft_rt::AsyncRuntime;
use quorate_core::disk::Disk;
use quorate_core::founding::{self, Forcing, FoundingRecord, forcing};
use quorate_core::{Entry, LogId, Membership, NodeId, Payload, Vote, admission};
use rand::Rng;

use super::admission::Records;
use super::start::Opened;
use super::{NodeConfig, StartError, Storage};
use crate::log_store::LogStore;
use crate::platform::Platform;
use crate::reserve::replace_spending;
use crate::types::{entry_to, log_id_from, log_id_to, vote_from, vote_to};

fn decide(config: &NodeConfig, records: &Records) -> Forcing {
    forcing(config.force_new_cluster, records.founding.as_ref(), records.cluster())
}

/// Whether this node goes on alone from now: nobody else has anything for it.
pub(super) fn is_alone(config: &NodeConfig, records: &Records) -> bool {
    matches!(decide(config, records), Forcing::Begin | Forcing::Finish(_))
}

/// Refuses to begin with nothing, before anything is made of an empty directory.
pub(super) fn check(config: &NodeConfig, dir: &Path, records: &Records) -> Result<(), StartError> {
    match decide(config, records) {
        Forcing::NoCluster => Err(StartError::NothingToForce(dir.to_owned())),
        _ => Ok(()),
    }
}

/// Makes a node that goes on alone the only member of a new cluster. Consensus must not have started.
pub(super) async fn carry_out<P: Platform>(config: &NodeConfig, opened: &mut Opened<P>) -> Result<(), StartError> {
    let Storage::Dir(dir) = &config.storage else { return Ok(()) };
    let (from, node) = (opened.records.cluster(), opened.identity.node_id);
    let record = match decide(config, &opened.records) {
        Forcing::No | Forcing::NoCluster => return Ok(()),
        Forcing::DoneBefore => {
            tracing::warn!(
                cluster = %from,
                "--force-new-cluster: an earlier start has done it, nothing more is done. Remove the flag: it works again \
                 after a start without it"
            );
            return Ok(());
        }
        Forcing::Arm(record) => return keep(dir, opened, record).await,
        Forcing::Begin => {
            if opened.log.last_index().is_none() && opened.store.durable().is_none() {
                return Err(StartError::NothingToForce(dir.clone()));
            }
            let (token, nonce) = (&config.founding.token, P::Runtime::thread_rng().next_u64());
            let record = FoundingRecord::forced(from, nonce, token, &config.name, node, &config.peer_addrs);
            keep(dir, opened, record.clone()).await?;
            record
        }
        Forcing::Finish(record) => record,
    };
    let last = stand_alone(&mut opened.log, node, record.membership()).await;
    let last = last.map_err(|error| StartError::Io { path: dir.clone(), error })?;
    keep(dir, opened, record.done()).await?;
    let (from, cluster) = (record.forced_from().unwrap_or_default(), record.cluster_id());
    tracing::warn!(
        %from, %cluster, %node, %last,
        "--force-new-cluster: this node is the only member of a new cluster now, with what it had of the old one. Writes \
         that the others acknowledged and this node had not received are lost. Never start the others with their old data \
         again: wipe them, and let them join"
    );
    Ok(())
}

/// Appends a membership of this node alone, in a term of its own that is later than any it knows, and vouches for it:
/// in a cluster of one it is committed once it is durable, and with it all that is before it.
async fn stand_alone<P: Platform>(log: &mut LogStore<P>, node: NodeId, alone: Membership) -> io::Result<LogId> {
    let last = log.get_log_state().await?.last_log_id.as_ref().map(log_id_from);
    let vote = log.get_log_reader().await.read_vote().await?.as_ref().map(vote_from);
    let term = vote.map_or(0, |vote| vote.term).max(last.map_or(0, |last| last.term)) + 1;
    let vote = vote_to(&Vote { term, node, committed: true });
    let log_id = LogId { term, index: last.map_or(0, |last| last.index + 1) };
    let entry = entry_to(Entry { log_id, payload: Payload::Membership(alone) }).map_err(io::Error::other)?;
    // Before the entry: no log has an entry of a later term than its vote.
    log.save_vote(&vote).await?;
    log.append([entry], IOFlushed::noop()).await?;
    log.save_committed(Some(log_id_to(log_id))).await?;
    // Once more, for its flush: what is before it is durable then.
    log.save_vote(&vote).await?;
    Ok(log_id)
}

/// Makes the record durable. It outweighs that of an admission, to a cluster that is no more, which then goes.
async fn keep<P: Platform>(dir: &Path, opened: &mut Opened<P>, record: FoundingRecord) -> Result<(), StartError> {
    let Some(jobs) = &opened.jobs else { return Ok(()) };
    let admitted = opened.records.admission.is_some().then(|| dir.join(admission::FILE_NAME));
    let (path, bytes, reserve) = (dir.join(founding::FILE_NAME), record.to_file(), opened.reserve.clone());
    let job_path = path.clone();
    let kept = jobs.run(move |disk| {
        replace_spending(disk, reserve.as_ref(), &job_path, &bytes)?;
        admitted.map_or(Ok(()), |path| disk.remove(&path))
    });
    kept.await.map_err(io::Error::other).flatten().map_err(|error| StartError::Io { path, error })?;
    opened.records = Records { founding: Some(record), ..Records::default() };
    Ok(())
}
