//! Commands, responses and documents of the key-value machine.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use quorate_core::kv::{self, Command, Document, Kv, Outcome, Response, Scan};
use quorate_core::{LogId, StateMachine, StateMut, StateRef};

use super::input::Input;

#[derive(Clone, Debug, Default, PartialEq)]
struct Map(BTreeMap<Bytes, Bytes>);

impl StateRef for Map {
    fn get(&self, key: &[u8]) -> Option<Bytes> {
        self.0.get(key).cloned()
    }

    fn range(&self, from: Bound<&[u8]>, to: Bound<&[u8]>, each: &mut dyn FnMut(&Bytes, &Bytes) -> bool) {
        for (key, value) in self.0.range::<[u8], _>((from, to)) {
            if !each(key, value) {
                return;
            }
        }
    }
}

impl StateMut for Map {
    fn put(&mut self, key: Bytes, value: Bytes) {
        self.0.insert(key, value);
    }

    fn delete(&mut self, key: &[u8]) {
        self.0.remove(key);
    }
}

/// The decoders of commands, responses and documents, and the machine itself fed with arbitrary commands: nothing
/// panics, what decodes survives encoding, a document is kept to the byte, revisions count the writes.
pub fn kv_command(data: &[u8]) {
    let whole = Bytes::copy_from_slice(data);
    if let Ok(command) = Command::decode(&whole) {
        assert_eq!(Command::decode(&command.encode()), Ok(command));
    }
    if let Ok(response) = Response::decode(&whole) {
        assert_eq!(Response::decode(&response.encode()), Ok(response));
    }
    if let Ok(document) = Document::parse(&whole) {
        let bytes = document.bytes();
        assert_eq!(bytes, data.trim_ascii());
        assert_eq!(Document::parse(&bytes), Ok(document));
    }
    let mut input = Input(data);
    let mut state = Map::default();
    while !input.is_empty() {
        apply(&mut input, &mut state);
    }
    let prefix = &data[..data.len().min(2)];
    let scan = Scan { prefix, after: data.get(1..3), items_max: 3, bytes_max: 100 };
    let page = kv::list(&state, scan);
    assert!(page.items.len() <= 3 && page.items.iter().all(|item| item.key.starts_with(prefix)));
}

fn apply(input: &mut Input<'_>, state: &mut Map) {
    let (kind, key_len, len) = (input.u8(), usize::from(input.u8() % 8), usize::from(input.u8()));
    let command = match (kind % 4, Document::parse(&Bytes::copy_from_slice(input.bytes(len)))) {
        (0, Ok(document)) => Command::Put { key: Bytes::copy_from_slice(input.bytes(key_len)), document }.encode(),
        (1, _) => Command::Delete { key: Bytes::copy_from_slice(input.bytes(key_len)) }.encode(),
        _ => Bytes::copy_from_slice(input.bytes(len)),
    };
    let before = state.clone();
    let mut replica = state.clone();
    let answer = Kv.apply(LogId::default(), &command, state);
    assert_eq!((Kv.apply(LogId::default(), &command, &mut replica), &replica), (answer.clone(), &*state));
    let response = Response::decode(&answer).expect("the machine answers with a response");
    let writes = match (response.outcome, Command::decode(&command)) {
        (Outcome::Put { create_revision, version }, Ok(Command::Put { key, document })) => {
            let item = kv::get(state, &key).expect("it was put");
            assert_eq!((item.value, item.mod_revision), (document.into_bytes(), response.revision));
            assert_eq!((item.create_revision, item.version), (create_revision, version));
            1
        }
        (Outcome::Delete { deleted }, Ok(Command::Delete { key })) => {
            assert!(kv::get(state, &key).is_none() && deleted == kv::get(&before, &key).is_some());
            u64::from(deleted)
        }
        (Outcome::Invalid { .. }, _) => {
            assert_eq!(*state, before);
            0
        }
        other => panic!("the answer is to another command: {other:?}"),
    };
    assert_eq!(response.revision, kv::revision(&before) + writes);
    assert_eq!(response.revision, kv::revision(state));
}
