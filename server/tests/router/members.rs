//! The routes that change who belongs to the cluster.

use crate::Server;

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let server = Server::start().await;
    for body in [
        "",
        "{}",
        r#"{"name": "n2"}"#,
        r#"{"name": "n2", "peer_addrs": []}"#,
        r#"{"name": "", "peer_addrs": ["a:1"]}"#,
        r#"{"name": "n=2", "peer_addrs": ["a:1"]}"#,
        r#"{"name": "n2", "peer_addrs": ["a"]}"#,
        r#"{"name": "n2", "peer_addrs": [":1"]}"#,
        r#"{"name": "n2", "peer_addrs": ["a:1"], "voter": true}"#,
    ] {
        server.post("/cluster/nodes", body).await.not_applied(400, "invalid-request");
    }
    for body in ["", "\"n1\"", r#"{"from": "n1"}"#, r#"{"to": 1}"#] {
        server.post("/cluster/leader", body).await.not_applied(400, "invalid-request");
    }
    server.delete("/cluster/nodes/n1?force=maybe").await.not_applied(400, "invalid-query");
    server.delete("/cluster/nodes/%ff").await.not_applied(400, "invalid-request");
    for (method, path) in
        [("GET", "/cluster/nodes/n1"), ("GET", "/cluster/leader"), ("GET", "/cluster/nodes/n1/promote")]
    {
        server.send(method, path, "").await.problem(405, "method-not-allowed");
    }
}
