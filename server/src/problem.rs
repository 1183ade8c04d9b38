//! What went wrong, as `application/problem+json` (RFC 9457).
//!
//! The `type` is `urn:quorate:problem:` and one of these names, which never change their meaning. A problem with a
//! write also says in `outcome` which of two things is true: `not-applied` (safe to send again) or `unknown` (it may
//! have been applied, or may yet be). A problem with a read has no `outcome`.
//!
//! | type | status | when | `Retry-After` |
//! |---|---|---|---|
//! | `not-found` | 404 | no such path | |
//! | `method-not-allowed` | 405 | the path has other methods, listed in `Allow` | |
//! | `key-not-found` | 404 | the key is not there at the revision that was read | |
//! | `invalid-key` | 400 | empty, or a bad percent-escape | |
//! | `invalid-query` | 400 | an unknown, repeated or malformed query parameter | |
//! | `invalid-json` | 400 | the body is not exactly one JSON value; `line` and `column` say where | |
//! | `invalid-request` | 400 | the body could not be read, or the node refused the request | |
//! | `too-large` | 413 | the key or the value is over its limit, `bytes_max` | |
//! | `no-leader` | 503 | no leader is known | 1 |
//! | `leader-changed` | 503 | the leader was replaced meanwhile | 1 |
//! | `unreachable` | 503 | the leader, or a quorum, cannot be reached | 1 |
//! | `timeout` | 503 | the deadline passed before anything was done | 1 |
//! | `overloaded` | 503 | a queue is full, or the disk does not keep up | 1 |
//! | `disk-full` | 507 | there is no space on the leader's disk, or on those of too many voters; reads go on | 1 |
//! | `stopping` | 503 | the node is stopping | 1 |
//! | `not-live`, `not-ready` | 503 | the answer of `/livez`, `/readyz` when it is not `ok` | 1 |
//! | `member-not-found` | 404 | no member has this name or id | |
//! | `conflict` | 409 | a change of members that contradicts what is, or another one is under way | |
//! | `would-lose-quorum` | 409 | the voters that can be reached would be no quorum afterwards | |
//! | `outcome-unknown` | 504 | a write failed after it was sent on; `detail` says why | |
//! | `storage` | 500 | the node's storage failed; the node stops itself, another one may answer | |
//! | `internal` | 500 | the node does not understand its own state machine's answer | |
//!
//! `outcome-unknown` carries no `Retry-After` on purpose: who sends the write again may apply it twice.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use quorate_io::{MemberError, ReadError, Reason, WriteError};
use serde::Serialize;

/// The `type` of a problem. See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the module's table says it")]
pub enum Kind {
    NotFound,
    MethodNotAllowed,
    KeyNotFound,
    InvalidKey,
    InvalidQuery,
    InvalidJson,
    InvalidRequest,
    TooLarge,
    NoLeader,
    LeaderChanged,
    Unreachable,
    Timeout,
    Overloaded,
    DiskFull,
    Stopping,
    NotLive,
    NotReady,
    MemberNotFound,
    Conflict,
    WouldLoseQuorum,
    OutcomeUnknown,
    Storage,
    Internal,
}

impl Kind {
    /// (last part of the `type`, status, title)
    const fn row(self) -> (&'static str, StatusCode, &'static str) {
        match self {
            Self::NotFound => ("not-found", StatusCode::NOT_FOUND, "no such path"),
            Self::MethodNotAllowed => {
                ("method-not-allowed", StatusCode::METHOD_NOT_ALLOWED, "the path does not have this method")
            }
            Self::KeyNotFound => ("key-not-found", StatusCode::NOT_FOUND, "the key is not there"),
            Self::InvalidKey => ("invalid-key", StatusCode::BAD_REQUEST, "the key is not valid"),
            Self::InvalidQuery => ("invalid-query", StatusCode::BAD_REQUEST, "the query is not valid"),
            Self::InvalidJson => ("invalid-json", StatusCode::BAD_REQUEST, "the body is not exactly one JSON value"),
            Self::InvalidRequest => ("invalid-request", StatusCode::BAD_REQUEST, "the request is not valid"),
            Self::TooLarge => ("too-large", StatusCode::PAYLOAD_TOO_LARGE, "the key or the value is too large"),
            Self::NoLeader => ("no-leader", StatusCode::SERVICE_UNAVAILABLE, "no leader is known"),
            Self::LeaderChanged => ("leader-changed", StatusCode::SERVICE_UNAVAILABLE, "the leader changed"),
            Self::Unreachable => ("unreachable", StatusCode::SERVICE_UNAVAILABLE, "the cluster cannot be reached"),
            Self::Timeout => ("timeout", StatusCode::SERVICE_UNAVAILABLE, "the deadline passed"),
            Self::Overloaded => ("overloaded", StatusCode::SERVICE_UNAVAILABLE, "the node is overloaded"),
            Self::DiskFull => ("disk-full", StatusCode::INSUFFICIENT_STORAGE, "the disk is full"),
            Self::Stopping => ("stopping", StatusCode::SERVICE_UNAVAILABLE, "the node is stopping"),
            Self::NotLive => ("not-live", StatusCode::SERVICE_UNAVAILABLE, "the node is not live"),
            Self::NotReady => ("not-ready", StatusCode::SERVICE_UNAVAILABLE, "the node is not ready"),
            Self::MemberNotFound => ("member-not-found", StatusCode::NOT_FOUND, "there is no such member"),
            Self::Conflict => ("conflict", StatusCode::CONFLICT, "the change contradicts what is"),
            Self::WouldLoseQuorum => ("would-lose-quorum", StatusCode::CONFLICT, "the cluster would lose its quorum"),
            Self::OutcomeUnknown => {
                ("outcome-unknown", StatusCode::GATEWAY_TIMEOUT, "the write may or may not be applied")
            }
            Self::Storage => ("storage", StatusCode::INTERNAL_SERVER_ERROR, "the node's storage failed"),
            Self::Internal => ("internal", StatusCode::INTERNAL_SERVER_ERROR, "the node failed"),
        }
    }

    fn of(reason: &Reason) -> Self {
        match reason {
            Reason::NoLeader => Self::NoLeader,
            Reason::LeaderChanged => Self::LeaderChanged,
            Reason::Timeout => Self::Timeout,
            Reason::Overloaded => Self::Overloaded,
            Reason::DiskFull => Self::DiskFull,
            Reason::TooLarge { .. } => Self::TooLarge,
            Reason::Stopping => Self::Stopping,
            Reason::Unreachable(_) => Self::Unreachable,
            Reason::Storage(_) => Self::Storage,
            Reason::Invalid(_) => Self::InvalidRequest,
        }
    }
}

/// Whether a failed write was applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It was not and never will be.
    NotApplied,
    /// It may have been, or may yet be.
    Unknown,
}

/// A problem: a response, and the `Err` of a handler.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    detail: String,
    outcome: Option<Outcome>,
    position: Option<(usize, usize)>,
    bytes_max: Option<u64>,
}

/// The members of the body, in their order.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_max: Option<u64>,
}

impl Problem {
    /// A problem; `detail` is a sentence for people.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), outcome: None, position: None, bytes_max: None }
    }

    /// [`Kind::TooLarge`]: `what` is over `bytes_max`.
    pub(crate) fn too_large(what: &str, bytes_max: usize) -> Self {
        let detail = format!("{what} is larger than {bytes_max} bytes");
        Self { bytes_max: u64::try_from(bytes_max).ok(), ..Self::new(Kind::TooLarge, detail) }
    }

    /// [`Kind::InvalidJson`], with the place.
    pub(crate) fn not_json(error: &quorate_core::kv::NotJson) -> Self {
        Self { position: Some((error.line, error.column)), ..Self::new(Kind::InvalidJson, error.to_string()) }
    }

    /// The same problem, with one of several writes that one request makes in turn: those before it are done.
    pub(crate) fn behind(self, done: usize, all: usize) -> Self {
        if done == 0 {
            return self;
        }
        let first = format!("of {all} writes the first {done} are done, in the order of the keys");
        Self::new(Kind::OutcomeUnknown, format!("{first}, and then: {}", self.detail)).with_outcome(Outcome::Unknown)
    }

    /// The same problem, with a write.
    #[must_use]
    pub(crate) fn with_outcome(self, outcome: Outcome) -> Self {
        Self { outcome: Some(outcome), ..self }
    }

    fn of(reason: &Reason) -> Self {
        let bytes_max = match reason {
            Reason::TooLarge { bytes_max, .. } => Some(*bytes_max),
            _ => None,
        };
        Self { bytes_max, ..Self::new(Kind::of(reason), reason.to_string()) }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        Self::of(&error.0)
    }
}

impl From<WriteError> for Problem {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::NotApplied(reason) => Self::of(&reason).with_outcome(Outcome::NotApplied),
            WriteError::Unknown(reason) => {
                Self::new(Kind::OutcomeUnknown, reason.to_string()).with_outcome(Outcome::Unknown)
            }
        }
    }
}

impl From<MemberError> for Problem {
    fn from(error: MemberError) -> Self {
        let (kind, detail) = match error {
            MemberError::NotFound(detail) => (Kind::MemberNotFound, detail),
            MemberError::Conflict(detail) => (Kind::Conflict, detail),
            MemberError::WouldLoseQuorum(detail) => (Kind::WouldLoseQuorum, detail),
            MemberError::Unreachable(detail) => (Kind::Unreachable, detail),
            MemberError::NotApplied(reason) => return WriteError::NotApplied(reason).into(),
            MemberError::Unknown(reason) => return WriteError::Unknown(reason).into(),
        };
        Self::new(kind, detail).with_outcome(Outcome::NotApplied)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (name, status, title) = self.kind.row();
        let body = Body {
            r#type: format!("urn:quorate:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            outcome: self.outcome,
            line: self.position.map(|(line, _)| line),
            column: self.position.map(|(_, column)| column),
            bytes_max: self.bytes_max,
        };
        let body = serde_json::to_vec(&body).expect("strings and integers are always JSON");
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::INSUFFICIENT_STORAGE) {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value, json};

    use super::*;

    /// Bodies here are whole in memory, so one poll is enough and no executor is needed.
    fn parts(problem: Problem) -> (u16, Option<String>, Value) {
        let response = problem.into_response();
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let retry_after = response.headers().get(header::RETRY_AFTER).map(|v| v.to_str().expect("ascii").to_owned());
        let status = response.status().as_u16();
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut body = std::pin::pin!(response.into_body().collect());
        let std::task::Poll::Ready(Ok(body)) = body.as_mut().poll(&mut context) else { panic!("the body is ready") };
        (status, retry_after, serde_json::from_slice(&body.to_bytes()).expect("JSON"))
    }

    fn reasons() -> [(Reason, &'static str, u16); 10] {
        [
            (Reason::DiskFull, "disk-full", 507),
            (Reason::NoLeader, "no-leader", 503),
            (Reason::LeaderChanged, "leader-changed", 503),
            (Reason::Timeout, "timeout", 503),
            (Reason::Overloaded, "overloaded", 503),
            (Reason::TooLarge { bytes: 2, bytes_max: 1 }, "too-large", 413),
            (Reason::Stopping, "stopping", 503),
            (Reason::Unreachable("n2".into()), "unreachable", 503),
            (Reason::Storage("disk".into()), "storage", 500),
            (Reason::Invalid("no".into()), "invalid-request", 400),
        ]
    }

    #[test]
    fn every_reason_of_every_error() {
        for (reason, name, status) in reasons() {
            let r#type = json!(format!("urn:quorate:problem:{name}"));
            let retry_after = [503, 507].contains(&status).then(|| "1".to_owned());

            let (got, retry, body) = parts(WriteError::NotApplied(reason.clone()).into());
            assert_eq!((got, retry, &body["type"]), (status, retry_after.clone(), &r#type));
            assert_eq!((&body["outcome"], &body["status"]), (&json!("not-applied"), &json!(status)));

            let (got, retry, body) = parts(ReadError(reason.clone()).into());
            assert_eq!((got, retry, &body["type"]), (status, retry_after, &r#type));
            assert_eq!(body.get("outcome"), None);

            let (got, retry, body) = parts(WriteError::Unknown(reason.clone()).into());
            assert_eq!((got, retry), (504, None));
            assert_eq!(body["type"], "urn:quorate:problem:outcome-unknown");
            assert_eq!((&body["outcome"], &body["detail"]), (&json!("unknown"), &json!(reason.to_string())));
        }
    }

    #[test]
    fn the_limit_is_told() {
        let (_, _, body) = parts(ReadError(Reason::TooLarge { bytes: 2, bytes_max: 1 }).into());
        assert_eq!(body["bytes_max"], 1);
    }
}
