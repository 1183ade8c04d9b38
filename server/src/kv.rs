//! The key-value routes.
//!
//! A key is any 1 to [`KEY_BYTES_MAX`] bytes. In a path or a query it is percent-encoded: `/` and `%2F` are the same
//! byte, `+` is a plus, and `%2f` is `%2F`. Mind that many clients take `.` and `..` segments out of a path before they
//! send it. A value is one JSON document, stored and returned byte for byte whatever the request's `Content-Type`; only
//! whitespace around it is cut off.
//!
//! Every successful read carries `quorate-consistency` (what the read was) and `quorate-revision` (the store's revision
//! that it saw), and so does "there is no such key"; the value of a key also carries `quorate-create-revision`,
//! `quorate-mod-revision` and `quorate-version`. The pages of one listing are reads of their own: their revisions tell
//! whether anything changed in between.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use quorate_core::kv::{self, Command, Document, KEY_BYTES_MAX, KeyValue, Page, Scan};
use quorate_io::store::View;
use quorate_io::{Consistency, Node, Platform, ReadError, Reason};
use serde::Serialize;

use crate::percent;
use crate::problem::{Kind, Outcome, Problem};
use crate::query::Query;
use crate::router::{Api, json};

/// Answer to a `PUT`.
#[derive(Serialize)]
struct PutDone {
    /// The store's revision after the write, which is the key's modify revision.
    revision: u64,
    create_revision: u64,
    /// 1 if the write created the key.
    version: u64,
}

/// Answer to a `DELETE`.
#[derive(Serialize)]
struct DeleteDone {
    revision: u64,
    /// Whether the key was there.
    deleted: bool,
}

pub(crate) async fn get<P: Platform>(State(api): State<Api<P>>, uri: Uri) -> Result<Response, Problem> {
    let key = path_key(&uri)?;
    let consistency = consistency(&Query::parse(&uri, &["consistency"])?)?;
    let view = api.node.read(consistency).await?;
    let revision = kv::revision(&view);
    let found = kv::get(&view, &key);
    readable(&view)?;
    let Some(found) = found else {
        let detail = format!("there is no key {} at revision {revision}", percent::encode(&key));
        let mut response = Problem::new(Kind::KeyNotFound, detail).into_response();
        set_read_headers(&mut response, consistency, revision);
        return Ok(response);
    };
    let mut response = document(found.value);
    set_read_headers(&mut response, consistency, revision);
    set_number(&mut response, "quorate-create-revision", found.create_revision);
    set_number(&mut response, "quorate-mod-revision", found.mod_revision);
    set_number(&mut response, "quorate-version", found.version);
    Ok(response)
}

pub(crate) async fn list<P: Platform>(State(api): State<Api<P>>, uri: Uri) -> Result<Response, Problem> {
    let query = Query::parse(&uri, &["prefix", "limit", "after", "consistency"])?;
    let consistency = consistency(&query)?;
    let scan = Scan {
        prefix: query.get("prefix").unwrap_or_default(),
        after: query.get("after"),
        items_max: query.number("limit", 1..=api.limits.page_items_max)?.unwrap_or(api.limits.page_items_default),
        bytes_max: api.limits.page_bytes_max,
    };
    let view = api.node.read(consistency).await?;
    let revision = kv::revision(&view);
    let page = kv::list(&view, scan);
    readable(&view)?;
    let mut response = document(render(revision, &page).into());
    set_read_headers(&mut response, consistency, revision);
    Ok(response)
}

/// A view cannot fail a single read: what could not be read looks absent. So this is asked before anybody is answered.
pub(crate) fn readable(view: &View) -> Result<(), Problem> {
    view.check().map_err(|error| Problem::from(ReadError(Reason::Storage(error.to_string()))))
}

pub(crate) async fn put<P: Platform>(State(api): State<Api<P>>, uri: Uri, body: Body) -> Result<Response, Problem> {
    let command = match put_command(&uri, body, api.limits.value_bytes_max).await {
        Ok(command) => command,
        Err(problem) => return Err(problem.with_outcome(Outcome::NotApplied)),
    };
    let response = write(&api.node, &command).await?;
    match response.outcome {
        kv::Outcome::Put { create_revision, version } => {
            Ok(json(&PutDone { revision: response.revision, create_revision, version }))
        }
        other => Err(unexpected(other)),
    }
}

pub(crate) async fn delete<P: Platform>(State(api): State<Api<P>>, uri: Uri) -> Result<Response, Problem> {
    let key = Query::parse(&uri, &[]).and_then(|_| path_key(&uri));
    let key = key.map_err(|problem| problem.with_outcome(Outcome::NotApplied))?;
    let response = write(&api.node, &Command::Delete { key: key.into() }).await?;
    match response.outcome {
        kv::Outcome::Delete { deleted } => Ok(json(&DeleteDone { revision: response.revision, deleted })),
        other => Err(unexpected(other)),
    }
}

async fn put_command(uri: &Uri, body: Body, value_bytes_max: usize) -> Result<Command, Problem> {
    Query::parse(uri, &[])?;
    let key = path_key(uri)?.into();
    let body = read_body(body, value_bytes_max).await?;
    let document = Document::parse(&body).map_err(|error| Problem::not_json(&error))?;
    Ok(Command::Put { key, document })
}

pub(crate) async fn write<P: Platform>(node: &Node<P>, command: &Command) -> Result<kv::Response, Problem> {
    let written = node.write(command.encode()).await?;
    kv::Response::decode(&written.response)
        .map_err(|error| Problem::new(Kind::Internal, error.to_string()).with_outcome(Outcome::Unknown))
}

/// The machine refused the command, or answered another one: either way this version and the one that applied it
/// disagree about the format.
pub(crate) fn unexpected(outcome: kv::Outcome) -> Problem {
    match outcome {
        kv::Outcome::Invalid { reason } => Problem::new(Kind::Internal, reason).with_outcome(Outcome::NotApplied),
        other => Problem::new(Kind::Internal, format!("unexpected answer {other:?}")).with_outcome(Outcome::Unknown),
    }
}

/// The key after `/kv/`, decoded from the path as it was sent.
fn path_key(uri: &Uri) -> Result<Vec<u8>, Problem> {
    let encoded = uri.path().strip_prefix("/kv/").unwrap_or_default();
    let key = percent::decode(encoded).map_err(|error| Problem::new(Kind::InvalidKey, error.to_string()))?;
    checked_key(key)
}

pub(crate) fn checked_key(key: Vec<u8>) -> Result<Vec<u8>, Problem> {
    if key.is_empty() {
        return Err(Problem::new(Kind::InvalidKey, "the key is empty"));
    }
    if key.len() > KEY_BYTES_MAX {
        return Err(Problem::too_large("the key", KEY_BYTES_MAX));
    }
    Ok(key)
}

pub(crate) async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, bytes_max).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(Problem::too_large("the value", bytes_max)),
        Err(error) => Err(Problem::new(Kind::InvalidRequest, format!("the body could not be read: {error}"))),
    }
}

pub(crate) fn consistency(query: &Query) -> Result<Consistency, Problem> {
    match query.get("consistency") {
        None | Some(b"linearizable") => Ok(Consistency::Linearizable),
        Some(b"stale") => Ok(Consistency::Stale),
        Some(_) => Err(Problem::new(Kind::InvalidQuery, "consistency is linearizable (the default) or stale")),
    }
}

fn document(value: Bytes) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], value).into_response()
}

fn set_read_headers(response: &mut Response, consistency: Consistency, revision: u64) {
    let name = HeaderName::from_static("quorate-consistency");
    response.headers_mut().insert(name, HeaderValue::from_static(consistency.as_str()));
    set_number(response, "quorate-revision", revision);
}

fn set_number(response: &mut Response, name: &'static str, number: u64) {
    response.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from(number));
}

/// Written by hand, so that the documents pass through no JSON value and stay as they are.
fn render(revision: u64, page: &Page) -> Vec<u8> {
    let mut json = format!("{{\"revision\":{revision},\"items\":[").into_bytes();
    for (index, item) in page.items.iter().enumerate() {
        let KeyValue { key, value, create_revision, mod_revision, version } = item;
        let comma = if index == 0 { "" } else { "," };
        // An encoded key has no character that JSON would escape.
        json.extend_from_slice(format!("{comma}{{\"key\":\"{}\",\"value\":", percent::encode(key)).as_bytes());
        json.extend_from_slice(value);
        let numbers =
            format!(",\"create_revision\":{create_revision},\"mod_revision\":{mod_revision},\"version\":{version}}}");
        json.extend_from_slice(numbers.as_bytes());
    }
    let next = page.items.last().filter(|_| page.more);
    let next = next.map_or("null".to_owned(), |item| format!("\"{}\"", percent::encode(&item.key)));
    json.extend_from_slice(format!("],\"next\":{next}}}").as_bytes());
    json
}
