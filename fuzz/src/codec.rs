//! Frames, the handshake, messages, and the small durable records that share their encoding.

use std::fmt::Debug;

use bytes::{Bytes, BytesMut};
use quorate_core::admission::Admission;
use quorate_core::founding::{FoundingRecord, Promise};
use quorate_core::log::record;
use quorate_core::wire::{
    AppendRequest, AppendResponse, FRAME_BYTES_MAX, Frame, FrameError, FrameKind, HANDSHAKE_BYTES_MAX, Hello,
    NAME_BYTES_MAX, Refusal, Request, Response, SnapshotPart, SnapshotReply, Welcome, decode_frame, encode_frame,
};
use quorate_core::{DecodeError, identity};

use super::input::Input;

/// How every handshake payload begins.
const HANDSHAKE_MAGIC: &[u8] = b"quorate\0";

/// Takes the frames out of a stream that arrives in pieces of `piece` bytes.
fn frames(stream: &[u8], piece: usize, bytes_max: usize) -> (Vec<Frame>, Option<FrameError>) {
    let (mut buf, mut frames) = (BytesMut::new(), Vec::new());
    for piece in stream.chunks(piece) {
        buf.extend_from_slice(piece);
        loop {
            match decode_frame(&mut buf, bytes_max) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// What was decoded is encoded and decoded again, and must be the same.
fn survives<T: PartialEq + Debug>(
    value: Result<T, DecodeError>,
    encode: impl FnOnce(&T) -> Vec<Bytes>,
    decode: impl FnOnce(Bytes) -> Result<T, DecodeError>,
) {
    if let Ok(value) = value {
        let again = decode(encode(&value).concat().into());
        assert_eq!(again, Ok(value));
    }
}

fn handshake(payload: &Bytes) {
    if let Ok(mut hello) = Hello::decode(payload.clone()) {
        let _ = hello.version();
        hello.name.truncate(hello.name.floor_char_boundary(NAME_BYTES_MAX));
        survives(Ok(hello), Hello::encode, Hello::decode);
    }
    if let Ok(mut welcome) = Welcome::decode(payload.clone()) {
        welcome.name.truncate(welcome.name.floor_char_boundary(NAME_BYTES_MAX));
        survives(Ok(welcome), Welcome::encode, Welcome::decode);
    }
    if let Ok(mut refusal) = Refusal::decode(payload.clone()) {
        refusal.text.truncate(refusal.text.floor_char_boundary(NAME_BYTES_MAX));
        survives(Ok(refusal), Refusal::encode, Refusal::decode);
    }
}

/// The frame decoder and the handshake. A stream means the same however it is cut; what was encoded is decoded again;
/// nothing panics.
pub fn frame(data: &[u8]) {
    let mut input = Input(data);
    let (piece, kind, what, id) = (usize::from(input.u8()) + 1, input.u8(), input.u8(), input.u64());
    for bytes_max in [HANDSHAKE_BYTES_MAX, FRAME_BYTES_MAX] {
        let whole = frames(input.0, data.len().max(1), bytes_max);
        assert_eq!(frames(input.0, piece, bytes_max), whole);
        for frame in whole.0 {
            let encoded = encode_frame(frame.kind, frame.what, frame.id, vec![frame.payload.clone()]);
            let encoded = encoded.expect("it was received within the limit").concat();
            assert_eq!(frames(&encoded, piece, bytes_max), (vec![frame], None));
        }
    }
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
    let kind = KINDS[usize::from(kind) % KINDS.len()];
    let payload = Bytes::copy_from_slice(input.0);
    let mut stream = encode_frame(kind, what, id, vec![payload.clone()]).expect("inputs are small").concat();
    let sent = Frame { kind, what, id, payload: payload.clone() };
    assert_eq!(frames(&stream, piece, FRAME_BYTES_MAX), (vec![sent], None));
    // One flipped bit behind the length, which the checksum does not cover.
    let bit = 32 + id as usize % (stream.len() * 8 - 32);
    stream[bit / 8] ^= 1 << (bit % 8);
    assert_eq!(frames(&stream, piece, FRAME_BYTES_MAX), (vec![], Some(FrameError::Checksum)));

    handshake(&payload);
    handshake(&[HANDSHAKE_MAGIC, input.0].concat().into());
}

/// Every decoder of messages and small records: nothing panics, and what decodes survives encoding.
///
/// The first byte of the input is the `what` of the frame, the rest is its payload.
pub fn message(data: &[u8]) {
    let mut input = Input(data);
    let what = input.u8();
    let payload = Bytes::copy_from_slice(input.0);
    survives(Request::decode(what, payload.clone()), |m| m.encode().1, |bytes| Request::decode(what, bytes));
    survives(Response::decode(what, payload.clone()), |m| m.encode().1, |bytes| Response::decode(what, bytes));
    survives(SnapshotPart::decode(what, payload.clone()), |m| m.encode().1, |bytes| SnapshotPart::decode(what, bytes));
    survives(
        SnapshotReply::decode(what, payload.clone()),
        |m| m.encode().1,
        |bytes| SnapshotReply::decode(what, bytes),
    );
    survives(AppendRequest::decode(payload.clone()), AppendRequest::encode, AppendRequest::decode);
    survives(AppendResponse::decode(payload.clone()), AppendResponse::encode, AppendResponse::decode);
    records(&payload);
    small_files(&payload);
}

fn records(body: &Bytes) {
    let mut at = 0;
    while let Ok(Some((record, next))) = record::decode_at(body, at) {
        let mut encoded = Vec::new();
        record::encode(&record, &mut encoded);
        assert_eq!(record::decode_one(&encoded.into()), Ok(record));
        at = next;
    }
    if let Ok(base) = record::decode_base(body) {
        let mut encoded = Vec::new();
        record::encode_base(&base, &mut encoded);
        assert_eq!(record::decode_base(&encoded), Ok(base));
    }
}

fn small_files(content: &[u8]) {
    let after = |crc: u32| [&crc.to_le_bytes()[..], content].concat();
    for file in [content.to_vec(), after(crc32c::crc32c(content))] {
        if let Ok(record) = FoundingRecord::from_file(&file) {
            let _ = (record.cluster_id(), record.membership());
            assert_eq!(FoundingRecord::from_file(&record.to_file()), Ok(record));
        }
        if let Ok(promise) = Promise::from_file(&file) {
            assert_eq!(Promise::from_file(&promise.to_file()), Ok(promise));
        }
        if let Ok(admission) = Admission::from_file(&file) {
            assert_eq!(Admission::from_file(&admission.to_file()), Ok(admission));
        }
    }
    let before = [content, &crc32c::crc32c(content).to_le_bytes()].concat();
    for file in [content, &before] {
        if let Ok(identity) = identity::decode(file) {
            assert_eq!(identity::encode(identity), file);
        }
    }
}
