//! The dialects' routes: what their own clients send and expect.

use quorate::dialect::Dialect;
use serde_json::json;

use crate::{Answer, LIMITS, Server};

impl Answer {
    #[track_caller]
    fn empty(self, status: u16) {
        assert_eq!((self.status, self.text()), (status, ""));
    }
}

#[tokio::test]
async fn raftstarter_has_any_json_and_null() {
    let server = Server::start().await;
    let starter = server.in_dialect(Dialect::Raftstarter);
    assert_eq!(starter.get("/key/missing").await.ok().text(), r#"{"missing":null}"#);
    let values = ["9007199254740993", "1.10", "\"text\"", "[1, 2, {\"a\": null}]", "{\"b\": 1e400, \"a\": []}", "null"];
    for value in values {
        starter.post("/key", format!("{{\"k\": {value}}}")).await.empty(200);
        let got = starter.get("/key/k").await.ok();
        assert_eq!(got.header("content-type"), Some("application/json"));
        assert_eq!(got.text(), format!("{{\"k\":{value}}}"));
        assert_eq!(server.get("/kv/k").await.ok().text(), value, "the REST API has it, too");
    }
    starter.post("/key", r#"{"a/b": 1, "\u0022": 2, "a/b": 3}"#).await.empty(200);
    assert_eq!(starter.get("/key/a/b").await.ok().json(), json!({"a/b": 3}));
    assert_eq!(starter.get("/key/a%2Fb").await.ok().json(), json!({"a/b": 3}));
    assert_eq!(starter.get("/key/%22").await.ok().text(), r#"{"\"":2}"#);
    starter.delete("/key/k").await.empty(200);
    starter.delete("/key/k").await.empty(200);
    assert_eq!(starter.get("/key/k").await.ok().text(), r#"{"k":null}"#);
    starter.post("/key", "{}").await.empty(200);
    for path in ["/join", "/status", "/", "/keys"] {
        assert_eq!(starter.get(path).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn what_no_key_request_is() {
    let server = Server::start().await;
    let starter = server.in_dialect(Dialect::Raftstarter);
    for body in ["", "{", "[1]", "1", "{\"k\":}", "{\"k\":01}", "{\"k\":1} x", "{1:2}"] {
        starter.post("/key", body).await.not_applied(400, "invalid-request");
    }
    starter.post("/key", r#"{"": 1}"#).await.not_applied(400, "invalid-key");
    let large = format!("{{\"k\": \"{}\"}}", "x".repeat(LIMITS.value_bytes_max));
    starter.post("/key", large).await.not_applied(413, "too-large");
    for path in ["/key", "/key/"] {
        starter.get(path).await.problem(400, "invalid-key");
        starter.delete(path).await.problem(400, "invalid-key");
    }
    starter.get("/key/%ff").await.problem(400, "invalid-key");
    starter.delete("/key/%f").await.not_applied(400, "invalid-key");
    assert_eq!(starter.put("/key", "{}").await.status, 405);
    // Nothing is written if anything is wrong.
    starter.post("/key", r#"{"good": 1, "": 2}"#).await.not_applied(400, "invalid-key");
    assert_eq!(starter.get("/key/good").await.ok().text(), r#"{"good":null}"#);
}

#[tokio::test]
async fn hraftd_has_strings() {
    let server = Server::start().await;
    let hraftd = server.in_dialect(Dialect::Hraftd);
    assert_eq!(hraftd.get("/key/user1").await.ok().text(), r#"{"user1":""}"#);
    hraftd.post("/key", r#"{"user1": "batman", "user2": "rob\u0069n"}"#).await.empty(200);
    assert_eq!(hraftd.get("/key/user1").await.ok().json(), json!({"user1": "batman"}));
    assert_eq!(hraftd.get("/key/user2").await.ok().json(), json!({"user2": "robin"}));
    hraftd.post("/key", r#"{"a": "good", "n": 1}"#).await.not_applied(400, "invalid-request");
    assert_eq!(hraftd.get("/key/a").await.ok().json(), json!({"a": ""}));
    hraftd.delete("/key/user1").await.empty(200);
    assert_eq!(hraftd.get("/key/user1").await.ok().json(), json!({"user1": ""}));

    let me = json!({"id": "n1", "address": "127.0.0.1:2380"});
    let status = hraftd.get("/status").await.ok().json();
    assert_eq!(status, json!({"me": me, "leader": me, "followers": []}));
    hraftd.post("/join", r#"{"addr": "127.0.0.1:2380", "id": "n1"}"#).await.empty(200);
    for body in
        ["", "{}", r#"{"addr": "a:1"}"#, r#"{"addr": "a:1", "id": "b", "x": "y"}"#, r#"{"addr": "a", "id": "b"}"#]
    {
        hraftd.post("/join", body).await.problem(400, "invalid-request");
    }
    assert_eq!(hraftd.get("/other").await.status, 404);
}

#[tokio::test]
async fn raftexample_has_raw_values_under_any_target() {
    let server = Server::start().await;
    let example = server.in_dialect(Dialect::Raftexample);
    let missing = example.get("/key").await;
    assert_eq!((missing.status, missing.text()), (404, "Failed to GET\n"));
    assert_eq!(missing.header("content-type"), Some("text/plain; charset=utf-8"));
    for value in [&b"foo"[..], b"", b"{\"not\": json", b"\xff\x00\xfe", b"\"quoted\""] {
        example.put("/key", value.to_vec()).await.empty(204);
        assert_eq!(example.get("/key").await.ok().body, value);
    }
    example.put("/my/key?with=query", "bar").await.empty(204);
    assert_eq!(example.get("/my/key?with=query").await.ok().text(), "bar");
    assert_eq!(example.get("/my/key").await.status, 404);
    assert_eq!(server.get("/kv/my/key%3Fwith=query").await.ok().json(), json!("bar"));
    example.put("/", "x").await.problem(400, "invalid-key");

    for (method, text) in [("POST", "Failed on POST\n"), ("DELETE", "Failed on DELETE\n")] {
        let answer = example.send(method, "/two", "http://127.0.0.1:22379").await;
        assert_eq!((answer.status, answer.text()), (400, text));
    }
    assert_eq!(example.post("/2", "tcp://nowhere").await.text(), "Failed on POST\n");
    let refused = example.send("PATCH", "/key", "").await;
    let allowed: Vec<_> =
        refused.headers.get_all("allow").iter().map(|method| method.to_str().expect("ascii")).collect();
    assert_eq!((refused.status, allowed), (405, vec!["PUT", "GET", "POST", "DELETE"]));
}
