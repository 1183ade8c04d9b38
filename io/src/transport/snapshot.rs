//! The dialling side of snapshot streams.

use std::fmt;
use std::marker::PhantomData;

use openraft_rt::AsyncRuntime;
use quorate_core::wire::{PullRequest, PulledPart, SnapshotPart, SnapshotReply};
use quorate_core::{LogId, Vote};

use super::config::{TransportConfig, ms};
use super::connection::Lane;
use super::{CallError, Lost};

/// Sends one snapshot: see [`Peers::open_snapshot_stream`](super::Peers::open_snapshot_stream). Send
/// [`SnapshotPart::Begin`], the chunks, [`SnapshotPart::End`]; then [`SnapshotStream::finish`]. A few chunks are under
/// way at a time; the peer acknowledges one when it has taken it.
pub struct SnapshotStream<R: AsyncRuntime> {
    lane: Lane,
    unacknowledged: usize,
    config: TransportConfig,
    runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> fmt::Debug for SnapshotStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SnapshotStream").field("unacknowledged", &self.unacknowledged).finish_non_exhaustive()
    }
}

impl<R: AsyncRuntime> SnapshotStream<R> {
    pub(super) fn new(lane: Lane, config: &TransportConfig) -> Self {
        Self { lane, unacknowledged: 0, config: config.clone(), runtime: PhantomData }
    }

    /// Sends a part, once there is room for it. `Some` is the peer's early and last answer: send no more.
    ///
    /// # Errors
    /// No acknowledgement came within [`TransportConfig::chunk_idle_ms`], or the connection broke.
    pub async fn send(&mut self, part: &SnapshotPart) -> Result<Option<SnapshotReply>, CallError> {
        while self.unacknowledged >= self.config.chunks_max {
            match self.reply(self.config.chunk_idle_ms).await? {
                SnapshotReply::Taken => {}
                last => return Ok(Some(last)),
            }
        }
        let (what, payload) = part.encode();
        self.lane.send(what, payload)?;
        self.unacknowledged += 1;
        Ok(None)
    }

    /// Waits until the peer has installed what was sent; the vote is the greatest it has promised.
    ///
    /// # Errors
    /// It did not come within [`TransportConfig::install_ms`], or the connection broke.
    pub async fn finish(mut self) -> Result<Result<Vote, quorate_core::wire::Failure>, CallError> {
        loop {
            let limit_ms = if self.unacknowledged > 0 { self.config.chunk_idle_ms } else { self.config.install_ms };
            match self.reply(limit_ms).await? {
                SnapshotReply::Taken => {}
                SnapshotReply::Installed(vote) => return Ok(Ok(vote)),
                SnapshotReply::Failed(failure) => return Ok(Err(failure)),
            }
        }
    }

    async fn reply(&mut self, limit_ms: u64) -> Result<SnapshotReply, CallError> {
        let malformed = |why: String| CallError::Unknown(Lost::Malformed(why));
        let received = R::timeout(ms(limit_ms), self.lane.recv()).await;
        let (what, payload) = received.map_err(|_| CallError::Unknown(Lost::Timeout))??;
        let reply = SnapshotReply::decode(what, payload).map_err(|e| malformed(e.to_string()))?;
        if reply == SnapshotReply::Taken {
            let left = self.unacknowledged.checked_sub(1);
            self.unacknowledged = left.ok_or_else(|| malformed("more acknowledgements than chunks".to_owned()))?;
        }
        Ok(reply)
    }
}

/// Pulls one snapshot: see [`Peers::open_pull_stream`](super::Peers::open_pull_stream). A few parts are under way at a
/// time.
pub struct PullStream<R: AsyncRuntime> {
    lane: Lane,
    part_ms: u64,
    runtime: PhantomData<fn() -> R>,
}

impl<R: AsyncRuntime> fmt::Debug for PullStream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PullStream").finish_non_exhaustive()
    }
}

impl<R: AsyncRuntime> PullStream<R> {
    pub(super) fn begin(lane: Lane, config: &TransportConfig, at_least: LogId) -> Result<Self, CallError> {
        let mut stream = Self { lane, part_ms: config.chunk_idle_ms, runtime: PhantomData };
        stream.send(PullRequest::Begin { at_least })?;
        for _ in 1..config.chunks_max {
            stream.send(PullRequest::Next)?;
        }
        Ok(stream)
    }

    fn send(&mut self, request: PullRequest) -> Result<(), CallError> {
        let (what, payload) = request.encode();
        self.lane.send(what, payload)
    }

    /// The next part.
    ///
    /// # Errors
    /// It did not come within [`TransportConfig::chunk_idle_ms`], or the connection broke.
    pub async fn next(&mut self) -> Result<PulledPart, CallError> {
        let received = R::timeout(ms(self.part_ms), self.lane.recv()).await;
        let (what, payload) = received.map_err(|_| CallError::Unknown(Lost::Timeout))??;
        let part = PulledPart::decode(what, payload);
        let part = part.map_err(|e| CallError::Unknown(Lost::Malformed(e.to_string())))?;
        if !part.is_last() {
            self.send(PullRequest::Next)?;
        }
        Ok(part)
    }
}
