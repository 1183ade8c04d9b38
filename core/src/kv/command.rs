//! Commands and responses of the key-value machine, and their encoding.
//!
//! Both are protobuf messages with explicit tags; a payload is sliced out of the message, not copied. New kinds of
//! command get new tags. A command is decoded strictly: one that carries a field this version does not know, or is not
//! in canonical form, is malformed as a whole, because to ignore a field (a condition, say) would be to do something
//! else than what was asked. So a new kind must not be proposed before every member knows it.

use bytes::Bytes;
use prost::Message as _;

use super::Document;

/// What a client asks of the key-value machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sets a key.
    Put {
        /// 1 to [`super::KEY_BYTES_MAX`] bytes, any bytes.
        key: Bytes,
        /// Its new value.
        document: Document,
    },
    /// Removes a key.
    Delete {
        /// 1 to [`super::KEY_BYTES_MAX`] bytes, any bytes.
        key: Bytes,
    },
}

/// What the machine answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The store's revision after the command.
    pub revision: u64,
    /// What the command did.
    pub outcome: Outcome,
}

/// What a command did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The key has its new value.
    Put {
        /// The revision at which the key was created: this one, if it was not there before.
        create_revision: u64,
        /// Writes to the key since it was created, this one included: 1 if it was not there before.
        version: u64,
    },
    /// The key is not there.
    Delete {
        /// Whether it was there before.
        deleted: bool,
    },
    /// The command made no sense and changed nothing.
    Invalid {
        /// Why, for people.
        reason: String,
    },
}

/// The bytes are not a command, or not a response, that this version knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub(super) &'static str);

impl Command {
    /// The key that the command is about.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    /// The command as bytes.
    pub fn encode(&self) -> Bytes {
        let kind = match self {
            Self::Put { key, document } => proto::Kind::Put(proto::Put { key: key.clone(), value: document.bytes() }),
            Self::Delete { key } => proto::Kind::Delete(proto::Delete { key: key.clone() }),
        };
        proto::Command { kind: Some(kind) }.encode_to_vec().into()
    }

    /// The command in `bytes`. The document is a slice of `bytes` and is not checked again: it was a [`Document`] where
    /// it was encoded, and a verdict that hung on the version of a JSON parser could differ between replicas.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let message = proto::Command::decode(bytes.clone()).map_err(|_| Malformed("not a command"))?;
        if message.encoded_len() != bytes.len() {
            return Err(Malformed("a command with parts that this version does not know"));
        }
        match message.kind {
            Some(proto::Kind::Put(put)) => Ok(Self::Put { key: put.key, document: Document::trusted(put.value) }),
            Some(proto::Kind::Delete(delete)) => Ok(Self::Delete { key: delete.key }),
            None => Err(Malformed("an empty command")),
        }
    }
}

impl Response {
    pub(super) fn invalid(revision: u64, reason: &str) -> Self {
        Self { revision, outcome: Outcome::Invalid { reason: reason.to_owned() } }
    }

    /// The response as bytes.
    pub fn encode(&self) -> Bytes {
        let outcome = match &self.outcome {
            Outcome::Put { create_revision, version } => {
                proto::Outcome::Put(proto::PutDone { create_revision: *create_revision, version: *version })
            }
            Outcome::Delete { deleted } => proto::Outcome::Delete(proto::DeleteDone { deleted: *deleted }),
            Outcome::Invalid { reason } => proto::Outcome::Invalid(proto::Invalid { reason: reason.clone() }),
        };
        proto::Response { revision: self.revision, outcome: Some(outcome) }.encode_to_vec().into()
    }

    /// The response in `bytes`.
    ///
    /// # Errors
    /// See [`Malformed`].
    pub fn decode(bytes: &Bytes) -> Result<Self, Malformed> {
        let message = proto::Response::decode(bytes.clone()).map_err(|_| Malformed("not a response"))?;
        let outcome = match message.outcome {
            Some(proto::Outcome::Put(put)) => {
                Outcome::Put { create_revision: put.create_revision, version: put.version }
            }
            Some(proto::Outcome::Delete(delete)) => Outcome::Delete { deleted: delete.deleted },
            Some(proto::Outcome::Invalid(invalid)) => Outcome::Invalid { reason: invalid.reason },
            None => return Err(Malformed("a response of a kind that this version does not know")),
        };
        Ok(Self { revision: message.revision, outcome })
    }
}

/// The messages. A tag that was ever released is never used for anything else.
mod proto {
    use bytes::Bytes;

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Command {
        #[prost(oneof = "Kind", tags = "1, 2")]
        pub(super) kind: Option<Kind>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Kind {
        #[prost(message, tag = "1")]
        Put(Put),
        #[prost(message, tag = "2")]
        Delete(Delete),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Put {
        #[prost(bytes = "bytes", tag = "1")]
        pub(super) key: Bytes,
        #[prost(bytes = "bytes", tag = "2")]
        pub(super) value: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Delete {
        #[prost(bytes = "bytes", tag = "1")]
        pub(super) key: Bytes,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Response {
        #[prost(uint64, tag = "1")]
        pub(super) revision: u64,
        #[prost(oneof = "Outcome", tags = "2, 3, 4")]
        pub(super) outcome: Option<Outcome>,
    }

    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(super) enum Outcome {
        #[prost(message, tag = "2")]
        Put(PutDone),
        #[prost(message, tag = "3")]
        Delete(DeleteDone),
        #[prost(message, tag = "4")]
        Invalid(Invalid),
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct PutDone {
        #[prost(uint64, tag = "1")]
        pub(super) create_revision: u64,
        #[prost(uint64, tag = "2")]
        pub(super) version: u64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct DeleteDone {
        #[prost(bool, tag = "1")]
        pub(super) deleted: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Invalid {
        #[prost(string, tag = "1")]
        pub(super) reason: String,
    }
}
