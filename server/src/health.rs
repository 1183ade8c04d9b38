//! Probes. `ok` as text, or a problem that says what is the matter. Query parameters are ignored: probes bring some.

use axum::extract::State;
use quorate_io::Platform;

use crate::problem::{Kind, Problem};
use crate::router::Api;

/// `GET /healthz`, `GET /livez`: restarting the process would not help a live node.
pub(crate) async fn live<P: Platform>(State(api): State<Api<P>>) -> Result<&'static str, Problem> {
    api.node.health().live.map(|()| "ok").map_err(|why| Problem::new(Kind::NotLive, why))
}

/// `GET /readyz`: a ready node is worth sending requests to. One whose disk is full is ready, since it serves reads;
/// writes are refused with `disk-full` if the leader's disk, or too many voters', are full. `/cluster/nodes` shows whose.
pub(crate) async fn ready<P: Platform>(State(api): State<Api<P>>) -> Result<&'static str, Problem> {
    api.node.health().ready.map(|()| "ok").map_err(|why| Problem::new(Kind::NotReady, why))
}
