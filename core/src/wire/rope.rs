//! Writes protocol buffer fields into a list of byte strings, so that large payloads need not be copied.

use bytes::Bytes;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

/// Byte strings below this length are copied: a copy is then cheaper than one more slice to send.
const COPY_BYTES_MAX: usize = 1024;

/// A message under construction.
#[derive(Debug, Default)]
pub(super) struct Rope {
    parts: Vec<Bytes>,
    /// Not a `BytesMut`: varints are written byte by byte, which a vector does without a call for each.
    tail: Vec<u8>,
}

impl Rope {
    /// The fields of a message that has no large payload.
    pub(super) fn message(&mut self, message: &impl Message) -> &mut Self {
        message.encode(&mut self.tail).expect("a vector grows");
        self
    }

    /// One length-delimited field.
    pub(super) fn field(&mut self, tag: u32, bytes: &Bytes) -> &mut Self {
        self.field_head(tag, bytes.len());
        self.bytes(bytes)
    }

    /// One message field.
    pub(super) fn message_field(&mut self, tag: u32, message: &impl Message) -> &mut Self {
        self.field_head(tag, message.encoded_len());
        self.message(message)
    }

    /// Key and length of a field whose content follows.
    pub(super) fn field_head(&mut self, tag: u32, len: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut self.tail);
        encode_varint(len as u64, &mut self.tail);
    }

    /// Bytes as they are.
    pub(super) fn bytes(&mut self, bytes: &Bytes) -> &mut Self {
        if bytes.len() < COPY_BYTES_MAX {
            self.tail.extend_from_slice(bytes);
        } else {
            self.parts.push(std::mem::take(&mut self.tail).into());
            self.parts.push(bytes.clone());
        }
        self
    }

    /// Bytes that are copied.
    pub(super) fn copy(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
    }

    /// The parts of the message, in order.
    pub(super) fn finish(mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.parts.push(self.tail.into());
        }
        self.parts
    }
}

/// How many bytes a length-delimited field with this tag takes for a content of `len` bytes.
pub(super) fn field_len(tag: u32, len: usize) -> usize {
    encoded_len_varint(u64::from(tag) << 3) + encoded_len_varint(len as u64) + len
}
