//! The founding of a cluster, seen from one blank node: see [the module](super) for how and why.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Ballot, Card, FoundingError, FoundingList, FoundingRecord, Promise};
use crate::types::{ClusterId, NodeId};

/// What a blank node should do next.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Decision {
    /// Ask all [peers](Founding::peers) again. These are not there.
    Ask {
        /// Their names.
        missing: Vec<String>,
    },
    /// Make this durable, then call [`Founding::kept`].
    Keep(Promise),
    /// So many have accepted this record that it is founded: belong to its cluster and initialize consensus with its
    /// membership.
    Found(FoundingRecord),
    /// A peer on the list belongs to this cluster, which was founded without this node: ask to be admitted.
    Join {
        /// Its name.
        peer: String,
        /// Its cluster.
        cluster: ClusterId,
    },
}

/// Of so many on the list so many have to promise.
pub(super) fn promises_needed(listed: usize) -> usize {
    // `2q − n > (q − 1) / 2`, and not below zero.
    (1..=listed).find(|q| 2 * q > listed + (q - 1) / 2).unwrap_or(listed)
}

/// Of so many on the list, and so many of them founders, so many founders have to accept.
pub(super) fn acceptances_needed(listed: usize, founders: usize) -> usize {
    let tolerated = founders.saturating_sub(1) / 2;
    (listed - promises_needed(listed) + tolerated + 1).max(founders / 2 + 1)
}

/// The founding of a cluster, seen from one blank node. Pure: in each round say what time it is, feed it the card of every
/// peer, or its silence, and do what [`Founding::decide`] says until it asks again.
#[derive(Debug)]
pub struct Founding {
    list: FoundingList,
    own: Card,
    kept: Promise,
    /// The last of each that was seen, this node's own among them. What they say of what was kept stays true.
    cards: BTreeMap<String, Card>,
    /// Who answered last time.
    present: BTreeSet<String>,
    now: Duration,
    grace: Duration,
    /// When a part of the list will do.
    full_by: Duration,
    /// The cluster was founded, with this node among its founders, as a peer that belongs to it says.
    founded: Option<FoundingRecord>,
    /// A listed peer, and its cluster, which was founded without this node.
    stranger_to: Option<(String, ClusterId)>,
}

impl Founding {
    /// Begins, or goes on with what was kept before a restart. A part of the list will do when nobody new was heard of for
    /// the time of `grace`.
    ///
    /// # Errors
    /// The own name is not on the list, or a record was accepted with another list.
    pub fn new(list: FoundingList, own: Card, kept: Option<Promise>, grace: Duration) -> Result<Self, FoundingError> {
        if !list.members.contains_key(&own.name) {
            return Err(FoundingError::NotListed(own.name));
        }
        let hash = list.hash();
        let fresh = Promise::new(own.node_id, hash);
        let kept = match kept {
            Some(kept) if kept.list == hash => kept,
            Some(kept) if kept.record.is_some() => return Err(FoundingError::ListChanged),
            // Ballots go on, whatever the list.
            kept => Promise { promised: kept.and_then(|kept| kept.promised), ..fresh },
        };
        let own = Card { list: hash, cluster: 0, ..own };
        let mut founding = Self {
            list,
            own,
            kept: Promise::default(),
            cards: BTreeMap::new(),
            present: BTreeSet::new(),
            now: Duration::ZERO,
            grace,
            full_by: grace,
            founded: None,
            stranger_to: None,
        };
        founding.kept(kept);
        Ok(founding)
    }

    /// What to show peers.
    pub fn card(&self) -> &Card {
        &self.own
    }

    /// Whom to ask, and where.
    pub fn peers(&self) -> impl Iterator<Item = (&String, &Vec<String>)> {
        self.list.members.iter().filter(|(name, _)| **name != self.own.name)
    }

    /// So much time has passed since the beginning.
    pub fn handle_time(&mut self, now: Duration) {
        self.now = now;
    }

    /// The node at the address of `listed` does not answer.
    pub fn handle_silence(&mut self, listed: &str) {
        self.present.remove(listed);
    }

    /// Takes the card that the node at the address of `listed` showed. An error of one peer does not outweigh what
    /// another says: handle all cards there are, and report an error only if [`Founding::decide`] still asks.
    ///
    /// # Errors
    /// See [`FoundingError`].
    pub fn handle_card(&mut self, listed: &str, card: Card) -> Result<(), FoundingError> {
        if card.cluster != 0 {
            return self.handle_member(listed, card);
        }
        if card.waits {
            self.handle_silence(listed);
            return Ok(());
        }
        if card.list != self.own.list {
            return Err(FoundingError::OtherList(listed.to_owned()));
        }
        if card.name != listed {
            return Err(FoundingError::OtherName { listed: listed.to_owned(), answered: card.name });
        }
        let mut accepted = self.kept.record.iter().flat_map(|record| &record.founders);
        if accepted.any(|founder| founder.name == listed && founder.node_id != card.node_id) {
            return Err(FoundingError::Changed(listed.to_owned()));
        }
        if self.cards.get(listed).is_none_or(|seen| seen.node_id != card.node_id) {
            self.full_by = self.now.saturating_add(self.grace);
        }
        self.present.insert(listed.to_owned());
        self.cards.insert(listed.to_owned(), card);
        Ok(())
    }

    /// The card of a node that belongs to a cluster.
    fn handle_member(&mut self, listed: &str, card: Card) -> Result<(), FoundingError> {
        let names_us = |r: &&FoundingRecord| r.cluster_id().0 == card.cluster && r.names(self.own.node_id);
        let known = card.record.as_ref().into_iter().chain(&self.kept.record).find(names_us);
        // It was founded with this node's id, whether this node accepted it or not: no other record can be any more.
        self.founded = self.founded.take().or(known.cloned());
        if self.founded.is_some() {
            return Ok(());
        }
        let (peer, cluster) = (listed.to_owned(), ClusterId(card.cluster));
        let same_token = card.record.as_ref().is_none_or(|r| r.token == self.list.token);
        // Anybody else at a listed address is no reason to go there.
        if card.name != listed || !same_token {
            return Err(FoundingError::AlreadyFounded { peer, cluster });
        }
        self.stranger_to = Some((peer, cluster));
        Ok(())
    }

    /// What [`Decision::Keep`] gave is durable.
    pub fn kept(&mut self, promise: Promise) {
        self.own.promised = promise.promised;
        self.own.accepted = promise.accepted;
        self.own.record = promise.record.clone();
        self.cards.insert(self.own.name.clone(), self.own.clone());
        self.kept = promise;
    }

    /// What to do now.
    pub fn decide(&self) -> Decision {
        if let Some(record) = self.founded.as_ref().or_else(|| self.chosen()) {
            return Decision::Found(FoundingRecord { founded: true, ..record.clone() });
        }
        if let Some((peer, cluster)) = self.stranger_to.clone() {
            return Decision::Join { peer, cluster };
        }
        if let Some(promise) = self.next() {
            return Decision::Keep(promise);
        }
        let missing = self.peers().map(|(name, _)| name).filter(|name| !self.present.contains(*name));
        Decision::Ask { missing: missing.cloned().collect() }
    }

    /// A record that names this node and that enough of its founders have accepted under one ballot.
    fn chosen(&self) -> Option<&FoundingRecord> {
        let listed = self.list.members.len();
        let accepted = self.cards.values().filter_map(|card| Some((card.accepted?, card.record.as_ref()?)));
        let enough = |(ballot, record): &(Ballot, &FoundingRecord)| {
            let founders = &record.founders;
            let votes = founders.iter().filter(|founder| {
                let card = self.cards.get(&founder.name);
                card.is_some_and(|card| card.node_id == founder.node_id && card.accepted == Some(*ballot))
            });
            // What is accepted in memory can be forgotten: there it takes all.
            let forgets = founders.iter().any(|founder| founder.in_memory);
            votes.count() >= if forgets { listed } else { acceptances_needed(listed, founders.len()) }
        };
        let mut chosen = accepted.filter(enough).map(|(_, record)| record);
        chosen.find(|record| record.names(self.own.node_id))
    }

    /// What is to be kept next, if anything.
    fn next(&self) -> Option<Promise> {
        let kept = &self.kept;
        let cards = || self.cards.values();
        let proposed = cards().filter_map(|card| Some((card.accepted?, card.record.as_ref()?)));
        if let Some((ballot, record)) = proposed.max_by_key(|(ballot, _)| *ballot)
            && Some(ballot) >= kept.promised
            && Some(ballot) > kept.accepted
        {
            return Some(self.accept(ballot, record.clone()));
        }
        let asked = cards().filter_map(|card| card.promised.filter(|ballot| ballot.node_id == card.node_id)).max();
        if asked > kept.promised {
            return Some(Promise { promised: asked, ..kept.clone() });
        }
        let greatest = cards().filter_map(|card| card.promised).max();
        if greatest.is_some() && greatest == kept.promised {
            if kept.accepted == kept.promised {
                // Now the others have to.
                return None;
            }
            if let Some(ballot) = greatest.filter(|ballot| ballot.node_id == self.own.node_id) {
                return Some(self.accept(ballot, self.proposal(ballot)?));
            }
        }
        let round = greatest.map_or(0, |ballot| ballot.round).saturating_add(1);
        let ballot = Ballot { round, node_id: self.own.node_id };
        self.is_to_begin().then(|| Promise { promised: Some(ballot), ..kept.clone() })
    }

    fn accept(&self, ballot: Ballot, record: FoundingRecord) -> Promise {
        Promise { promised: Some(ballot), accepted: Some(ballot), record: Some(record), ..self.kept.clone() }
    }

    /// The cards of this node and of those that are present.
    fn here(&self) -> impl Iterator<Item = &Card> {
        let here = |name: &String| *name == self.own.name || self.present.contains(name);
        self.cards.iter().filter(move |(name, _)| here(name)).map(|(_, card)| card)
    }

    /// Of the list this many have to promise.
    fn needed(&self) -> usize {
        let listed = self.list.members.len();
        if self.here().any(|card| card.in_memory) { listed } else { promises_needed(listed) }
    }

    /// Whether it is this node's turn to begin a ballot.
    fn is_to_begin(&self) -> bool {
        let here = self.present.len() + 1;
        let is_first = self.present.first().is_none_or(|first| self.own.name < *first);
        let waits = here < self.list.members.len() && self.now < self.full_by;
        let goes_on = self.here().any(|card| card.accepted.is_some());
        is_first && here >= self.needed() && (goes_on || !waits)
    }

    /// The record for this node's own ballot, once so many have promised it that there is one.
    fn proposal(&self, ballot: Ballot) -> Option<FoundingRecord> {
        let promised: Vec<_> = self.here().filter(|card| card.promised == Some(ballot)).collect();
        if promised.len() < self.needed() {
            return None;
        }
        let accepted = promised.iter().filter_map(|card| Some((card.accepted?, card.record.as_ref()?)));
        if let Some((_, record)) = accepted.max_by_key(|(ballot, _)| *ballot) {
            return Some(record.clone());
        }
        let (listed, here) = (self.list.members.len(), self.present.len() + 1);
        let is_all = promised.len() == listed || promised.len() == here && self.now >= self.full_by;
        // Who is here and does not promise may not hear of the ballot.
        let is_late = self.now >= self.full_by.saturating_add(self.grace);
        (is_all || is_late).then(|| FoundingRecord::new(&self.list, promised.into_iter()))
    }
}

impl FoundingRecord {
    fn names(&self, node_id: u64) -> bool {
        self.membership().members.contains_key(&NodeId(node_id))
    }
}
