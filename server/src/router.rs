//! The REST API as an [`axum::Router`].
//!
//! | route | does |
//! |---|---|
//! | `GET /` | name, version, links |
//! | `GET /healthz`, `GET /livez` | `ok` while the node is alive |
//! | `GET /readyz` | `ok` while the node can serve |
//! | `GET /cluster/nodes` | members and what they are doing |
//! | `POST /cluster/nodes` | adds a member |
//! | `DELETE /cluster/nodes/{name}?force=` | removes one |
//! | `POST /cluster/nodes/{name}/promote` | makes a learner a voter |
//! | `POST /cluster/leader` | hands leadership over |
//! | `GET /cluster/snapshot?consistency=` | a backup |
//! | `GET /kv?prefix=&limit=&after=&consistency=` | a page of keys |
//! | `GET /kv/{key}?consistency=` | one value |
//! | `PUT /kv/{key}` | writes a value |
//! | `DELETE /kv/{key}` | removes a key |
//!
//! Everything that is not a success is a [`Problem`]. The router needs no runtime and no socket: whoever has it may
//! call it as a `tower::Service`.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use axum::Router;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use quorate_core::kv::Limits;
use quorate_io::{Node, Platform};
use serde::Serialize;
use serde_json::json;

use crate::problem::{Kind, Problem};
use crate::{backup, cluster, health, kv};

/// What every handler is given.
#[derive(Clone)]
pub(crate) struct Api<P: Platform> {
    pub(crate) node: Node<P>,
    pub(crate) limits: Limits,
    /// Whether this process has answered a linearizable read: it then has what the others have.
    pub(crate) caught_up: Arc<AtomicBool>,
}

impl<P: Platform> Api<P> {
    pub(crate) fn new(node: Node<P>, limits: Limits) -> Self {
        Self { node, limits, caught_up: Arc::default() }
    }
}

/// The REST API over `node`, whose state machine is [`quorate_core::kv::Kv`].
pub fn app<P: Platform>(node: Node<P>, limits: Limits) -> Router {
    let one_key = get(kv::get::<P>).put(kv::put::<P>).delete(kv::delete::<P>);
    Router::new()
        .route("/", get(index))
        .route("/healthz", get(health::live::<P>))
        .route("/livez", get(health::live::<P>))
        .route("/readyz", get(health::ready::<P>))
        .route("/cluster/nodes", get(cluster::nodes::<P>).post(cluster::add::<P>))
        .route("/cluster/nodes/{name}", delete(cluster::remove::<P>))
        .route("/cluster/nodes/{name}/promote", post(cluster::promote::<P>))
        .route("/cluster/leader", post(cluster::transfer::<P>))
        .route("/cluster/snapshot", get(backup::snapshot::<P>))
        .route("/kv", get(kv::list::<P>))
        // A wildcard matches no empty rest, and an empty key deserves a better answer than "no such path".
        .route("/kv/", one_key.clone())
        .route("/kv/{*key}", one_key)
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(Api::new(node, limits))
}

/// A success with a JSON body.
pub(crate) fn json(body: &impl Serialize) -> Response {
    let body = serde_json::to_vec(body).expect("a response has no map with keys other than strings");
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

async fn index() -> Response {
    json(&json!({
        "name": "quorate",
        "version": env!("CARGO_PKG_VERSION"),
        "links": { "nodes": "/cluster/nodes", "keys": "/kv", "live": "/livez", "ready": "/readyz" },
    }))
}

async fn not_found(uri: Uri) -> Problem {
    Problem::new(Kind::NotFound, format!("there is nothing at {}", uri.path()))
}

async fn method_not_allowed(method: Method, uri: Uri) -> Problem {
    Problem::new(Kind::MethodNotAllowed, format!("{} does not have {method}", uri.path()))
}
