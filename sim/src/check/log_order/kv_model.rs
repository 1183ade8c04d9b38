//! The key-value store as a sequential machine: revisions, creations and versions, as etcd counts them, from 1.

use std::collections::BTreeMap;
use std::convert::Infallible;

use super::Model;

/// A command of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Sets a key.
    Put(String),
    /// Removes a key.
    Delete(String),
}

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The key has its value.
    Put {
        /// The store's revision, this write counted.
        revision: u64,
        /// The revision that created the key after it was last missing.
        create_revision: u64,
        /// Puts since then, this one counted.
        version: u64,
    },
    /// The key is missing.
    Delete {
        /// The store's revision, this write counted if it was one.
        revision: u64,
        /// Whether it was there before.
        deleted: bool,
    },
    /// Anything else: no command of a client is answered so.
    Other(String),
}

/// What the store remembers.
#[derive(Clone, Debug, Default)]
pub struct State {
    revision: u64,
    /// Key → (create revision, version).
    keys: BTreeMap<String, (u64, u64)>,
}

/// The sequential store. Reads are not asked for: [`super::super::revision_order`] checks them.
#[derive(Clone, Copy, Debug, Default)]
pub struct KvModel;

impl Model for KvModel {
    type Command = Command;
    type Response = Response;
    type Query = Infallible;
    type Answer = Infallible;
    type State = State;

    fn initial(&self) -> State {
        State::default()
    }

    fn write(&self, state: &mut State, command: &Command) -> Response {
        match command {
            Command::Put(key) => {
                state.revision += 1;
                let revision = state.revision;
                let created = state.keys.entry(key.clone()).or_insert((revision, 0));
                created.1 += 1;
                Response::Put { revision, create_revision: created.0, version: created.1 }
            }
            Command::Delete(key) => {
                let deleted = state.keys.remove(key).is_some();
                state.revision += u64::from(deleted);
                Response::Delete { revision: state.revision, deleted }
            }
        }
    }

    fn read(&self, _state: &State, query: &Infallible) -> Infallible {
        match *query {}
    }
}
