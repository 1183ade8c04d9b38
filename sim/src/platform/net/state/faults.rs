//! What goes wrong on the network.

use super::{Connection, End, HELD, State};
use crate::Event;

impl State {
    /// The node's process ends, without the machine noticing if it is off.
    pub(in super::super) fn kill(&mut self, now: u64, node: u32) {
        let state = self.nodes.entry(node).or_default();
        state.generation += 1;
        let generation = state.generation;
        for port in state.listeners.keys().copied().collect::<Vec<_>>() {
            self.unlisten(now, node, port);
        }
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            for side in 0..2 {
                if self.connections.get(&id).is_some_and(|connection| connection.sides[side].node == node) {
                    self.abandon(now, id, side);
                }
            }
        }
        self.event(now, node, "net kill", "", [generation, 0]);
    }

    /// Breaks all connections between two machines, for both ends at once.
    pub(in super::super) fn reset(&mut self, now: u64, a: u32, b: u32) -> usize {
        let mut broken = 0;
        for (id, connection) in &mut self.connections {
            let nodes = [connection.sides[0].node, connection.sides[1].node];
            if nodes != [a, b] && nodes != [b, a] {
                continue;
            }
            broken += 1;
            let rng = &mut self.links.get(a, b).rng;
            let mid = connection.break_at(0, now, rng) | connection.break_at(1, now, rng);
            self.counters.resets += 1;
            self.counters.resets_mid_write += u64::from(mid);
            self.trace.event(Event {
                at: now,
                node: a,
                kind: "net reset",
                subject: "",
                numbers: [*id, now],
                payload: &[],
            });
        }
        broken
    }

    fn between(&mut self, a: u32, b: u32) -> impl Iterator<Item = (&u64, &mut Connection)> {
        self.connections.iter_mut().filter(move |(_, connection)| {
            let nodes = [connection.sides[0].node, connection.sides[1].node];
            nodes == [a, b] || nodes == [b, a]
        })
    }

    /// Nothing gets through the connections that there are between two machines any more, and neither end is told.
    pub(in super::super) fn forget_connections(&mut self, now: u64, a: u32, b: u32) -> usize {
        let mut forgotten = 0;
        for (_, connection) in self.between(a, b) {
            forgotten += usize::from(!std::mem::replace(&mut connection.forgotten, true));
            for pipe in &mut connection.pipes {
                pipe.held = true;
                pipe.hold(now, true);
            }
            for side in 0..2 {
                if connection.sides[side].reset_at.is_some_and(|at| at > now) {
                    connection.sides[side].reset_at = None;
                }
            }
        }
        self.counters.half_open += forgotten as u64;
        self.event(now, a, "net forget", "", [u64::from(b), forgotten as u64]);
        forgotten
    }

    /// What one machine sends to the other on the connections that there are stands still from now on. Returns them.
    pub(in super::super) fn detain(&mut self, now: u64, from: u32, to: u32) -> Vec<u64> {
        let mut detained = Vec::new();
        for (id, connection) in self.between(from, to) {
            let side = usize::from(connection.sides[0].node != from);
            if !connection.pipes[side].held && !connection.is_gone(side) {
                connection.pipes[side].held = true;
                connection.pipes[side].hold(now, false);
                detained.push(*id);
            }
        }
        self.event(now, from, "net detain", "", [u64::from(to), detained.len() as u64]);
        detained
    }

    /// The sender of a connection that was detained is told that it is broken; what it has sent stays under way.
    pub(in super::super) fn strand(&mut self, now: u64, from: u32, ids: &[u64]) {
        for id in ids {
            let Some(connection) = self.connections.get_mut(id).filter(|found| !found.forgotten) else { continue };
            let [a, b] = [connection.sides[0].node, connection.sides[1].node];
            let side = usize::from(a != from);
            if connection.is_gone(side) || connection.is_gone(1 - side) {
                continue;
            }
            let rng = &mut self.links.get(a, b).rng;
            connection.break_at(side, now, rng);
            connection.pipes[side].end = Some((HELD, End::Reset));
            self.counters.stranded += 1;
            self.event(now, from, "net strand", "", [*id, 0]);
        }
    }

    /// What was detained goes on, and arrives after whatever newer connections carried meanwhile.
    pub(in super::super) fn let_go(&mut self, now: u64, from: u32, ids: &[u64]) {
        for id in ids {
            let Some(connection) = self.connections.get_mut(id).filter(|found| !found.forgotten) else { continue };
            let side = usize::from(connection.sides[0].node != from);
            let to = connection.sides[1 - side].node;
            let pipe = &mut connection.pipes[side];
            pipe.held = false;
            let (bytes, link) = (pipe.in_flight as u64, self.links.get(from, to));
            pipe.release(now, link);
            if let Some((due, End::Reset)) = pipe.end.filter(|(due, _)| *due != HELD) {
                connection.sides[1 - side].reset_at = Some(due);
                self.counters.late_bytes += bytes;
            }
            self.event(now, from, "net late", "", [*id, bytes]);
        }
        // To an end that has gone meanwhile, they are bytes for nobody.
        self.changed();
    }

    /// Sets whether new connections between two machines hang.
    pub(in super::super) fn refuse(&mut self, now: u64, from: u32, to: u32, refuses: bool) {
        self.links.get(from, to).refuses = refuses;
        self.event(now, from, "net refuse", "", [u64::from(to), u64::from(refuses)]);
        if !refuses {
            self.changed();
        }
    }

    /// Sets whether a link is blocked or clogged, and holds or releases what is under way.
    pub(in super::super) fn set_link(&mut self, now: u64, from: u32, to: u32, blocked: bool, clogged: bool) {
        let link = self.links.get(from, to);
        if (link.blocked, link.clogged) == (blocked, clogged) {
            return;
        }
        let was_open = link.is_open();
        (link.blocked, link.clogged) = (blocked, clogged);
        for connection in self.connections.values_mut() {
            for side in 0..2 {
                if (connection.sides[side].node, connection.sides[1 - side].node) != (from, to) {
                    continue;
                }
                if !link.is_open() {
                    if connection.pipes[side].held {
                        continue;
                    }
                    let held = connection.pipes[side].hold(now, blocked) as u64;
                    self.counters.bytes_delayed += if was_open { held } else { 0 };
                    if blocked && connection.sides[1 - side].reset_at.is_some_and(|at| at > now) {
                        connection.sides[1 - side].reset_at = None;
                    }
                } else {
                    connection.pipes[side].release(now, link);
                    if let Some((due, End::Reset)) = connection.pipes[side].end.filter(|(due, _)| *due != HELD) {
                        connection.sides[1 - side].reset_at = Some(due);
                    }
                }
            }
        }
        self.event(now, from, "net link", "", [u64::from(to), u64::from(blocked) | u64::from(clogged) << 1]);
        if !was_open {
            self.changed();
        }
    }
}
