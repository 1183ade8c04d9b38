//! What an operator does about the members: asks any node to take one out, again and again until it is done, and brings
//! machines back with an empty disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_channel::oneshot;
use openraft_rt::AsyncRuntime;
use quorate_core::NodeId;
use quorate_core::disk::Wake;
use quorate_io::MemberError;

use crate::cluster::Door;
use crate::platform::{SimRuntime, SimWake};
use crate::roster::Roster;

/// Between two attempts.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// For an answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// After so many attempts nobody tries any more: the cluster had many times the time that it may take to recover.
const ATTEMPTS: u32 = 1_000;

/// A member that is to be taken out, or was.
#[derive(Debug)]
pub(crate) struct Order {
    /// Whose machine.
    pub(crate) index: usize,
    /// Which member.
    member: Option<u64>,
    /// When its machine starts again with an empty disk, in nanoseconds.
    pub(crate) back_ns: u64,
    /// It is no member any more.
    done: Arc<AtomicBool>,
}

impl Order {
    /// For a machine whose member is gone already.
    pub(crate) fn fulfilled(index: usize) -> Self {
        Self { index, member: None, back_ns: 0, done: Arc::new(true.into()) }
    }

    /// Begins to ask for the removal of a member. The bell is rung when it is done.
    pub(crate) fn remove(
        index: usize,
        back_ns: u64,
        member: u64,
        doors: Vec<Door>,
        roster: Roster,
        bell: SimWake,
    ) -> Self {
        roster.dismiss(member);
        let done = Arc::new(AtomicBool::new(false));
        let told = done.clone();
        drop(SimRuntime::spawn(async move {
            for attempt in 0..ATTEMPTS {
                let door = &doors[(index + attempt as usize) % doors.len()];
                if ask(door, member, &roster).await {
                    roster.set_leaving(None);
                    told.store(true, Ordering::Relaxed);
                    bell.wake();
                    return;
                }
                SimRuntime::sleep(ASK_EVERY).await;
            }
        }));
        Self { index, member: Some(member), back_ns, done }
    }

    /// Whether somebody else has become a member on this machine meanwhile: one that had lost its disk before its member
    /// was taken out may do so by itself.
    pub(crate) fn is_overtaken(&self, machine: u32, roster: &Roster) -> bool {
        let present = roster.present_id(machine);
        present.is_some() && present != self.member && !roster.is_nobody(machine)
    }

    /// Whether this is the member that was to be taken out.
    pub(crate) fn is_of(&self, member: u64) -> bool {
        self.member == Some(member)
    }

    /// Whether the member is out.
    pub(crate) fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }
}

/// Whether a node says that the member is out.
async fn ask(door: &Door, member: u64, roster: &Roster) -> bool {
    let Some(live) = door.1() else { return false };
    let (sender, receiver) = oneshot::channel();
    let asked = door.0.spawn(async move {
        // Nobody may be waiting any more.
        let _ = sender.send(live.node.remove_member(&NodeId(member).to_string(), false).await);
    });
    if asked.is_none() {
        return false;
    }
    match SimRuntime::timeout(PATIENCE, receiver).await {
        Ok(Ok(Ok(_))) => true,
        // One that leads no more and does not know it may not have heard of the member yet.
        Ok(Ok(Err(MemberError::NotFound(_)))) => !roster.is_member(member),
        _ => false,
    }
}
