use std::time::Duration;

use super::decide::{acceptances_needed, promises_needed};
use super::*;
use crate::types::NodeId;

const GRACE: Duration = Duration::from_secs(10);

fn list(names: &[&str]) -> FoundingList {
    let members = names.iter().map(|n| ((*n).to_owned(), vec![format!("{n}:2380")])).collect();
    FoundingList { token: "t".to_owned(), members }
}

fn own(name: &str, node_id: u64) -> Card {
    Card { name: name.to_owned(), node_id, peer_addrs: vec![format!("{name}:2380")], ..Card::default() }
}

fn blank(list: &FoundingList, name: &str, id: u64) -> Founding {
    Founding::new(list.clone(), own(name, id), None, GRACE).expect("listed")
}

/// Keeps what is to be kept; what it says then.
fn settle(node: &mut Founding) -> Decision {
    loop {
        match node.decide() {
            Decision::Keep(promise) => node.kept(promise),
            other => return other,
        }
    }
}

/// All see each other, and do what they are to do.
fn round(nodes: &mut [Founding]) -> Vec<Decision> {
    for to in 0..nodes.len() {
        for from in (0..nodes.len()).filter(|from| *from != to) {
            let card = nodes[from].card().clone();
            nodes[to].handle_card(&card.name.clone(), card).expect("the same list");
        }
        let _ = settle(&mut nodes[to]);
    }
    nodes.iter_mut().map(settle).collect()
}

fn found(nodes: &mut [Founding]) -> Vec<FoundingRecord> {
    for _ in 0..9 {
        let records: Vec<_> = round(nodes)
            .into_iter()
            .filter_map(|decision| match decision {
                Decision::Found(record) => Some(record),
                Decision::Ask { .. } => None,
                other => panic!("{other:?}"),
            })
            .collect();
        if records.len() == nodes.len() {
            return records;
        }
    }
    panic!("not founded")
}

fn missing(names: &[&str]) -> Decision {
    Decision::Ask { missing: names.iter().map(|name| (*name).to_owned()).collect() }
}

/// What the proof in the module's documentation asks of the numbers.
#[test]
fn quorums_meet_in_more_founders_than_may_be_wiped() {
    for listed in 1..=30 {
        let promises = promises_needed(listed);
        assert!(promises > listed / 2 && promises <= listed);
        for founders in promises..=listed {
            let acceptances = acceptances_needed(listed, founders);
            assert!(acceptances + promises - listed > (founders - 1) / 2, "{founders} of {listed}");
            assert!(acceptances <= founders && acceptances > founders / 2, "{founders} of {listed}");
        }
    }
    assert_eq!([1, 2, 3, 4, 5, 6, 7].map(promises_needed), [1, 2, 2, 3, 4, 4, 5]);
    assert_eq!([(3, 2), (3, 3), (5, 4), (5, 5)].map(|(n, m)| acceptances_needed(n, m)), [2, 3, 3, 4]);
}

#[test]
fn three_blank_nodes_found_one_cluster_at_once() {
    let list = list(&["a", "b", "c"]);
    let mut nodes = [blank(&list, "c", 8), blank(&list, "a", 11), blank(&list, "b", 5)];
    let records = found(&mut nodes);
    let id = records[0].cluster_id();
    assert!(id != ClusterId::NONE && records.iter().all(|record| record.founded && record.cluster_id() == id));
    assert_eq!(records[0].membership().configs, vec![[5, 8, 11].map(NodeId).into_iter().collect()]);
}

#[test]
fn a_part_of_the_list_founds_after_the_grace_and_who_comes_later_joins() {
    let list = list(&["a", "b", "c"]);
    let mut nodes = vec![blank(&list, "a", 1), blank(&list, "b", 2)];
    nodes.iter_mut().for_each(|node| node.handle_time(GRACE / 2));
    assert!(round(&mut nodes).iter().all(|decision| *decision == missing(&["c"])));
    // The grace begins anew with everyone who comes.
    nodes.iter_mut().for_each(|node| node.handle_time(GRACE));
    assert!(round(&mut nodes).iter().all(|decision| *decision == missing(&["c"])));
    nodes.iter_mut().for_each(|node| node.handle_time(GRACE * 3 / 2));
    let records = found(&mut nodes);
    assert_eq!(records[1].membership().configs, vec![[1, 2].map(NodeId).into_iter().collect()]);

    let cluster = records[0].cluster_id();
    let member = Card { cluster: cluster.0, record: Some(records[0].clone()), ..nodes[0].card().clone() };
    // Also if it has accepted another record, which was not founded.
    let mut seen = blank(&list, "c", 3);
    let mut both = [blank(&list, "a", 1), blank(&list, "b", 2)];
    for node in &mut both {
        seen.handle_card(&node.card().name.clone(), node.card().clone()).expect("the same list");
        node.handle_card("c", seen.card().clone()).expect("the same list");
    }
    let other = FoundingRecord::new(&list, both.iter().map(Founding::card).chain([seen.card()]));
    let ballot = Some(Ballot { round: 1, node_id: 1 });
    let accepted = Promise { promised: ballot, accepted: ballot, record: Some(other), ..Promise::new(3, list.hash()) };
    for kept in [None, Some(accepted)] {
        let mut late = Founding::new(list.clone(), own("c", 3), kept, GRACE).expect("listed");
        late.handle_card("a", member.clone()).expect("it may ask");
        assert_eq!(late.decide(), Decision::Join { peer: "a".into(), cluster });
    }
}

#[test]
fn too_few_found_nothing_however_long_they_wait() {
    let list = list(&["a", "b", "c", "d", "e"]);
    let mut nodes = vec![blank(&list, "a", 1), blank(&list, "b", 2), blank(&list, "c", 3)];
    for hours in 0..20 {
        nodes.iter_mut().for_each(|node| node.handle_time(Duration::from_secs(3600 * hours)));
        assert!(round(&mut nodes).iter().all(|decision| *decision == missing(&["d", "e"])));
    }
    nodes.push(blank(&list, "e", 5));
    round(&mut nodes);
    nodes.iter_mut().for_each(|node| node.handle_time(Duration::from_secs(3600 * 21)));
    assert_eq!(found(&mut nodes)[0].membership().members.len(), 4);
}

/// A founder that was slow, or crashed before its acceptance was durable, is in the record all the same.
#[test]
fn a_founder_that_missed_the_founding_enters_late() {
    let list = list(&["a", "b", "c"]);
    let record = FoundingRecord::new(&list, [own("a", 1), own("b", 2), own("c", 3)].iter());
    let cluster = record.cluster_id();
    let founded = Card { cluster: cluster.0, record: Some(record.clone()), ..own("a", 1) };
    let mut late = blank(&list, "c", 3);
    late.handle_card("a", founded.clone()).expect("names c");
    assert_eq!(late.decide(), Decision::Found(FoundingRecord { founded: true, ..record.clone() }));
    // Accepted before, and a peer that lost its disk answers first: what was founded stays founded.
    let ballot = Some(Ballot { round: 1, node_id: 1 });
    let accepted = Promise { promised: ballot, accepted: ballot, record: Some(record), ..Promise::new(3, list.hash()) };
    let mut again = Founding::new(list.clone(), own("c", 3), Some(accepted), GRACE).expect("listed");
    let wiped = blank(&list, "b", 77).card().clone();
    assert_eq!(again.handle_card("b", wiped), Err(FoundingError::Changed("b".into())));
    again.handle_card("a", founded.clone()).expect("its own cluster");
    assert!(matches!(again.decide(), Decision::Found(_)));
    // Under another id the same name is a stranger, which the cluster may admit or not.
    let mut wiped = blank(&list, "c", 99);
    wiped.handle_card("a", founded.clone()).expect("it may ask");
    assert_eq!(wiped.decide(), Decision::Join { peer: "a".into(), cluster });
    // A cluster of another list is no business of its.
    let mut other = blank(&FoundingList { token: "other".to_owned(), ..list }, "c", 99);
    assert!(matches!(other.handle_card("a", founded), Err(FoundingError::AlreadyFounded { .. })));
}

/// What a memory node has accepted it forgets when it restarts; then nothing may have been founded with it.
#[test]
fn in_memory_all_must_be_there_and_have_accepted() {
    let list = list(&["a", "b", "c"]);
    let memory = |name: &str, id| {
        let card = Card { in_memory: true, ..own(name, id) };
        Founding::new(list.clone(), card, None, GRACE).expect("listed")
    };
    let mut nodes = vec![memory("a", 1), blank(&list, "b", 2)];
    nodes.iter_mut().for_each(|node| node.handle_time(Duration::from_secs(3600)));
    for _ in 0..9 {
        assert!(round(&mut nodes).iter().all(|decision| *decision == missing(&["c"])));
    }
    nodes.push(memory("c", 3));
    // All but the third accept.
    for _ in 0..9 {
        let cards: Vec<_> = nodes.iter().map(|node| node.card().clone()).collect();
        for (at, node) in nodes.iter_mut().enumerate() {
            if at == 2 && node.card().promised.is_some() {
                continue;
            }
            for card in cards.iter().filter(|card| card.name != cards[at].name) {
                node.handle_card(&card.name, card.clone()).expect("the same list");
            }
            assert!(matches!(settle(node), Decision::Ask { .. }));
        }
    }
    assert!(nodes.iter().map(|node| node.card().accepted.is_some()).eq([true, true, false]));
    let record = found(&mut nodes).remove(0);
    assert_eq!(record.membership().members.values().map(|m| m.in_memory).collect::<Vec<_>>(), [true, false, true]);
}

#[test]
fn a_single_node_founds_at_once() {
    let mut node = blank(&list(&["only"]), "only", 3);
    assert!(matches!(settle(&mut node), Decision::Found(r) if r.founded && r.membership().members.len() == 1));
}

/// What is not durable was not said; what was is gone on from.
#[test]
fn a_proposer_that_crashes_goes_on_or_is_replaced() {
    let list = list(&["a", "b", "c"]);
    let mut nodes = [blank(&list, "a", 1), blank(&list, "b", 2), blank(&list, "c", 3)];
    let mut kept = None;
    // Until the first has accepted.
    while nodes[0].card().accepted.is_none() {
        for to in [1, 2, 0] {
            for from in (0..3).filter(|from| *from != to) {
                let card = nodes[from].card().clone();
                nodes[to].handle_card(&card.name.clone(), card).expect("the same list");
            }
            if let Decision::Keep(promise) = nodes[to].decide() {
                nodes[to].kept(promise.clone());
                kept = Some(promise).filter(|_| to == 0).or(kept);
            }
        }
    }
    let record = nodes[0].card().record.clone().expect("it has accepted");
    let alone = |nodes: &[Founding]| {
        let kept = |node: &Founding| {
            let Card { promised, accepted, record, .. } = node.card().clone();
            Promise { promised, accepted, record, ..Promise::new(node.card().node_id, list.hash()) }
        };
        let again = |node: &Founding| {
            Founding::new(list.clone(), own(&node.card().name, node.card().node_id), Some(kept(node)), GRACE)
        };
        let mut others: Vec<_> = nodes[1..].iter().map(|node| again(node).expect("listed")).collect();
        others.iter_mut().for_each(|node| node.handle_time(GRACE * 5));
        others
    };
    let again = || Founding::new(list.clone(), own("a", 1), kept.clone(), GRACE).expect("listed");
    assert_eq!(again().card(), nodes[0].card());

    // The others have not seen what it accepted: they do without it. It comes too late.
    let mut others = alone(&nodes);
    assert!(others.iter().all(|node| node.card().accepted.is_none() && node.card().promised.is_some()));
    round(&mut others);
    others.iter_mut().for_each(|node| node.handle_time(GRACE * 9));
    let founded = found(&mut others).remove(0);
    assert_eq!(founded.membership().configs, vec![[2, 3].map(NodeId).into_iter().collect()]);
    let (mut late, cluster) = (again(), founded.cluster_id());
    let member = Card { cluster: cluster.0, record: Some(founded), ..own("b", 2) };
    late.handle_card("b", member).expect("it may ask");
    assert_eq!(late.decide(), Decision::Join { peer: "b".into(), cluster });

    // One has: the record is founded as soon as all three have accepted it, though the first is away by then.
    let mut others = alone(&nodes);
    others[1].handle_card("a", nodes[0].card().clone()).expect("the same list");
    others[1].handle_silence("a");
    let founded = loop {
        if let Some(Decision::Found(founded)) = round(&mut others).into_iter().next_back() {
            break founded;
        }
    };
    assert_eq!(founded.cluster_id(), record.cluster_id());
    let (mut late, cluster) = (again(), founded.cluster_id().0);
    late.handle_card("c", Card { cluster, record: Some(founded.clone()), ..own("c", 3) }).expect("its own");
    assert_eq!(late.decide(), Decision::Found(founded));
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    let list3 = list(&["a", "b", "c"]);
    let refused = |list: &FoundingList, card, kept| Founding::new(list.clone(), card, kept, GRACE).err();
    assert_eq!(refused(&list3, own("x", 1), None), Some(FoundingError::NotListed("x".into())));
    let mut a = blank(&list3, "a", 1);
    let other = blank(&list(&["a", "b"]), "b", 2).card().clone();
    assert_eq!(a.handle_card("b", other), Err(FoundingError::OtherList("b".into())));
    let c = blank(&list3, "c", 3).card().clone();
    assert!(matches!(a.handle_card("b", c), Err(FoundingError::OtherName { .. })));
    let member = Card { cluster: 9, ..blank(&list3, "c", 2).card().clone() };
    assert!(matches!(a.handle_card("b", member), Err(FoundingError::AlreadyFounded { .. })));
    // One that founds nothing is as good as not there.
    a.handle_card("b", Card { waits: true, ..own("b", 2) }).expect("it may wait");
    assert_eq!(a.decide(), missing(&["b", "c"]));

    let ballot = Some(Ballot { round: 1, node_id: 1 });
    let record = FoundingRecord::new(&list3, [own("a", 1), own("b", 2)].iter());
    let promise = Promise { promised: ballot, ..Promise::new(1, list3.hash()) };
    let accepted = Promise { accepted: ballot, record: Some(record), ..promise.clone() };
    let mut a = Founding::new(list3.clone(), own("a", 1), Some(accepted.clone()), GRACE).expect("listed");
    let wiped = blank(&list3, "b", 77).card().clone();
    assert_eq!(a.handle_card("b", wiped), Err(FoundingError::Changed("b".into())));
    a.handle_card("c", blank(&list3, "c", 5).card().clone()).expect("the record does not name it");
    let list2 = list(&["a", "b"]);
    assert_eq!(refused(&list2, own("a", 1), Some(accepted)), Some(FoundingError::ListChanged));
    assert_eq!(refused(&list2, own("a", 1), Some(promise)), None, "it has only promised");
}

#[test]
fn the_files_round_trip_and_damage_is_seen() {
    let mut node = blank(&list(&["only"]), "only", 3);
    let mut kept = Vec::new();
    let record = loop {
        match node.decide() {
            Decision::Keep(promise) => {
                kept.push(promise.clone());
                node.kept(promise);
            }
            Decision::Found(record) => break record,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(FoundingRecord::from_file(&record.to_file()), Ok(record.clone()));
    assert_eq!(kept.iter().map(|promise| promise.record().is_some()).collect::<Vec<_>>(), [false, true]);
    for bytes in kept.iter().map(|promise| {
        assert_eq!(Promise::from_file(&promise.to_file()).as_ref(), Ok(promise));
        promise.to_file()
    }) {
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 4;
            assert!(Promise::from_file(&bad).is_err(), "byte {at}");
        }
    }
    let bytes = record.to_file();
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 4;
        assert!(FoundingRecord::from_file(&bad).is_err(), "byte {at}");
    }
}
