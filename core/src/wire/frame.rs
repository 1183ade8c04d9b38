//! Frames: see the drawing in the [module](super).

use bytes::{Buf, Bytes, BytesMut};

/// The most bytes a frame may have, its header included.
pub const FRAME_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Length of a frame's header in bytes.
pub const FRAME_HEADER_BYTES: usize = 20;

/// Bytes before those that the checksum covers.
const UNCHECKED_BYTES: usize = 8;

/// The role of a frame on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameKind {
    /// The first frame of the side that dialled.
    Hello = 1,
    /// The answer that admits it.
    Welcome = 2,
    /// The answer that does not; the connection is closed after it.
    Refused = 3,
    /// Asks for one response with the same id.
    Request = 4,
    /// Answers the request with this id.
    Response = 5,
    /// The next request of a stream; the first one opens it.
    StreamItem = 6,
    /// The answer to the oldest unanswered request of a stream.
    StreamReply = 7,
    /// The sender neither sends nor wants any more of this stream.
    StreamEnd = 8,
    /// Asks for a [`FrameKind::Pong`]: are you there?
    Ping = 9,
    /// The answer.
    Pong = 10,
}

impl FrameKind {
    fn from_byte(byte: u8) -> Option<Self> {
        const KINDS: [FrameKind; 10] = [
            FrameKind::Hello,
            FrameKind::Welcome,
            FrameKind::Refused,
            FrameKind::Request,
            FrameKind::Response,
            FrameKind::StreamItem,
            FrameKind::StreamReply,
            FrameKind::StreamEnd,
            FrameKind::Ping,
            FrameKind::Pong,
        ];
        KINDS.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One frame, received whole and with the right checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its role.
    pub kind: FrameKind,
    /// Which message the payload is.
    pub what: u8,
    /// The request or the stream it belongs to.
    pub id: u64,
    /// The message.
    pub payload: Bytes,
}

/// Why bytes are no frame. There is no way to find the next frame after that: close the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The frame is larger than allowed.
    #[error("a frame of {bytes} bytes where at most {bytes_max} are allowed")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The limit.
        bytes_max: u64,
    },
    /// Somebody gave the address of a REST API for that of a peer.
    #[error("it speaks HTTP: that is the address of an API, and peers have another one")]
    Http,
    /// The length is less than a header's.
    #[error("a frame that is shorter than its header")]
    TooShort,
    /// The bytes are not those that were sent.
    #[error("a frame with a wrong checksum")]
    Checksum,
    /// The frame is whole, but this version does not know its kind.
    #[error("a frame of unknown kind {0}")]
    UnknownKind(u8),
}

/// Encodes a frame whose payload is the concatenation of `payload`, without copying it.
///
/// # Errors
/// [`FrameError::TooLarge`].
pub fn encode_frame(kind: FrameKind, what: u8, id: u64, payload: Vec<Bytes>) -> Result<Vec<Bytes>, FrameError> {
    let bytes = FRAME_HEADER_BYTES + payload.iter().map(Bytes::len).sum::<usize>();
    if bytes > FRAME_BYTES_MAX {
        return Err(FrameError::TooLarge { bytes: bytes as u64, bytes_max: FRAME_BYTES_MAX as u64 });
    }
    let length = u32::try_from(bytes - 4).expect("the limit is far below 4 GiB");
    let mut header = Vec::with_capacity(FRAME_HEADER_BYTES);
    header.extend_from_slice(&length.to_le_bytes());
    header.extend_from_slice(&[0; 4]);
    header.extend_from_slice(&[kind as u8, what, 0, 0]);
    header.extend_from_slice(&id.to_le_bytes());
    let crc = crc32c::crc32c(&header[UNCHECKED_BYTES..]);
    let crc = payload.iter().fold(crc, |crc, part| crc32c::crc32c_append(crc, part));
    header[4..UNCHECKED_BYTES].copy_from_slice(&crc.to_le_bytes());
    let mut parts = Vec::with_capacity(payload.len() + 1);
    parts.push(header.into());
    parts.extend(payload);
    Ok(parts)
}

/// Takes the next whole frame from the front of `buf`; `None` if more bytes are needed. The payload is a slice of
/// `buf`'s memory. Allocates nothing for what a length merely claims.
///
/// # Errors
/// See [`FrameError`]. A length above `bytes_max` is refused as soon as it is there.
pub fn decode_frame(buf: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, FrameError> {
    let Some(length) = buf.first_chunk().map(|b| u32::from_le_bytes(*b)) else { return Ok(None) };
    let bytes = u64::from(length) + 4;
    if bytes < FRAME_HEADER_BYTES as u64 {
        return Err(FrameError::TooShort);
    }
    if buf.starts_with(b"HTTP") {
        return Err(FrameError::Http);
    }
    if bytes > bytes_max as u64 {
        return Err(FrameError::TooLarge { bytes, bytes_max: bytes_max as u64 });
    }
    let bytes = usize::try_from(bytes).expect("it is at most bytes_max");
    if buf.len() < bytes {
        return Ok(None);
    }
    let mut frame = buf.split_to(bytes).freeze();
    frame.advance(4);
    let crc = frame.get_u32_le();
    if crc32c::crc32c(&frame) != crc {
        return Err(FrameError::Checksum);
    }
    let kind = frame.get_u8();
    let what = frame.get_u8();
    frame.advance(2);
    let id = frame.get_u64_le();
    let kind = FrameKind::from_byte(kind).ok_or(FrameError::UnknownKind(kind))?;
    Ok(Some(Frame { kind, what, id, payload: frame }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::proto::tests::bytes;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let frame = (1..=10u8, any::<u8>(), any::<u64>(), bytes()).prop_map(|(kind, what, id, payload)| Frame {
            kind: FrameKind::from_byte(kind).unwrap(),
            what,
            id,
            payload,
        });
        proptest::collection::vec(frame, 1..6)
    }

    fn encode(frames: &[Frame]) -> Vec<u8> {
        let parts = frames.iter().flat_map(|f| {
            let (a, b) = (f.payload.slice(..f.payload.len() / 2), f.payload.slice(f.payload.len() / 2..));
            encode_frame(f.kind, f.what, f.id, vec![a, b]).unwrap()
        });
        parts.flatten().collect()
    }

    proptest! {
        #[test]
        fn frames_round_trip_however_they_are_cut(frames in frames(), cut in 1..50usize) {
            let mut buf = BytesMut::new();
            let mut got = Vec::new();
            for piece in encode(&frames).chunks(cut) {
                buf.extend_from_slice(piece);
                while let Some(frame) = decode_frame(&mut buf, FRAME_BYTES_MAX).unwrap() {
                    got.push(frame);
                }
            }
            prop_assert_eq!(got, frames);
            prop_assert!(buf.is_empty());
        }

        #[test]
        fn a_changed_bit_is_noticed(frames in frames(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
            let mut bytes = encode(&frames[..1]);
            let at = at.index(bytes.len() - 4) + 4;
            bytes[at] ^= 1 << bit;
            prop_assert_eq!(decode_frame(&mut BytesMut::from(&bytes[..]), FRAME_BYTES_MAX), Err(FrameError::Checksum));
        }

        #[test]
        fn garbage_never_panics(bytes in bytes()) {
            let mut buf = BytesMut::from(&bytes[..]);
            while let Ok(Some(_)) = decode_frame(&mut buf, FRAME_BYTES_MAX) {}
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_at_once() {
        let mut buf = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert!(matches!(decode_frame(&mut buf, FRAME_BYTES_MAX), Err(FrameError::TooLarge { .. })));
        let large = Bytes::from(vec![0; FRAME_BYTES_MAX]);
        assert!(matches!(encode_frame(FrameKind::Ping, 0, 0, vec![large]), Err(FrameError::TooLarge { .. })));
    }

    #[test]
    fn an_http_server_is_told_from_a_peer() {
        let mut buf = BytesMut::from(&b"HTTP/1.1 400 Bad Request\r\n"[..]);
        assert_eq!(decode_frame(&mut buf, FRAME_BYTES_MAX), Err(FrameError::Http));
    }

    #[test]
    fn a_large_payload_is_not_copied() {
        let payload = Bytes::from(vec![1; 100_000]);
        let parts = encode_frame(FrameKind::Request, 1, 2, vec![payload.clone()]).unwrap();
        assert_eq!(parts[1].as_ptr(), payload.as_ptr());
    }
}
