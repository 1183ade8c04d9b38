//! Limits and delays.

use std::time::Duration;

/// Limits and delays of the transport and of what openraft does over it. The defaults suit a local network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportConfig {
    /// How long connecting to one address may take, in milliseconds. Default 1000.
    pub connect_ms: u64,
    /// How long a handshake may take, on either side, in milliseconds. Default 2000.
    pub handshake_ms: u64,
    /// After the first failed dial, how long calls fail at once before the next dial, in milliseconds. It doubles with
    /// every failure; up to half of it is taken off at random. Default 20.
    pub backoff_min_ms: u64,
    /// Where it stops doubling, in milliseconds. Default 500.
    pub backoff_max_ms: u64,
    /// How long the dialling side may say nothing before it sends a ping, in milliseconds. Default 500.
    pub ping_ms: u64,
    /// How long the accepting side may say nothing, pings not answered included, before the dialling side gives the
    /// connection up, in milliseconds. Default 1500.
    pub silence_ms_max: u64,
    /// How long the dialling side may say nothing before the accepting side gives up, in milliseconds. Default 5000.
    pub idle_ms_max: u64,
    /// How many bytes may wait in the send queue of a connection. Default 32 MiB.
    pub queue_bytes_max: usize,
    /// How many frames may wait in the send queue of a connection. Default 4096.
    pub queue_frames_max: usize,
    /// How many requests of one stream may be unanswered. Both sides must agree. Default 64.
    pub stream_requests_max: usize,
    /// How many bytes of one stream may be unanswered; one request more may exceed it. Default 4 MiB.
    pub stream_bytes_max: usize,
    /// A request of an append stream with more bytes of entries is split, down to single entries. Default 1 MiB.
    pub append_bytes_max: usize,
    /// How many streams a peer may have open on one connection. Default 64.
    pub streams_max: usize,
    /// How many requests of one connection are worked on together; more are refused, unless they are Raft's. Default
    /// 8192, as many as a node takes from its own clients.
    pub requests_max: usize,
    /// How many accepted connections may be in the handshake. Default 64.
    pub handshakes_max: usize,
    /// How many accepted connections there may be. Default 1024.
    pub connections_max: usize,
    /// How long an append stream may wait for the oldest answer, in milliseconds. It includes the peer's sync of its
    /// log. Not openraft's ttl, which is the heartbeat interval. Default 2000.
    pub append_idle_ms: u64,
    /// How long a snapshot stream may wait for the oldest chunk to be taken, in milliseconds. Default 10 000.
    pub chunk_idle_ms: u64,
    /// How long installing a received snapshot may take, in milliseconds. Default 60 000.
    pub install_ms: u64,
    /// How long sending a snapshot may take as a whole, in milliseconds. Default one hour.
    pub snapshot_ms: u64,
    /// How many chunks of a snapshot may be unacknowledged. Default 4.
    pub chunks_max: usize,
    /// The first delay after which openraft retries an unreachable peer, in milliseconds; it doubles. Default 50.
    pub retry_min_ms: u64,
    /// Where it stops doubling, in milliseconds. Default 500.
    pub retry_max_ms: u64,
}

impl Default for TransportConfig {
    fn default() -> Self {
        Self {
            connect_ms: 1000,
            handshake_ms: 2000,
            backoff_min_ms: 20,
            backoff_max_ms: 500,
            ping_ms: 500,
            silence_ms_max: 1500,
            idle_ms_max: 5000,
            queue_bytes_max: 32 * 1024 * 1024,
            queue_frames_max: 4096,
            stream_requests_max: 64,
            stream_bytes_max: 4 * 1024 * 1024,
            append_bytes_max: 1024 * 1024,
            streams_max: 64,
            requests_max: 8192,
            handshakes_max: 64,
            connections_max: 1024,
            append_idle_ms: 2000,
            chunk_idle_ms: 10_000,
            install_ms: 60_000,
            snapshot_ms: 3_600_000,
            chunks_max: 4,
            retry_min_ms: 50,
            retry_max_ms: 500,
        }
    }
}

/// A duration of that many milliseconds.
pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
