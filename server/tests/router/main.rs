//! The router, called without a socket.

mod dialects;
mod members;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use http_body_util::BodyExt;
use quorate::ServerConfig;
use quorate::dialect::Dialect;
use quorate_core::kv::{KEY_BYTES_MAX, Kv, Limits};
use quorate_io::Node;
use quorate_io::tokio::TokioPlatform;
use serde_json::{Value, json};
use tower::ServiceExt;

const LIMITS: Limits = Limits { value_bytes_max: 1000, page_items_default: 3, page_items_max: 5, page_bytes_max: 2000 };

struct Server {
    node: Node<TokioPlatform>,
    app: Router,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Server {
    async fn start() -> Self {
        let config = ServerConfig::parse(["quorate", "--name", "n1", "--store", "memory"]).expect("valid");
        let mut config = config.node_config(config.api_listen());
        config.peer_listen = "127.0.0.1:0".to_owned();
        let node = Node::start(TokioPlatform::default(), config, Kv).await.expect("starts");
        let mut leadership = node.leadership();
        while !leadership.current().is_local {
            leadership.changed().await.expect("a single node elects itself");
        }
        let app = quorate::app(node.clone(), LIMITS);
        Self { node, app }
    }

    /// The same node's routes in another system's dialect.
    fn in_dialect(&self, dialect: Dialect) -> Self {
        Self { node: self.node.clone(), app: quorate::dialect::app(dialect, self.node.clone(), LIMITS) }
    }

    async fn send(&self, method: &str, uri: &str, body: impl Into<Body>) -> Answer {
        let request = Request::builder().method(method).uri(uri).body(body.into()).expect("a request");
        let response = self.app.clone().oneshot(request).await.expect("the router does not fail");
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("the body is in memory").to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    async fn get(&self, uri: &str) -> Answer {
        self.send("GET", uri, "").await
    }

    async fn put(&self, uri: &str, body: impl Into<Body>) -> Answer {
        self.send("PUT", uri, body).await
    }

    async fn post(&self, uri: &str, body: impl Into<Body>) -> Answer {
        self.send("POST", uri, body).await
    }

    async fn delete(&self, uri: &str) -> Answer {
        self.send("DELETE", uri, "").await
    }
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("ascii"))
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    #[track_caller]
    fn ok(self) -> Self {
        assert_eq!(self.status, StatusCode::OK, "{}", self.text());
        self
    }

    /// A problem of this type; returns its body.
    #[track_caller]
    fn problem(self, status: u16, name: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/problem+json"));
        let body = self.json();
        assert_eq!(body["type"], format!("urn:quorate:problem:{name}"));
        assert_eq!(body["status"], status);
        assert!(body["title"].is_string() && body["detail"].is_string());
        body
    }

    /// A problem with a write that was not applied; returns its body.
    #[track_caller]
    fn not_applied(self, status: u16, name: &str) -> Value {
        let body = self.problem(status, name);
        assert_eq!(body["outcome"], "not-applied");
        body
    }
}

#[tokio::test]
async fn a_value_lives_and_dies() {
    let server = Server::start().await;
    let missing = server.get("/kv/a").await;
    assert_eq!(missing.header("quorate-revision"), Some("0"));
    assert_eq!(missing.problem(404, "key-not-found").get("outcome"), None);
    assert_eq!(server.delete("/kv/a").await.ok().json(), json!({"revision": 0, "deleted": false}));

    let created = server.put("/kv/a", "1").await.ok();
    assert_eq!(created.header("content-type"), Some("application/json"));
    assert_eq!(created.json(), json!({"revision": 1, "create_revision": 1, "version": 1}));
    server.put("/kv/other", "1").await.ok();
    let changed = server.put("/kv/a", "{\"x\":[]}").await.ok();
    assert_eq!(changed.json(), json!({"revision": 3, "create_revision": 1, "version": 2}));

    for (query, consistency) in
        [("", "linearizable"), ("?consistency=linearizable", "linearizable"), ("?consistency=stale", "stale")]
    {
        let read = server.get(&format!("/kv/a{query}")).await.ok();
        assert_eq!(read.text(), "{\"x\":[]}");
        for (name, value) in [
            ("content-type", "application/json"),
            ("quorate-consistency", consistency),
            ("quorate-revision", "3"),
            ("quorate-create-revision", "1"),
            ("quorate-mod-revision", "3"),
            ("quorate-version", "2"),
        ] {
            assert_eq!(read.header(name), Some(value), "{name}");
        }
    }
    let head = server.send("HEAD", "/kv/a", "").await.ok();
    assert_eq!((head.header("quorate-version"), head.body.len()), (Some("2"), 0));

    assert_eq!(server.delete("/kv/a").await.ok().json(), json!({"revision": 4, "deleted": true}));
    server.get("/kv/a").await.problem(404, "key-not-found");
    let again = server.put("/kv/a", "2").await.ok();
    assert_eq!(again.json(), json!({"revision": 5, "create_revision": 5, "version": 1}));
}

#[tokio::test]
async fn values_are_kept_to_the_byte() {
    let server = Server::start().await;
    for value in [
        "9007199254740993",
        "123456789012345678901234567890.10",
        "1E400",
        "-0",
        "{\"a\":1,\"a\":2,  \"b\" :\t[ ]}",
        "\"\\u00e9\\ud800 \u{e9}\"",
        "null",
    ] {
        server.put("/kv/v", format!("\n {value}\t ")).await.ok();
        assert_eq!(server.get("/kv/v").await.ok().text(), value);
        let page = server.get("/kv?prefix=v").await.ok();
        assert!(page.text().contains(&format!("\"value\":{value},\"create_revision\":1,")), "{}", page.text());
    }
}

#[tokio::test]
async fn a_key_is_any_bytes() {
    let server = Server::start().await;
    // (as written, as another client may write it, as the API writes it)
    let keys = [
        ("%00", "%00", "%00"),
        ("a/b", "a%2Fb", "a/b"),
        ("/leading//double/", "%2fleading%2f%2Fdouble%2F", "/leading//double/"),
        ("%C3%A9%F0%9F%98%80", "%c3%a9%f0%9f%98%80", "%C3%A9%F0%9F%98%80"),
        ("what%3F", "%77hat%3f", "what%3F"),
        ("a+b", "a%2Bb", "a%2Bb"),
        ("a%20b", "a%20b", "a%20b"),
        ("%FF%FE", "%ff%fe", "%FF%FE"),
        ("%25", "%25", "%25"),
        ("{x}&y=z;", "%7Bx%7D%26y%3Dz%3B", "%7Bx%7D%26y%3Dz%3B"),
        ("%22quoted%5C", "%22quoted%5C", "%22quoted%5C"),
    ];
    for (index, (written, other, canonical)) in keys.into_iter().enumerate() {
        server.put(&format!("/kv/{written}"), index.to_string()).await.ok();
        for form in [written, other, canonical] {
            assert_eq!(server.get(&format!("/kv/{form}")).await.ok().text(), index.to_string(), "{form}");
        }
        // In the query, too, and as the only key with this prefix.
        let page = server.get(&format!("/kv?prefix={canonical}")).await.ok().json();
        assert_eq!(page["items"][0]["key"], canonical);
        assert_eq!(page["items"][0]["value"], index);
    }
    for (index, (_, other, _)) in keys.into_iter().enumerate() {
        assert_eq!(server.get(&format!("/kv/{other}")).await.ok().text(), index.to_string());
    }
}

#[tokio::test]
async fn bad_keys() {
    let server = Server::start().await;
    for key in ["", "%", "a%2", "%GG", "a%%"] {
        let uri = format!("/kv/{key}");
        assert_eq!(server.get(&uri).await.problem(400, "invalid-key").get("outcome"), None);
        server.put(&uri, "1").await.not_applied(400, "invalid-key");
        server.delete(&uri).await.not_applied(400, "invalid-key");
    }
    // Escapes do not count against the limit, bytes do.
    let (longest, too_long) = ("%ff".repeat(KEY_BYTES_MAX), "a".repeat(KEY_BYTES_MAX + 1));
    server.put(&format!("/kv/{longest}"), "1").await.ok();
    let uri = format!("/kv/{too_long}");
    server.get(&uri).await.problem(413, "too-large");
    assert_eq!(server.put(&uri, "1").await.not_applied(413, "too-large")["bytes_max"], KEY_BYTES_MAX);
    server.delete(&uri).await.not_applied(413, "too-large");
}

#[tokio::test]
async fn bad_values() {
    let server = Server::start().await;
    let problem = server.put("/kv/a", "{\"a\":\n tru}").await.not_applied(400, "invalid-json");
    assert_eq!((&problem["line"], &problem["column"]), (&json!(2), &json!(5)));
    for body in ["", " ", "1 2", "{", "'a'", "[1,]", "NaN"] {
        server.put("/kv/a", body).await.not_applied(400, "invalid-json");
    }
    server.put("/kv/a", vec![b'"', 0xff, b'"']).await.not_applied(400, "invalid-json");

    let value = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
    server.put("/kv/a", value(1000)).await.ok();
    let problem = server.put("/kv/a", value(1001)).await.not_applied(413, "too-large");
    assert_eq!(problem["bytes_max"], 1000);
    assert_eq!(server.get("/kv/a").await.header("quorate-revision"), Some("1"));
}

#[tokio::test]
async fn pages() {
    let server = Server::start().await;
    let empty = server.get("/kv").await.ok();
    assert_eq!(empty.text(), "{\"revision\":0,\"items\":[],\"next\":null}");
    assert_eq!(empty.header("content-type"), Some("application/json"));

    // In order: 'a' 00, 'a' '/', 'a' 'b', 'a' ff, 'a' ff ff, 'b'
    let keys = ["a%00", "a/", "ab", "a%FF", "a%FF%FF", "b"];
    for key in keys.iter().rev() {
        server.put(&format!("/kv/{key}"), format!("\"{key}\"")).await.ok();
    }
    let page = server.get("/kv?prefix=ab").await.ok();
    let item = "{\"key\":\"ab\",\"value\":\"ab\",\"create_revision\":4,\"mod_revision\":4,\"version\":1}";
    assert_eq!(page.text(), format!("{{\"revision\":6,\"items\":[{item}],\"next\":null}}"));

    for (limit, prefix, expected) in
        [("1", "", 6), ("2", "", 6), ("5", "", 6), ("2", "a", 5), ("2", "a%ff", 2), ("1", "c", 0)]
    {
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("/kv?limit={limit}&prefix={prefix}{after}&consistency=stale")).await.ok();
            assert_eq!(
                (page.header("quorate-revision"), page.header("quorate-consistency")),
                (Some("6"), Some("stale"))
            );
            let page = page.json();
            let items = page["items"].as_array().expect("a list");
            assert!(items.len() <= limit.parse().expect("a number"));
            for item in items {
                assert_eq!(item["key"], item["value"]);
                seen.push(item["key"].as_str().expect("a string").to_owned());
            }
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        let matching = keys.iter().filter(|key| key.to_lowercase().starts_with(prefix));
        assert_eq!(seen, matching.copied().collect::<Vec<_>>(), "limit {limit}, prefix {prefix}");
        assert_eq!(seen.len(), expected);
    }
    let default = server.get("/kv").await.ok().json();
    assert_eq!((default["items"].as_array().map(Vec::len), &default["next"]), (Some(3), &json!("ab")));
    // A cursor need not be a key, nor in the prefix.
    let first = |page: Value| page["items"][0]["key"].clone();
    assert_eq!(first(server.get("/kv?after=aa").await.ok().json()), "ab");
    assert_eq!(first(server.get("/kv?prefix=b&after=a").await.ok().json()), "b");
    assert_eq!(first(server.get("/kv?prefix=a&after=b").await.ok().json()), Value::Null);
}

#[tokio::test]
async fn a_page_is_bounded_in_bytes() {
    let server = Server::start().await;
    for key in ["a", "b", "c", "d"] {
        server.put(&format!("/kv/{key}"), format!("\"{}\"", "x".repeat(998))).await.ok();
    }
    let page = server.get("/kv?limit=5").await.ok().json();
    assert_eq!((page["items"].as_array().map(Vec::len), &page["next"]), (Some(2), &json!("b")));
}

#[tokio::test]
async fn bad_queries() {
    let server = Server::start().await;
    for query in [
        "limit=0",
        "limit=6",
        "limit=",
        "limit",
        "limit=+1",
        "limit=1e0",
        "limit=-1",
        "limit=99999999999999999999",
        "consistency=lease",
        "consistency=",
        "prefix=%",
        "after=%f",
        "prefix=a&prefix=b",
        "Prefix=a",
        "keys=1",
    ] {
        assert_eq!(server.get(&format!("/kv?{query}")).await.problem(400, "invalid-query").get("outcome"), None);
    }
    server.get("/kv/a?prefix=b").await.problem(400, "invalid-query");
    server.get("/kv/a?consistency=eventual").await.problem(400, "invalid-query");
    server.put("/kv/a?ttl=1", "1").await.not_applied(400, "invalid-query");
    server.delete("/kv/a?consistency=stale").await.not_applied(400, "invalid-query");
    server.get("/kv?").await.ok();
    server.get("/kv?prefix=&after=").await.ok();
}

#[tokio::test]
async fn the_other_routes() {
    let server = Server::start().await;
    let index = server.get("/").await.ok().json();
    assert_eq!((&index["name"], &index["version"]), (&json!("quorate"), &json!(env!("CARGO_PKG_VERSION"))));
    for link in index["links"].as_object().expect("links").values() {
        server.get(link.as_str().expect("a path")).await.ok();
    }
    for probe in ["/healthz", "/livez", "/readyz", "/healthz?verbose"] {
        let answer = server.get(probe).await.ok();
        assert_eq!(answer.text(), "ok");
        assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    }
    let cluster = server.get("/cluster/nodes").await.ok().json();
    let node = &cluster["nodes"][0];
    assert_eq!((&node["name"], &node["status"], &node["voter"]), (&json!("n1"), &json!("leader"), &json!(true)));
    assert_eq!((&node["id"], &node["id"]), (&cluster["leader"], &cluster["node_id"]));
    assert_eq!(node["peer_addrs"], json!(["127.0.0.1:2380"]));
    assert_eq!(node["api_addrs"], json!(["127.0.0.1:8080"]));
    assert_eq!(cluster["cluster_id"].as_str().map(str::len), Some(16));
    assert!(cluster["term"].is_u64());
}

#[tokio::test]
async fn nothing_there() {
    let server = Server::start().await;
    for path in ["/nope", "/cluster", "/healthz/", "/kvx", "//kv"] {
        server.get(path).await.problem(404, "not-found");
    }
    for (method, path, allow) in [
        ("POST", "/kv/a", &["GET", "HEAD", "PUT", "DELETE"][..]),
        ("PATCH", "/kv/", &["GET", "HEAD", "PUT", "DELETE"]),
        ("PUT", "/kv", &["GET", "HEAD"]),
        ("DELETE", "/cluster/nodes", &["GET", "HEAD", "POST"]),
        ("POST", "/healthz", &["GET", "HEAD"]),
    ] {
        let answer = server.send(method, path, "").await;
        let mut allowed: Vec<_> = answer.header("allow").expect("an Allow header").split(',').map(str::trim).collect();
        let mut allow = allow.to_vec();
        allowed.sort_unstable();
        allow.sort_unstable();
        assert_eq!(allowed, allow, "{method} {path}");
        answer.problem(405, "method-not-allowed");
    }
}

#[tokio::test]
async fn a_stopped_node_says_so() {
    let server = Server::start().await;
    server.node.stop().await.expect("stops");
    let write = server.put("/kv/a", "1").await;
    assert_eq!(write.header("retry-after"), Some("1"));
    write.not_applied(503, "stopping");
    server.delete("/kv/a").await.not_applied(503, "stopping");
    assert_eq!(server.get("/kv/a").await.problem(503, "stopping").get("outcome"), None);
    server.get("/kv").await.problem(503, "stopping");
    server.get("/readyz").await.problem(503, "not-ready");
    server.get("/livez").await.problem(503, "not-live");
}
