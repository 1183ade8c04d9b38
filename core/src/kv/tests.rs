//! The machine against an obviously correct model.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::machine::StateRef;

#[derive(Clone, Default, Debug, PartialEq)]
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

fn document(text: &str) -> Document {
    Document::parse(&Bytes::copy_from_slice(text.as_bytes())).expect("a JSON document")
}

fn apply(state: &mut Map, command: &Bytes) -> Response {
    Response::decode(&Kv.apply(LogId::default(), command, state)).expect("the machine answers with a response")
}

/// Keys from few bytes, so that they collide, nest and touch both ends of the byte range.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(prop::sample::select(vec![0u8, b'/', b'a', 0xfe, 0xff]), 1..4)
}

#[derive(Clone, Debug)]
enum Op {
    Put(Vec<u8>, u64),
    Delete(Vec<u8>),
    Garbage(Vec<u8>),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        4 => (keys(), any::<u64>()).prop_map(|(key, n)| Op::Put(key, n)),
        3 => keys().prop_map(Op::Delete),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Op::Garbage),
    ];
    prop::collection::vec(op, 0..60)
}

#[derive(Default)]
struct Model {
    revision: u64,
    keys: BTreeMap<Vec<u8>, KeyValue>,
}

impl Model {
    fn apply(&mut self, op: &Op) -> Outcome {
        match op {
            Op::Put(key, n) => {
                self.revision += 1;
                let kv = self.keys.entry(key.clone()).or_insert_with(|| KeyValue {
                    key: key.clone().into(),
                    value: Bytes::new(),
                    create_revision: self.revision,
                    mod_revision: 0,
                    version: 0,
                });
                kv.value = n.to_string().into();
                kv.mod_revision = self.revision;
                kv.version += 1;
                Outcome::Put { create_revision: kv.create_revision, version: kv.version }
            }
            Op::Delete(key) => {
                let deleted = self.keys.remove(key).is_some();
                self.revision += u64::from(deleted);
                Outcome::Delete { deleted }
            }
            Op::Garbage(_) => Outcome::Invalid { reason: String::new() },
        }
    }
}

proptest! {
    #[test]
    fn behaves_as_the_model(ops in ops(), prefix in prop_oneof![Just(vec![]), keys()],
                            after in prop::option::of(keys()), items_max in 1usize..6) {
        let (mut state, mut model) = (Map::default(), Model::default());
        for op in &ops {
            let before = state.clone();
            let bytes = match op {
                Op::Put(key, n) => {
                    Command::Put { key: key.clone().into(), document: document(&n.to_string()) }.encode()
                }
                Op::Delete(key) => Command::Delete { key: key.clone().into() }.encode(),
                Op::Garbage(bytes) => bytes.clone().into(),
            };
            if matches!(op, Op::Garbage(_)) && Command::decode(&bytes).is_ok() {
                continue;
            }
            let response = apply(&mut state, &bytes);
            let expected = model.apply(op);
            prop_assert_eq!(response.revision, model.revision);
            match (&response.outcome, &expected) {
                (Outcome::Invalid { .. }, Outcome::Invalid { .. }) => prop_assert_eq!(&state, &before),
                (got, expected) => prop_assert_eq!(got, expected),
            }
            prop_assert_eq!(revision(&state), model.revision);
        }
        for (key, expected) in &model.keys {
            prop_assert_eq!(get(&state, key), Some(expected.clone()));
        }
        let expected: Vec<_> = model.keys.values()
            .filter(|kv| kv.key.starts_with(&prefix) && after.as_ref().is_none_or(|after| kv.key[..] > after[..]))
            .cloned().collect();
        let page = list(&state, Scan { prefix: &prefix, after: after.as_deref(), items_max, bytes_max: usize::MAX });
        prop_assert_eq!(page.more, expected.len() > items_max);
        prop_assert_eq!(&page.items[..], &expected[..expected.len().min(items_max)]);
    }

    #[test]
    fn commands_and_responses_survive_their_encoding(key in keys(), n in any::<i64>(), revision in any::<u64>(),
                                                     create_revision in any::<u64>(), version in any::<u64>(),
                                                     deleted in any::<bool>(), reason in any::<String>()) {
        let put = Command::Put { key: key.clone().into(), document: document(&n.to_string()) };
        for command in [put, Command::Delete { key: key.into() }] {
            prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
        }
        let put = Outcome::Put { create_revision, version };
        for outcome in [put, Outcome::Delete { deleted }, Outcome::Invalid { reason }] {
            let response = Response { revision, outcome };
            prop_assert_eq!(Response::decode(&response.encode()), Ok(response));
        }
    }

    #[test]
    fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let bytes = Bytes::from(bytes);
        let _ = Response::decode(&bytes);
        if let Ok(command) = Command::decode(&bytes) {
            prop_assert_eq!(command.encode().len(), bytes.len());
        }
    }
}

/// Released tags and layouts do not change.
#[test]
fn encodings_are_fixed() {
    let put = Command::Put { key: Bytes::from_static(b"k"), document: document("1") };
    assert_eq!(&put.encode()[..], b"\x0a\x06\x0a\x01k\x12\x011");
    assert_eq!(&Command::Delete { key: Bytes::from_static(b"k") }.encode()[..], b"\x12\x03\x0a\x01k");
    let mut state = Map::default();
    assert_eq!(&Kv.apply(LogId::default(), &put.encode(), &mut state)[..], b"\x08\x01\x12\x04\x08\x01\x10\x01");
    let record = [&1u64.to_le_bytes()[..], &1u64.to_le_bytes(), &1u64.to_le_bytes(), b"1"].concat();
    let expected = BTreeMap::from([
        (Bytes::from_static(b"kk"), Bytes::from(record)),
        (Bytes::from_static(b"mrevision"), Bytes::copy_from_slice(&1u64.to_le_bytes())),
    ]);
    assert_eq!(state.0, expected);
}

#[test]
fn a_command_that_makes_no_sense_changes_nothing() {
    let mut state = Map::default();
    let put = Command::Put { key: Bytes::from_static(b"a"), document: document("1") };
    apply(&mut state, &put.encode());
    let before = state.clone();
    let with_unknown_field = [&put.encode()[..], b"\x78\x01"].concat();
    let twice = [&put.encode()[..], &put.encode()[..]].concat();
    let long_key = Command::Delete { key: vec![b'a'; KEY_BYTES_MAX + 1].into() }.encode();
    let empty_key = Command::Put { key: Bytes::new(), document: document("1") }.encode();
    for bytes in [Bytes::new(), with_unknown_field.into(), twice.into(), b"\xff".as_slice().into(), long_key, empty_key]
    {
        let response = apply(&mut state, &bytes);
        assert_eq!(response.revision, 1);
        assert!(matches!(response.outcome, Outcome::Invalid { .. }), "{response:?}");
        assert_eq!(state, before);
    }
}

#[test]
fn the_longest_key_is_taken() {
    let mut state = Map::default();
    let key = Bytes::from(vec![0xff; KEY_BYTES_MAX]);
    apply(&mut state, &Command::Put { key: key.clone(), document: document("1") }.encode());
    assert!(get(&state, &key).is_some());
    let scan = Scan { prefix: &key, after: None, items_max: 1, bytes_max: 0 };
    assert_eq!(list(&state, scan).items.len(), 1);
}

#[test]
fn a_damaged_revision_is_not_counted_on_from() {
    let mut state = Map::default();
    state.put(Bytes::from_static(b"mrevision"), Bytes::from_static(b"short"));
    let before = state.clone();
    let put = Command::Put { key: Bytes::from_static(b"a"), document: document("1") };
    assert!(matches!(apply(&mut state, &put.encode()).outcome, Outcome::Invalid { .. }));
    assert_eq!(state, before);
}

#[test]
fn a_page_ends_by_bytes_too() {
    let mut state = Map::default();
    for key in ["a", "b", "c"] {
        apply(&mut state, &Command::Put { key: key.into(), document: document("\"0123456789\"") }.encode());
    }
    let scan = Scan { prefix: b"", after: None, items_max: 10, bytes_max: 40 };
    let page = list(&state, scan);
    assert_eq!((page.items.len(), page.more), (2, true));
    let rest = list(&state, Scan { after: Some(b"b"), ..scan });
    assert_eq!((rest.items.len(), rest.more), (1, false));
}
