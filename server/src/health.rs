//! Probes. `ok` as text, or a problem that says what is the matter. Query parameters are ignored: probes bring some.

use std::sync::atomic::Ordering;

use axum::extract::State;
use quorate_io::{Consistency, Platform};

use crate::problem::{Kind, Problem};
use crate::router::Api;

/// `GET /healthz`, `GET /livez`: restarting the process would not help a live node.
pub(crate) async fn live<P: Platform>(State(api): State<Api<P>>) -> Result<&'static str, Problem> {
    api.node.health().live.map(|()| "ok").map_err(|why| Problem::new(Kind::NotLive, why))
}

/// `GET /readyz`: a ready node is worth sending requests to. One that starts is so only once it has caught up: until then it
/// would keep who asks waiting, and does not make up for another node that goes away. One whose disk is full is ready, since it serves reads;
/// writes are refused with `disk-full` if the leader's disk, or too many voters', are full. `/cluster/nodes` shows whose.
pub(crate) async fn ready<P: Platform>(State(api): State<Api<P>>) -> Result<&'static str, Problem> {
    api.node.health().ready.map_err(|why| Problem::new(Kind::NotReady, why))?;
    if !api.caught_up.load(Ordering::Acquire) {
        let read = api.node.read(Consistency::Linearizable).await;
        read.map_err(|error| Problem::new(Kind::NotReady, format!("this node has not caught up yet: {error}")))?;
        api.caught_up.store(true, Ordering::Release);
    }
    Ok("ok")
}
