//! etcd's raftexample: raw values under any path; members are added and removed by `POST` and `DELETE` of their number.
//!
//! A key is the target of the request without its first slash, as it was sent. A value that is text is stored as a JSON
//! string, so that the REST API has it too; other bytes as `{"bytes":"…"}`, in hexadecimal digits.

use std::fmt::Write as _;
use std::path::PathBuf;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use clap::Parser;
use quorate_core::kv::{Command, Document};
use quorate_io::{InitialState, MemberError, Platform, Storage};
use serde::{Deserialize, Serialize};

use super::{Dialect, Front, add_voter, read, write};
use crate::address::Address;
use crate::config::{CommonArgs, ConfigError, Place, ServerConfig, bad, dialable};
use crate::kv::{checked_key, read_body};
use crate::problem::Problem;
use crate::router::Api;

/// A node with the flags and the REST interface of etcd's raftexample. Its data is in ./raftexample-<ID>.
#[derive(Debug, Parser)]
#[command(name = "quorate --dialect raftexample", version, max_term_width = 120)]
pub(super) struct Args {
    /// Number of this node: its place in --cluster, from 1
    #[arg(long, default_value_t = 1)]
    id: u64,

    /// Peer addresses of the nodes 1, 2, …
    #[arg(long, value_name = "ADDR,…", value_delimiter = ',', default_value = "http://127.0.0.1:9021")]
    cluster: Vec<Address>,

    /// Port at which clients are listened for, on every interface
    #[arg(long, default_value_t = 9121)]
    port: u16,

    /// Join the cluster that the other nodes are, instead of founding one with them
    #[arg(long)]
    join: bool,

    #[command(flatten)]
    common: CommonArgs,
}

impl Args {
    pub(super) fn config(self) -> Result<ServerConfig, ConfigError> {
        self.cluster.iter().try_for_each(|address| dialable("--cluster", address))?;
        if let Some(twice) =
            (1..self.cluster.len()).find(|index| self.cluster[..*index].contains(&self.cluster[*index]))
        {
            return Err(bad("--cluster", &self.cluster[twice], "the address is in the list twice; remove one of them"));
        }
        let place = usize::try_from(self.id).ok().and_then(|id| id.checked_sub(1));
        let Some(own) = place.and_then(|place| self.cluster.get(place)).cloned() else {
            let why = format!("--cluster has {} addresses, and the number is a place in it", self.cluster.len());
            return Err(bad("--id", &self.id, &why));
        };
        let others: Vec<_> = self.cluster.iter().filter(|address| **address != own).cloned().collect();
        if self.join && others.is_empty() {
            let why = "--join needs the address of a node that is there, too: list every node's, in their order";
            return Err(bad("--cluster", &own, why));
        }
        let place = Place {
            name: self.id.to_string(),
            storage: Storage::Dir(PathBuf::from(format!("raftexample-{}", self.id))),
            peer_listen: own.clone(),
            peer_advertise: own,
            initial_cluster: match self.join {
                true => Vec::new(),
                false => (1..).zip(self.cluster).map(|(id, address): (u64, _)| (id.to_string(), address)).collect(),
            },
            initial_state: InitialState::New,
            join: if self.join { others } else { Vec::new() },
            force_new_cluster: false,
            front: Some(Front { dialect: Dialect::Raftexample, listen: Address::every(self.port), join: None }),
        };
        self.common.at(place)
    }
}

pub(super) fn router<P: Platform>(api: Api<P>) -> Router {
    Router::new().fallback(handle::<P>).with_state(api)
}

async fn handle<P: Platform>(
    State(api): State<Api<P>>,
    method: Method,
    uri: Uri,
    body: Body,
) -> Result<Response, Problem> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let key = target.strip_prefix('/').unwrap_or(target);
    match method {
        Method::PUT => put(&api, key, body).await,
        Method::GET => match read(&api.node, &checked_key(key.into())?).await? {
            Some(document) => Ok(raw(&document).into_response()),
            None => Ok(failed(StatusCode::NOT_FOUND, "Failed to GET")),
        },
        Method::POST => add(&api, key, body).await,
        Method::DELETE => match number(key) {
            Some(id) => match api.node.remove_member(&id, false).await {
                // Who asks again wants it to be gone, and it is.
                Ok(_) | Err(MemberError::NotFound(_)) => Ok(StatusCode::NO_CONTENT.into_response()),
                Err(error) => Err(error.into()),
            },
            None => Ok(failed(StatusCode::BAD_REQUEST, "Failed on DELETE")),
        },
        _ => {
            let allowed = ["PUT", "GET", "POST", "DELETE"].map(|method| (header::ALLOW, method));
            let mut response = failed(StatusCode::METHOD_NOT_ALLOWED, "Method not allowed");
            for (name, method) in allowed {
                response.headers_mut().append(name, axum::http::HeaderValue::from_static(method));
            }
            Ok(response)
        }
    }
}

async fn put<P: Platform>(api: &Api<P>, key: &str, body: Body) -> Result<Response, Problem> {
    let key = checked_key(key.into())?.into();
    let value = read_body(body, api.limits.value_bytes_max).await?;
    write(&api.node, &Command::Put { key, document: stored(&value) }).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The node need not run yet: it joins by itself once it is started with --join. Then there is nothing to be committed.
async fn add<P: Platform>(api: &Api<P>, key: &str, body: Body) -> Result<Response, Problem> {
    let url = read_body(body, api.limits.value_bytes_max).await?;
    let url = std::str::from_utf8(&url).ok().and_then(|url| url.trim().parse::<Address>().ok());
    let (Some(id), Some(url)) = (number(key), url.filter(|url| dialable("", url).is_ok())) else {
        return Ok(failed(StatusCode::BAD_REQUEST, "Failed on POST"));
    };
    match add_voter(&api.node, id, &url).await {
        Ok(()) => {}
        Err(MemberError::Unreachable(why)) => tracing::info!(%why, "added once it is started with --join"),
        Err(error) => return Err(error.into()),
    }
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// A node's number as its name: 02 and 0x2 are 2, as in Go.
fn number(text: &str) -> Option<String> {
    let digits = |prefixes: [&str; 2]| prefixes.iter().find_map(|prefix| text.strip_prefix(prefix));
    let number = match (digits(["0x", "0X"]), digits(["0b", "0B"]), digits(["0o", "0O"])) {
        (Some(hex), ..) => u64::from_str_radix(hex, 16),
        (_, Some(binary), _) => u64::from_str_radix(binary, 2),
        (.., Some(octal)) => u64::from_str_radix(octal, 8),
        _ => text.parse(),
    };
    number.ok().map(|number| number.to_string())
}

/// As Go's `http.Error` writes it.
fn failed(status: StatusCode, text: &str) -> Response {
    let no_sniff = (HeaderName::from_static("x-content-type-options"), "nosniff");
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8"), (no_sniff.0, no_sniff.1)], format!("{text}\n"))
        .into_response()
}

/// Bytes that are no text.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    bytes: String,
}

fn stored(value: &[u8]) -> Document {
    let json = match std::str::from_utf8(value) {
        Ok(text) => serde_json::to_vec(text),
        Err(_) => {
            let mut bytes = String::with_capacity(2 * value.len());
            for byte in value {
                write!(bytes, "{byte:02x}").expect("a String takes everything");
            }
            serde_json::to_vec(&Raw { bytes })
        }
    };
    let json = json.expect("strings are always JSON").into();
    Document::parse(&json).expect("serde_json writes JSON")
}

/// What was put; of a document that the REST API has put, the document.
fn raw(document: &Bytes) -> Bytes {
    if let Ok(text) = serde_json::from_slice::<String>(document) {
        return text.into();
    }
    let hexadecimal = serde_json::from_slice::<Raw>(document).ok();
    let bytes = hexadecimal.filter(|raw| raw.bytes.is_ascii() && raw.bytes.len() % 2 == 0).and_then(|raw| {
        let pairs = (0..raw.bytes.len()).step_by(2);
        pairs.map(|at| u8::from_str_radix(&raw.bytes[at..at + 2], 16).ok()).collect::<Option<Vec<u8>>>()
    });
    bytes.map_or_else(|| document.clone(), Bytes::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_survives() {
        for value in
            [&b""[..], b"foo", b"\"quoted\"\n\0", b"{\"bytes\":\"00\"}", b"\xff\x00\x80", "é\u{1F600}".as_bytes()]
        {
            assert_eq!(raw(&stored(value).bytes()), value);
        }
        assert_eq!(raw(&Bytes::from_static(b"{\"a\": 1}")), "{\"a\": 1}");
        assert_eq!(raw(&Bytes::from_static(b"{\"bytes\":\"+1\"}")), "\x01");
    }

    #[test]
    fn numbers_as_go_reads_them() {
        for (text, number_of) in [("2", Some("2")), ("0x1F", Some("31")), ("0b11", Some("3")), ("0o7", Some("7"))] {
            assert_eq!(number(text).as_deref(), number_of);
        }
        for text in ["", "-1", "n2", "0x", "18446744073709551616"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
