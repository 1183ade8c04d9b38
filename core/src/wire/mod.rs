//! What peers say to each other, as bytes: frames, the handshake, and messages.
//!
//! ```text
//! frame   0        4        8      9      10     12           20
//!         +--------+--------+------+------+------+------------+---------+
//!         | length | crc32c | kind | what | 0    | id         | payload |
//!         +--------+--------+------+------+------+------------+---------+
//! length  of everything after these four bytes; little-endian, as all integers here
//! crc32c  of everything after these eight bytes
//! kind    [`FrameKind`]: the frame's role on the connection
//! what    which message the payload is ([`Request`], [`Response`], ...)
//! id      of the request or the stream that the frame belongs to
//! ```
//!
//! The dialling side sends a [`Hello`], the accepting side answers with [`Welcome`] or [`Refusal`]; then frames of all
//! other kinds follow. Everything in a payload is a protocol buffer with explicit tags.

mod append;
mod failure;
mod frame;
mod handshake;
mod member;
mod message;
mod pull;
mod rope;

pub use append::{AppendRequest, AppendResponse, ENTRIES_MAX};
pub use failure::{Failure, Fault};
pub use frame::{FRAME_BYTES_MAX, FRAME_HEADER_BYTES, Frame, FrameError, FrameKind, decode_frame, encode_frame};
pub use handshake::{
    HANDSHAKE_BYTES_MAX, Hello, NAME_BYTES_MAX, PROTOCOL_VERSION, Purpose, Refusal, RefusalCode, Welcome,
};
pub use member::{MemberAction, MemberDone, MemberRefusal, MemberRequest, RefusalKind};
pub use message::{
    ForwardWrite, LeaderHint, Request, Response, SnapshotMeta, SnapshotPart, SnapshotReply, TransferLeader,
    TransferRefusal, VoteRequest, VoteResponse,
};
pub use pull::{PullRequest, PulledPart};
