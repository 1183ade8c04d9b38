//! Any sequence of applies, freezes, commits, restarts and installs leaves what a map would have.

use std::ops::Bound;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use proptest::prelude::*;
use quorate_core::{LogId, StateRef};

use super::rig::{Change, CutDisk, Pairs, Rig, TempDir, TestPlatform, block_on, change_model, pairs, pairs_between};
use crate::state_machine::SnapshotBuilder;
use crate::store::View;
use crate::types::log_id_from;

#[derive(Clone, Debug)]
enum Op {
    Apply(Vec<Change>),
    /// Creates a builder, which freezes.
    Freeze,
    /// Runs the oldest builder.
    Build,
    /// Keeps a view to the end.
    Hold,
    /// Drops everything and opens the directory again.
    Restart,
    /// Installs a snapshot of these pairs.
    Install(Vec<Change>),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0..3_u8, 0..3)
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..4));
    proptest::collection::vec((key(), value), 0..4)
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => changes().prop_map(Op::Apply),
        2 => Just(Op::Freeze),
        2 => Just(Op::Build),
        1 => Just(Op::Hold),
        1 => Just(Op::Restart),
        1 => changes().prop_map(Op::Install),
    ]
}

fn bound() -> impl Strategy<Value = Bound<Vec<u8>>> {
    prop_oneof![key().prop_map(Bound::Included), key().prop_map(Bound::Excluded), Just(Bound::Unbounded)]
}

type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

fn check(view: &View, model: &Pairs, bounds: &Bounds) {
    assert_eq!(&pairs(view), model);
    for key in pairs_between(view, Bound::Unbounded, Bound::Unbounded).keys().chain([&vec![9], &vec![0]]) {
        assert_eq!(view.get(key).map(|v| v.to_vec()), model.get(key).cloned());
    }
    let (from, to) = (bounds.0.as_ref().map(Vec::as_slice), bounds.1.as_ref().map(Vec::as_slice));
    let within = |key: &[u8]| {
        let after = match from {
            Bound::Included(from) => key >= from,
            Bound::Excluded(from) => key > from,
            Bound::Unbounded => true,
        };
        let before = match to {
            Bound::Included(to) => key <= to,
            Bound::Excluded(to) => key < to,
            Bound::Unbounded => true,
        };
        after && before
    };
    let expected: Pairs = model.iter().filter(|(k, _)| within(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(pairs_between(view, from, to), expected);
}

/// What the store should be.
#[derive(Default)]
struct Model {
    newest: (Option<LogId>, Pairs),
    frozen: Option<(Option<LogId>, Pairs)>,
    durable: (Option<LogId>, Pairs),
}

struct World {
    dir: Option<TempDir>,
    rig: Rig,
    model: Model,
    index: u64,
    /// With the last entry of the layer that each is to commit.
    builders: Vec<(SnapshotBuilder<TestPlatform>, Option<LogId>)>,
    held: Vec<(View, Pairs)>,
}

impl World {
    async fn new(dir: Option<TempDir>) -> Self {
        let disk = CutDisk::never();
        let rig = Rig::open(dir.as_ref().map(|dir| (&disk, dir))).await.unwrap();
        Self { dir, rig, model: Model::default(), index: 0, builders: vec![], held: vec![] }
    }

    async fn perform(&mut self, op: &Op) {
        match op {
            Op::Apply(changes) => {
                self.index += 1;
                self.rig.apply(self.index, changes).await;
                self.model.newest.0 = Some(LogId::new(1, self.index));
                change_model(&mut self.model.newest.1, changes);
            }
            Op::Freeze => {
                if self.model.frozen.is_none() && self.model.newest.0 != self.model.durable.0 {
                    self.model.frozen = Some(self.model.newest.clone());
                }
                let frozen = self.model.frozen.as_ref().and_then(|(id, _)| *id);
                self.builders.push((self.rig.store.get_snapshot_builder().await, frozen));
            }
            Op::Build if !self.builders.is_empty() => {
                let (mut builder, frozen) = self.builders.remove(0);
                let snapshot = builder.build_snapshot().await.unwrap();
                // Only the first builder of a frozen layer commits it, and none does after an install.
                if frozen.is_some() && frozen == self.model.frozen.as_ref().and_then(|(id, _)| *id) {
                    self.model.durable = self.model.frozen.take().unwrap();
                }
                assert_eq!(snapshot.meta.last_log_id.as_ref().map(log_id_from), self.model.durable.0);
                assert_eq!(self.rig.store.durable(), self.model.durable.0);
            }
            Op::Build => {}
            Op::Hold => self.held.push((self.rig.store.view(), self.model.newest.1.clone())),
            Op::Restart => self.restart().await,
            Op::Install(changes) => self.install(changes).await,
        }
        assert_eq!(self.rig.store.applied(), self.model.newest.0);
    }

    async fn restart(&mut self) {
        let Some(dir) = &self.dir else { return };
        self.builders.clear();
        self.held.clear();
        let placeholder = Rig::open(None).await.unwrap();
        std::mem::replace(&mut self.rig, placeholder).close().await;
        self.rig = Rig::open(Some((&CutDisk::never(), dir))).await.unwrap();
        self.model.newest = self.model.durable.clone();
        self.model.frozen = None;
    }

    async fn install(&mut self, changes: &[Change]) {
        self.index += 10;
        let mut other = Rig::open(None).await.unwrap();
        other.apply(self.index, changes).await;
        let snapshot = other.build().await.unwrap();
        let data = self.rig.receive(&snapshot).await;
        self.rig.store.install_snapshot(&snapshot.meta, data).await.unwrap();
        let mut installed = Pairs::new();
        change_model(&mut installed, changes);
        self.model.newest = (Some(LogId::new(1, self.index)), installed);
        self.model.durable = self.model.newest.clone();
        self.model.frozen = None;
    }

    fn check(&self, bounds: &Bounds) {
        check(&self.rig.store.view(), &self.model.newest.1, bounds);
        for (view, model) in &self.held {
            check(view, model, bounds);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]
    #[test]
    fn the_store_is_a_map(
        ops in proptest::collection::vec(op(), 0..30),
        bounds in proptest::collection::vec((bound(), bound()), 30),
    ) {
        block_on(async {
            let mut worlds = [World::new(None).await, World::new(Some(TempDir::new())).await];
            // In memory a restart would lose everything; that world skips it, and the two are then not the same.
            let comparable = !ops.iter().any(|op| matches!(op, Op::Restart));
            for (op, bounds) in ops.iter().zip(&bounds) {
                for world in &mut worlds {
                    world.perform(op).await;
                    world.check(bounds);
                }
                if comparable {
                    let hashes = worlds.each_ref().map(|world| world.rig.store.state_hash().unwrap());
                    prop_assert_eq!(hashes[0], hashes[1]);
                }
            }
            Ok(())
        })?;
    }
}
