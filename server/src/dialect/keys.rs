//! `/key` as hraftd and raftstarter have it: `GET /key/{key}`, `POST /key` with an object of keys and values,
//! `DELETE /key/{key}`.
//!
//! Values are kept to the byte, as everywhere here. A post of several keys is one write for each, in the order of the
//! keys; if one fails, those before it are done.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::Uri;
use axum::response::Response;
use axum::routing::{get, post};
use quorate_core::kv::{Command, Document};
use quorate_io::Platform;
use serde_json::value::RawValue;

use super::{document, read, write};
use crate::kv::{checked_key, read_body};
use crate::percent;
use crate::problem::{Kind, Outcome, Problem};
use crate::router::Api;

/// What values may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Values {
    /// Strings; a key that is not there has the empty one.
    Strings,
    /// Any JSON; a key that is not there has null.
    Any,
}

#[derive(Clone)]
struct Keys<P: Platform> {
    api: Api<P>,
    values: Values,
}

pub(super) fn routes<P: Platform>(api: Api<P>, values: Values) -> Router {
    Router::new()
        .route("/key", post(set::<P>).get(no_key).delete(no_key))
        .route("/key/", get(no_key).delete(no_key))
        .route("/key/{*key}", get(value::<P>).delete(remove::<P>))
        .with_state(Keys { api, values })
}

async fn no_key() -> Problem {
    Problem::new(Kind::InvalidKey, "the key is missing; write /key/{key}")
}

async fn value<P: Platform>(State(keys): State<Keys<P>>, uri: Uri) -> Result<Response, Problem> {
    let key = path_key(&uri)?;
    let found = read(&keys.api.node, key.as_bytes()).await?;
    let absent = match keys.values {
        Values::Strings => &b"\"\""[..],
        Values::Any => b"null",
    };
    // Written by hand, so that the document stays as it is.
    let mut body = format!("{{{}:", serde_json::Value::from(key)).into_bytes();
    body.extend_from_slice(found.as_deref().unwrap_or(absent));
    body.push(b'}');
    Ok(document(body))
}

async fn set<P: Platform>(State(keys): State<Keys<P>>, body: Body) -> Result<(), Problem> {
    let commands = commands(body, &keys).await.map_err(|problem| problem.with_outcome(Outcome::NotApplied))?;
    for (done, command) in commands.iter().enumerate() {
        write(&keys.api.node, command).await.map_err(|problem| problem.behind(done, commands.len()))?;
    }
    Ok(())
}

async fn remove<P: Platform>(State(keys): State<Keys<P>>, uri: Uri) -> Result<(), Problem> {
    let key = path_key(&uri).map_err(|problem| problem.with_outcome(Outcome::NotApplied))?;
    write(&keys.api.node, &Command::Delete { key: key.into() }).await
}

fn path_key(uri: &Uri) -> Result<String, Problem> {
    let encoded = uri.path().strip_prefix("/key/").unwrap_or_default();
    let invalid = |detail: String| Problem::new(Kind::InvalidKey, detail);
    let key = checked_key(percent::decode(encoded).map_err(|error| invalid(error.to_string()))?)?;
    String::from_utf8(key).map_err(|_| invalid("a key is text in UTF-8 here".to_owned()))
}

async fn commands<P: Platform>(body: Body, keys: &Keys<P>) -> Result<Vec<Command>, Problem> {
    let body = read_body(body, keys.api.limits.value_bytes_max).await?;
    let entries: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&body).map_err(|error| {
        Problem::new(Kind::InvalidRequest, format!("the body is no JSON object of keys and values: {error}"))
    })?;
    let command = |(key, value): (String, Box<RawValue>)| {
        if keys.values == Values::Strings && !value.get().starts_with('"') {
            let detail = format!("the value of {key:?} is not a string; every value is one here");
            return Err(Problem::new(Kind::InvalidRequest, detail));
        }
        let key = checked_key(key.into_bytes())?.into();
        let value = Box::<str>::from(value).into_boxed_bytes().into_vec().into();
        let document = Document::parse(&value).map_err(|error| Problem::not_json(&error))?;
        Ok(Command::Put { key, document })
    };
    entries.into_iter().map(command).collect()
}
