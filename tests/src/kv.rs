//! The key-value API, as one client of one node sees it.

use std::time::Duration;

use serde_json::Value;

use crate::http::{self, Failure, Response};

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// It did what was asked.
    Done(T),
    /// It had no effect and never will. Reads that fail are always this.
    NotApplied(String),
    /// It may have its effect, or not.
    Unknown(String),
}

impl<T> Answer<T> {
    /// What was asked for.
    ///
    /// # Errors
    /// Why not.
    pub fn done(self) -> Result<T, String> {
        match self {
            Self::Done(done) => Ok(done),
            Self::NotApplied(why) | Self::Unknown(why) => Err(why),
        }
    }
}

/// A key was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Put {
    /// The store's revision.
    pub revision: u64,
    /// The revision that created the key.
    pub create_revision: u64,
    /// Writes since then.
    pub version: u64,
}

/// A key was removed, or was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delete {
    /// The store's revision.
    pub revision: u64,
    /// Whether it was there.
    pub deleted: bool,
}

/// A key with its value, a JSON document.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the API's names")]
pub struct Item {
    pub key: String,
    pub value: String,
    pub create_revision: u64,
    pub mod_revision: u64,
    pub version: u64,
}

/// What a read saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read<T> {
    /// The store's revision.
    pub revision: u64,
    /// What was there.
    pub found: T,
}

/// A client of one node. Keys and prefixes are written into URLs as they are: no test needs an escape here.
#[derive(Debug)]
pub struct Client(http::Client);

impl Client {
    /// A client of the node whose API is at `port`; it waits `timeout` for each answer.
    pub fn new(port: u16, timeout: Duration) -> Self {
        Self(http::Client::new(port, timeout))
    }

    /// Writes a value, a JSON document.
    pub fn put(&mut self, key: &str, value: &str) -> Answer<Put> {
        let sent = self.0.send("PUT", &format!("/kv/{key}"), Some(value.as_bytes()));
        write(sent, |body| {
            let number = |name: &str| number(&body[name]);
            Put { revision: number("revision"), create_revision: number("create_revision"), version: number("version") }
        })
    }

    /// Removes a key.
    pub fn delete(&mut self, key: &str) -> Answer<Delete> {
        let sent = self.0.send("DELETE", &format!("/kv/{key}"), None);
        let deleted = |body: &Value| body["deleted"].as_bool().expect("deleted is true or false");
        write(sent, |body| Delete { revision: number(&body["revision"]), deleted: deleted(&body) })
    }

    /// Reads a key; `stale` asks for `consistency=stale`.
    pub fn get(&mut self, key: &str, stale: bool) -> Answer<Read<Option<Item>>> {
        let consistency = if stale { "stale" } else { "linearizable" };
        let response = match read(self.0.get(&format!("/kv/{key}?consistency={consistency}"))) {
            Ok(response) => response,
            Err(why) => return Answer::NotApplied(why),
        };
        if response.status == 404 {
            assert_eq!(response.problem().as_deref(), Some("key-not-found"), "{response:?}");
        }
        assert_eq!(response.header("quorate-consistency"), Some(consistency), "{response:?}");
        let found = (response.status == 200).then(|| Item {
            key: key.to_owned(),
            value: response.text().to_owned(),
            create_revision: header(&response, "quorate-create-revision"),
            mod_revision: header(&response, "quorate-mod-revision"),
            version: header(&response, "quorate-version"),
        });
        Answer::Done(Read { revision: header(&response, "quorate-revision"), found })
    }

    /// Reads everything under a prefix, which is less than 1000 keys. Values are as serde_json writes them.
    pub fn list(&mut self, prefix: &str, stale: bool) -> Answer<Read<Vec<Item>>> {
        let consistency = if stale { "stale" } else { "linearizable" };
        let target = format!("/kv?limit=1000&consistency={consistency}&prefix={prefix}");
        let response = match read(self.0.get(&target)) {
            Ok(response) => response,
            Err(why) => return Answer::NotApplied(why),
        };
        assert_eq!((response.status, response.header("quorate-consistency")), (200, Some(consistency)));
        let body = response.json();
        assert_eq!(body["next"], Value::Null, "more than one page");
        assert_eq!(number(&body["revision"]), header(&response, "quorate-revision"));
        let items = body["items"].as_array().expect("items is a list").iter().map(|item| Item {
            key: item["key"].as_str().expect("a key is a string").to_owned(),
            value: item["value"].to_string(),
            create_revision: number(&item["create_revision"]),
            mod_revision: number(&item["mod_revision"]),
            version: number(&item["version"]),
        });
        Answer::Done(Read { revision: number(&body["revision"]), found: items.collect() })
    }
}

/// Every failed write must say which of two things is true.
fn write<T>(sent: Result<Response, Failure>, done: impl FnOnce(Value) -> T) -> Answer<T> {
    match sent {
        Ok(response) if response.status == 200 => Answer::Done(done(response.json())),
        Ok(response) => {
            let why = format!("{} {}", response.status, response.text());
            assert!(response.problem().is_some(), "not a problem: {why}");
            match response.json()["outcome"].as_str() {
                Some("not-applied") => Answer::NotApplied(why),
                Some("unknown") => Answer::Unknown(why),
                _ => panic!("a failed write without an outcome: {why}"),
            }
        }
        Err(Failure::NotSent(error)) => Answer::NotApplied(format!("not connected: {error}")),
        Err(Failure::Lost(error)) => Answer::Unknown(format!("connection lost: {error}")),
    }
}

/// An answer about the store: 200 and 404.
fn read(sent: Result<Response, Failure>) -> Result<Response, String> {
    match sent {
        Ok(response) if matches!(response.status, 200 | 404) => Ok(response),
        Ok(response) => {
            assert!(response.problem().is_some(), "not a problem: {response:?}");
            Err(format!("{} {}", response.status, response.text()))
        }
        Err(failure) => Err(format!("{failure:?}")),
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn header(response: &Response, name: &str) -> u64 {
    let value = response.header(name).unwrap_or_else(|| panic!("no {name}: {response:?}"));
    value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}"))
}
