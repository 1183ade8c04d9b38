//! Changes of the membership, on real nodes in one process.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::common::{Dir, TestNode, addrs, run, until};
use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::stream;
use openraft::async_runtime::watch::WatchReceiver;
use openraft_rt::AsyncRuntime;
use quorate_core::founding::FoundingList;
use quorate_core::{LogId, NodeId, StateMachine, StateMut, StateRef};
use quorate_io::node::exit_code;
use quorate_io::tokio::{TokioPlatform, TokioRuntime};
use quorate_io::{
    Consistency, InitialState, MemberError, NewMember, Node, NodeConfig, StopError, Storage, WriteError, restore,
};

/// Every command is a key of eight bytes; its value counts how often it came.
struct Keys;

impl StateMachine for Keys {
    fn apply(&self, _: LogId, command: &Bytes, state: &mut dyn StateMut) -> Bytes {
        let times = state.get(command).map_or(0, |value| value[0]) + 1;
        state.put(command.clone(), vec![times].into());
        Bytes::new()
    }
}

impl Dir {
    fn config(&self, name: &str, addr: &str) -> NodeConfig {
        let mut config = NodeConfig::new(name, Storage::Dir(self.0.join(name)), addr);
        config.reserve_bytes = 32 << 20;
        config.store.cache_bytes = 1 << 20;
        config
    }

    fn joining(&self, name: &str, addr: &str, join: &[&String]) -> NodeConfig {
        NodeConfig { join: join.iter().map(|addr| (*addr).clone()).collect(), ..self.config(name, addr) }
    }
}

fn list(names: &[&str], addrs: &[String]) -> FoundingList {
    let members = names.iter().zip(addrs).map(|(name, addr)| ((*name).to_owned(), vec![addr.clone()])).collect();
    FoundingList { token: "members".to_owned(), members }
}

async fn start(config: NodeConfig) -> TestNode {
    Node::start(TokioPlatform::default(), config, Keys).await.unwrap()
}

fn voters(node: &TestNode) -> BTreeSet<NodeId> {
    node.cluster().nodes.iter().filter(|member| member.voter).map(|member| member.id).collect()
}

fn names(node: &TestNode) -> BTreeSet<String> {
    node.cluster().nodes.into_iter().map(|member| member.member.name).collect()
}

fn ids(nodes: &[&TestNode]) -> BTreeSet<NodeId> {
    nodes.iter().map(|node| node.node_id()).collect()
}

/// All of them are the voters, as each of them knows, and each is ready.
async fn are_the_voters(nodes: &[&TestNode]) {
    let expected = ids(nodes);
    until("the voters", async || {
        nodes.iter().all(|node| voters(node) == expected && node.health().ready.is_ok() && !is_joint(node))
    })
    .await;
}

fn is_joint(node: &TestNode) -> bool {
    node.raft().metrics().borrow_watched().membership_config.membership().get_joint_config().len() > 1
}

async fn removed(node: &TestNode) {
    let error = TokioRuntime::timeout(Duration::from_secs(20), node.stopped()).await.unwrap();
    assert!(matches!(error, StopError::Removed(_)), "{error}");
    assert_eq!(error.exit_code(), exit_code::NOT_A_MEMBER);
    assert!(error.to_string().contains("empty data directory"), "{error}");
    assert_eq!(node.stop().await, Err(error));
}

/// Writes without end, each key until it is acknowledged; unknown outcomes are sent again.
struct Writer {
    ends: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    task: tokio::task::JoinHandle<()>,
}

impl Writer {
    fn start(node: &TestNode) -> Self {
        let (ends, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (node, stop, count) = (node.clone(), ends.clone(), written.clone());
        let task = tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let key = count.load(Ordering::Relaxed).to_be_bytes().to_vec();
                match node.write(key.into()).await {
                    Ok(_) => _ = count.fetch_add(1, Ordering::Relaxed),
                    Err(WriteError::NotApplied(_) | WriteError::Unknown(_)) => {}
                }
                TokioRuntime::sleep(Duration::from_millis(1)).await;
            }
        });
        Self { ends, written, task }
    }

    /// A few more are written, and then no more; how many were.
    async fn end(self) -> u64 {
        let before = self.written.load(Ordering::Relaxed);
        until("more writes", async || self.written.load(Ordering::Relaxed) > before + 20).await;
        self.ends.store(true, Ordering::Relaxed);
        self.task.await.unwrap();
        self.written.load(Ordering::Relaxed)
    }
}

/// Every key that was acknowledged is there.
async fn has_all(node: &TestNode, written: u64) {
    let view = node.read(Consistency::Linearizable).await.unwrap();
    let missing: Vec<_> = (0..written).filter(|key| view.get(&key.to_be_bytes()).is_none()).collect();
    assert!(missing.is_empty(), "{missing:?} of {written}");
}

fn member(name: &str, addr: &str) -> NewMember {
    NewMember { name: name.to_owned(), peer_addrs: vec![addr.to_owned()], learner: false }
}

#[test]
fn one_becomes_three_becomes_five_becomes_three_while_it_writes() {
    run(async {
        let (dir, addrs) = (Dir::new("grow"), addrs(5));
        let one = start(dir.config("n0", &addrs[0])).await;
        let writer = Writer::start(&one);
        // One joins by itself, through an address of which only the second is right; one is added.
        let join = [&addrs[4], &addrs[0]];
        let two = start(dir.joining("n1", &addrs[1], &join)).await;
        let existing = InitialState::Existing;
        let three = start(NodeConfig { initial_state: existing, ..dir.config("n2", &addrs[2]) }).await;
        assert!(three.health().ready.unwrap_err().contains("waits to be admitted"));
        // From any node: this one may not even be a member yet.
        until("added", async || two.add_member(member("n2", &addrs[2])).await.is_ok()).await;
        are_the_voters(&[&one, &two, &three]).await;
        // Asked again, it says that it is done.
        assert!(matches!(one.add_member(member("n2", &addrs[2])).await, Err(MemberError::Conflict(_))));

        let four = start(dir.joining("n3", &addrs[3], &[&addrs[1]])).await;
        let five = start(dir.joining("n4", &addrs[4], &[&addrs[2]])).await;
        are_the_voters(&[&one, &two, &three, &four, &five]).await;

        // The leader goes first, by itself; then another one, by id.
        let all = [&one, &two, &three, &four, &five];
        let leader = one.leadership().current().leader.unwrap();
        let leader = *all.iter().find(|node| node.node_id() == leader).unwrap();
        let name = one.cluster().nodes.iter().find(|m| m.id == leader.node_id()).unwrap().member.name.clone();
        let removed_id = leader.remove_member(&name, false).await.unwrap();
        assert_eq!(removed_id, leader.node_id(), "it answers first");
        removed(leader).await;
        let mut left: Vec<_> = all.into_iter().filter(|node| node.node_id() != removed_id).collect();
        are_the_voters(&left).await;
        // The writer writes through the first node, as long as that is a member.
        let gone = left.pop().unwrap();
        let by = left.iter().copied().find(|node| node.node_id() != gone.node_id()).unwrap();
        until("removed", async || match by.remove_member(&gone.node_id().to_string(), false).await {
            Ok(_) | Err(MemberError::NotFound(_)) => true,
            Err(error) => panic!("{error}"),
        })
        .await;
        removed(gone).await;
        are_the_voters(&left).await;
        let written = if leader.node_id() == one.node_id() {
            writer.ends.store(true, Ordering::Relaxed);
            writer.task.await.unwrap();
            writer.written.load(Ordering::Relaxed)
        } else {
            writer.end().await
        };
        assert!(written > 0);
        for node in &left {
            has_all(node, written).await;
        }
        for node in left {
            node.stop().await.unwrap();
        }
    });
}

/// Nodes of a founding list, durable and voting.
async fn founded(dir: &Dir, names: &[&str], addrs: &[String]) -> Vec<TestNode> {
    let mut nodes = Vec::new();
    for (name, addr) in names.iter().zip(addrs) {
        nodes.push(start(NodeConfig { founding: list(names, addrs), ..dir.config(name, addr) }).await);
    }
    are_the_voters(&nodes.iter().collect::<Vec<_>>()).await;
    nodes
}

/// The one that leads comes first.
async fn leader_first(mut nodes: Vec<TestNode>) -> Vec<TestNode> {
    until("a leader", async || nodes.iter().any(|node| node.leadership().current().is_local)).await;
    nodes.sort_by_key(|node| !node.leadership().current().is_local);
    nodes
}

fn name_of(node: &TestNode) -> String {
    let cluster = node.cluster();
    cluster.nodes.into_iter().find(|member| member.id == node.node_id()).unwrap().member.name
}

/// More is written while a snapshot is sent than the log keeps for those who are behind: whoever gets it must be able to go
/// on from there, and not need another one.
#[test]
fn a_node_catches_up_however_much_is_written_meanwhile() {
    run(async {
        let (dir, addrs) = (Dir::new("behind"), addrs(2));
        let mut config = NodeConfig { founding: list(&["a"], &addrs[..1]), ..dir.config("a", &addrs[0]) };
        (config.compaction.snapshot_every_entries, config.compaction.keep_entries) = (20, 2);
        let one = start(config).await;
        are_the_voters(&[&one]).await;
        for number in 0..60_u64 {
            let key = |part: u64| [(1 << 32 | number << 16 | part).to_be_bytes().as_slice(), &[0; 5_000]].concat();
            let writes = (0..100).map(|part| one.write(key(part).into()));
            assert!(join_all(writes).await.iter().all(Result::is_ok));
        }
        let writers: Vec<Writer> = (0..4).map(|_| Writer::start(&one)).collect();
        let other = start(dir.joining("b", &addrs[1], &[&addrs[0]])).await;
        // It makes none of its own.
        let snapshot = || other.raft().metrics().borrow_watched().snapshot.as_ref().map(|id| id.index);
        until("a snapshot", async || snapshot().is_some()).await;
        let first = snapshot();
        are_the_voters(&[&one, &other]).await;
        for writer in writers {
            let written = writer.end().await;
            has_all(&other, written).await;
        }
        assert_eq!(snapshot(), first, "it needed another one");
        one.stop().await.unwrap();
        other.stop().await.unwrap();
    });
}

#[test]
fn a_node_that_was_removed_while_it_was_down_says_so_at_every_start() {
    run(async {
        let (dir, addrs, names) = (Dir::new("removed"), addrs(3), ["a", "b", "c"]);
        let mut nodes = founded(&dir, &names, &addrs).await;
        nodes[0].write(7_u64.to_be_bytes().to_vec().into()).await.unwrap();
        let down = nodes.pop().unwrap();
        down.stop().await.unwrap();
        nodes[1].remove_member("c", false).await.unwrap();
        are_the_voters(&[&nodes[0], &nodes[1]]).await;
        let term = nodes[0].cluster().term;
        for _ in 0..2 {
            removed(&start(NodeConfig { founding: list(&names, &addrs), ..dir.config("c", &addrs[2]) }).await).await;
        }
        assert_eq!(nodes[0].cluster().term, term, "it has disturbed nobody");

        // With an empty directory it is another node. Its name is on the list and not in the membership: it comes back.
        std::fs::remove_dir_all(dir.0.join("c")).unwrap();
        let again = start(NodeConfig { founding: list(&names, &addrs), ..dir.config("c", &addrs[2]) }).await;
        are_the_voters(&[&nodes[0], &nodes[1], &again]).await;
        assert!(again.node_id() != down.node_id());
        has_all(&again, 0).await;
        // And without: it knows where it belongs, whatever it is told to join.
        again.stop().await.unwrap();
        let again = start(dir.joining("c", &addrs[2], &[&addrs[0]])).await;
        are_the_voters(&[&nodes[0], &nodes[1], &again]).await;

        // One that loses its disk while it is a member is not let in under its name.
        again.stop().await.unwrap();
        std::fs::remove_dir_all(dir.0.join("c")).unwrap();
        let wiped = [
            NodeConfig { founding: list(&names, &addrs), ..dir.config("c", &addrs[2]) },
            dir.joining("c", &addrs[2], &[&addrs[1]]),
        ];
        for config in wiped {
            let node = start(config).await;
            let error = TokioRuntime::timeout(Duration::from_secs(20), node.stopped()).await.unwrap();
            assert!(matches!(error, StopError::Founding(_)), "{error}");
            assert_eq!(error.exit_code(), exit_code::NOT_A_MEMBER);
            let _ = node.stop().await;
        }
        assert_eq!(voters(&nodes[0]).len(), 3);
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn a_joint_configuration_that_a_crash_of_the_leader_leaves_is_finished() {
    run(async {
        let (dir, addrs) = (Dir::new("joint"), addrs(4));
        let nodes = leader_first(founded(&dir, &["a", "b", "c", "d"], &addrs).await).await;
        let (leader, other, gone) = (&nodes[0], &nodes[1], nodes[3].node_id());
        // From there it goes on: whoever is elected has it in its log.
        let mut metrics = other.raft().server_metrics();
        let joint = metrics.wait_until(|m| m.membership_config.membership().get_joint_config().len() > 1);
        let change = openraft::ChangeMembers::RemoveVoters(BTreeSet::from([gone]));
        let change = leader.raft().change_membership(change, false);
        tokio::select! {
            biased;
            joint = joint => drop(joint.unwrap()),
            done = change => panic!("both steps are done: {done:?}"),
        }
        // It commits nothing any more by itself.
        let _ = leader.raft().shutdown().await;
        let expected = ids(&[leader, other, &nodes[2]]);
        let left = [other, &nodes[2]];
        until("the end of it", async || left.iter().all(|node| !is_joint(node) && voters(node) == expected)).await;
        removed(&nodes[3]).await;
        for node in &nodes {
            let _ = node.stop().await;
        }
    });
}

#[test]
fn all_addresses_change_at_once() {
    run(async {
        let (dir, names) = (Dir::new("moved"), ["a", "b", "c"]);
        let (old, new) = (addrs(4), addrs(4));
        let mut nodes = founded(&dir, &names, &old).await;
        nodes.push(start(dir.joining("d", &old[3], &[&old[0]])).await);
        are_the_voters(&nodes.iter().collect::<Vec<_>>()).await;
        let before = ids(&nodes.iter().collect::<Vec<_>>());
        for node in nodes.drain(..) {
            node.stop().await.unwrap();
        }
        for (name, addr) in names.iter().zip(&new) {
            nodes.push(start(NodeConfig { founding: list(&names, &new), ..dir.config(name, addr) }).await);
        }
        // It is on no list: it finds one of the others, and tells where it is.
        nodes.push(start(dir.joining("d", &new[3], &[&new[1]])).await);
        let nodes: Vec<_> = nodes.iter().collect();
        assert_eq!(ids(&nodes), before);
        until("the new addresses", async || {
            let told = |node: &TestNode| {
                let addrs = node.cluster().nodes.into_iter().flat_map(|member| member.member.peer_addrs);
                addrs.collect::<BTreeSet<_>>()
            };
            nodes.iter().all(|node| told(node) == new.iter().cloned().collect())
        })
        .await;
        are_the_voters(&nodes).await;
        nodes[3].write(1_u64.to_be_bytes().to_vec().into()).await.unwrap();
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}

fn in_memory(name: &str, addr: &str, list: &FoundingList) -> NodeConfig {
    NodeConfig { founding: list.clone(), ..NodeConfig::new(name, Storage::Memory, addr) }
}

/// Three nodes in memory, the leader first; with the address of each.
async fn three_in_memory(list: &FoundingList) -> Vec<TestNode> {
    let mut nodes = Vec::new();
    for (name, addrs) in &list.members {
        nodes.push(start(in_memory(name, &addrs[0], list)).await);
    }
    are_the_voters(&nodes.iter().collect::<Vec<_>>()).await;
    leader_first(nodes).await
}

#[test]
fn a_node_in_memory_that_restarts_is_replaced() {
    run(async {
        let list = list(&["a", "b", "c"], &addrs(3));
        let mut nodes = three_in_memory(&list).await;
        let writer = Writer::start(&nodes[1]);
        // A follower, then a leader.
        for turn in [2, 0] {
            nodes = leader_first(nodes).await;
            // The writer's own node stays.
            let turn = if nodes[turn].node_id() == nodes[1].node_id() { 1 } else { turn };
            let victim = nodes.remove(turn);
            let (name, old) = (name_of(&victim), victim.node_id());
            let _ = victim.raft().shutdown().await;
            let _ = victim.stop().await;
            let again = start(in_memory(&name, &list.members[&name][0], &list)).await;
            assert!(again.health().ready.is_err(), "not before it has caught up");
            nodes.push(again);
            let all: Vec<_> = nodes.iter().collect();
            are_the_voters(&all).await;
            assert!(!ids(&all).contains(&old) && names(&nodes[0]).len() == 3);
        }
        writer.ends.store(true, Ordering::Relaxed);
        writer.task.await.unwrap();
        let written = writer.written.load(Ordering::Relaxed);
        assert!(written > 20);
        for node in &nodes {
            has_all(node, written).await;
        }
        for node in nodes {
            node.stop().await.unwrap();
        }
    });
}

#[test]
fn of_three_nodes_in_memory_two_that_are_lost_are_not_replaced() {
    run(async {
        let list = list(&["a", "b", "c"], &addrs(3));
        let mut nodes = three_in_memory(&list).await;
        nodes[0].write(1_u64.to_be_bytes().to_vec().into()).await.unwrap();
        let survivor = nodes.remove(1);
        until("applied", async || survivor.store().applied() == nodes[0].store().applied()).await;
        let mut blank = Vec::new();
        for node in nodes {
            let name = name_of(&node);
            let _ = node.raft().shutdown().await;
            let _ = node.stop().await;
            blank.push(start(in_memory(&name, &list.members[&name][0], &list)).await);
        }
        // Long enough for elections, and for founding a cluster if they were to.
        TokioRuntime::sleep(Duration::from_secs(4)).await;
        let three = voters(&survivor);
        assert!(three.len() == 3 && three.contains(&survivor.node_id()));
        for node in &blank {
            assert!(node.health().ready.is_err());
            assert!(node.store().applied().is_none() && voters(node).is_empty(), "there is no second cluster");
            assert!(!three.contains(&node.node_id()));
        }
        let key = 1_u64.to_be_bytes();
        assert!(survivor.read(Consistency::Stale).await.unwrap().get(&key).is_some(), "what is left is not lost");
        // It makes a new cluster.
        let mut backup = survivor.backup(Consistency::Stale).await.unwrap();
        let parts: Vec<_> = std::iter::from_fn(|| backup.next_bytes().unwrap()).map(Ok).collect();
        let dir = Dir::new("from-memory");
        let config = dir.config("d", &addrs(1)[0]);
        restore(&TokioPlatform::default(), &config, stream::iter(parts)).await.unwrap();
        let restored = start(config).await;
        has_all(&restored, 0).await;
        assert!(restored.read(Consistency::Stale).await.unwrap().get(&key).is_some());
        restored.stop().await.unwrap();
        for node in blank.into_iter().chain([survivor]) {
            let _ = node.stop().await;
        }
    });
}

#[test]
fn a_change_that_would_lose_the_quorum_and_a_second_one_at_once_are_refused() {
    run(async {
        let (dir, addrs) = (Dir::new("refused"), addrs(5));
        let nodes = leader_first(founded(&dir, &["a", "b", "c"], &addrs).await).await;
        let names: Vec<_> = nodes.iter().map(name_of).collect();
        let [leader, follower, third] = &nodes[..] else { panic!("three") };
        third.stop().await.unwrap();
        until("noticed", async || {
            matches!(follower.remove_member(&names[1], false).await, Err(MemberError::WouldLoseQuorum(_)))
        })
        .await;
        let nobody = follower.remove_member("nobody", true).await;
        assert!(matches!(&nobody, Err(MemberError::NotFound(text)) if text.contains("nobody")), "{nobody:?}");
        let unreachable = leader.add_member(member("x", &addrs[3])).await;
        assert!(matches!(unreachable, Err(MemberError::Unreachable(_))), "{unreachable:?}");
        // The one that is lost may go.
        leader.remove_member(&names[2], false).await.unwrap();
        are_the_voters(&[leader, follower]).await;

        let waiting =
            |name: &str, addr: &str| NodeConfig { initial_state: InitialState::Existing, ..dir.config(name, addr) };
        let (x, y) = (start(waiting("x", &addrs[3])).await, start(waiting("y", &addrs[4])).await);
        // Nobody answered there a moment ago, and it is not dialled again at once.
        until("it is named otherwise", async || {
            matches!(leader.add_member(member("z", &addrs[3])).await, Err(MemberError::Conflict(_)))
        })
        .await;
        // Without the follower nothing can be committed: the first change is still under way when the second comes.
        follower.raft().shutdown().await.unwrap();
        let (first, second) = (member("x", &addrs[3]), member("y", &addrs[4]));
        let (first, second) = tokio::join!(leader.add_member(first), leader.add_member(second));
        assert!(first.is_err());
        assert!(matches!(&second, Err(MemberError::Conflict(text)) if text.contains("under way")), "{second:?}");
        for node in [x, y].iter().chain(&nodes) {
            let _ = node.stop().await;
        }
    });
}

#[test]
fn a_learner_stays_one_until_it_is_promoted_and_leadership_goes_where_it_is_sent() {
    run(async {
        let (dir, addrs) = (Dir::new("learner"), addrs(3));
        let one = start(dir.config("a", &addrs[0])).await;
        let last = one.remove_member("a", true).await;
        assert!(matches!(last, Err(MemberError::WouldLoseQuorum(_))), "{last:?}");
        let waiting = NodeConfig { initial_state: InitialState::Existing, ..dir.config("b", &addrs[1]) };
        let two = start(waiting).await;
        one.add_member(NewMember { learner: true, ..member("b", &addrs[1]) }).await.unwrap();
        one.write(0_u64.to_be_bytes().to_vec().into()).await.unwrap();
        until("caught up", async || two.store().applied() == one.store().applied()).await;
        TokioRuntime::sleep(Duration::from_secs(1)).await;
        assert_eq!(voters(&one), ids(&[&one]));
        assert!(two.health().ready.is_ok(), "it is what it is to be");
        assert!(matches!(one.transfer_leadership(Some("b")).await, Err(MemberError::Conflict(_))));
        assert!(matches!(one.transfer_leadership(None).await, Err(MemberError::Unreachable(_))));
        has_all(&two, 1).await;
        until("promoted", async || match two.promote_member("b").await {
            Ok(id) => id == two.node_id(),
            Err(MemberError::Conflict(_)) => false,
            Err(error) => panic!("{error}"),
        })
        .await;
        are_the_voters(&[&one, &two]).await;
        let again = two.promote_member("b").await;
        assert!(matches!(again, Err(MemberError::Conflict(_))), "{again:?}");

        let writer = Writer::start(&one);
        assert_eq!(one.transfer_leadership(Some("b")).await, Ok(two.node_id()));
        assert_eq!(one.transfer_leadership(Some("b")).await, Ok(two.node_id()), "it leads already");
        assert_eq!(one.transfer_leadership(None).await, Ok(one.node_id()));
        let written = writer.end().await;
        has_all(&two, written).await;
        // Restarted it is still a member, whatever it is told to join.
        two.stop().await.unwrap();
        let two = start(dir.joining("b", &addrs[1], &[&addrs[2]])).await;
        are_the_voters(&[&one, &two]).await;
        for node in [one, two] {
            node.stop().await.unwrap();
        }
    });
}
