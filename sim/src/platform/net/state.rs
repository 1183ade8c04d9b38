//! The state of the network: links, connections, and the bytes between their ends.

mod faults;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};

use super::super::clock::{Alarm, global_now};
use super::{LinkProfile, NetCounters};
use crate::{Event, SplitMix, Trace};

/// The due time of what a blocked or clogged link holds back.
const HELD: u64 = u64::MAX;
/// A read takes no more than this at once.
const READ_BYTES_MAX: usize = 256 << 10;

/// One direction between two machines.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) profile: LinkProfile,
    pub(super) blocked: bool,
    pub(super) clogged: bool,
    /// Nobody gets a new connection; those that are there work.
    pub(super) refuses: bool,
    rng: SplitMix,
}

impl Link {
    pub(super) fn is_open(&self) -> bool {
        !self.blocked && !self.clogged
    }

    /// How long a packet is under way.
    pub(super) fn delay(&mut self) -> u64 {
        let profile = &self.profile;
        let spike = self.rng.chance(profile.spike_per_mille).then(|| self.rng.below(profile.spike_ns_max));
        profile.latency_ns + self.rng.skewed(0, profile.jitter_ns) + spike.unwrap_or(0)
    }
}

#[derive(Debug)]
pub(super) struct Links {
    seed: u64,
    pub(super) profile: LinkProfile,
    map: BTreeMap<(u32, u32), Link>,
}

impl Links {
    pub(super) fn get(&mut self, from: u32, to: u32) -> &mut Link {
        self.map.entry((from, to)).or_insert_with(|| Link {
            profile: self.profile.clone(),
            blocked: false,
            clogged: false,
            refuses: false,
            rng: SplitMix::labelled(self.seed, &format!("link {from} {to}")),
        })
    }

    pub(super) fn closed(&self) -> Vec<(u32, u32)> {
        self.map.iter().filter(|(_, link)| !link.is_open() || link.refuses).map(|(ends, _)| *ends).collect()
    }

    pub(super) fn set_all(&mut self, profile: &LinkProfile) {
        self.profile = profile.clone();
        for link in self.map.values_mut() {
            link.profile = profile.clone();
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Node {
    pub(super) generation: u64,
    pub(super) off: bool,
    pub(super) listeners: BTreeMap<u16, Listening>,
    pub(super) last_port: u16,
}

#[derive(Debug, Default)]
pub(super) struct Listening {
    backlog: VecDeque<u64>,
    acceptor: Arc<Alarm>,
}

/// What ends a stream after its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Eof,
    Reset,
}

/// One direction of a connection.
#[derive(Debug, Default)]
struct Pipe {
    label: String,
    packets: VecDeque<(u64, Bytes)>,
    /// Bytes in `packets`.
    in_flight: usize,
    last_due: u64,
    end: Option<(u64, End)>,
    /// Whatever the link does, nothing of this connection gets through this way, resets least of all.
    held: bool,
    reader: Arc<Alarm>,
    writer: Arc<Alarm>,
}

impl Pipe {
    /// Ends the stream at `due` with a reset, after an arbitrary prefix of the bytes under way. True if that cuts a
    /// packet in two.
    fn cut(&mut self, due: u64, rng: &mut SplitMix) -> bool {
        let alive: usize = self.packets.iter().filter(|(due, _)| *due != HELD).map(|(_, data)| data.len()).sum();
        let mut keep = rng.below(alive as u64 + 1) as usize;
        let mut mid_packet = false;
        self.packets.retain_mut(|(at, data)| {
            mid_packet |= keep > 0 && keep < data.len();
            data.truncate(keep);
            keep -= data.len();
            *at = due.min(*at);
            !data.is_empty()
        });
        self.in_flight = self.packets.iter().map(|(_, data)| data.len()).sum();
        self.end = Some((due, End::Reset));
        self.reader.arm(due);
        mid_packet
    }

    /// The link closes: what has not arrived does not. Returns how many bytes that is.
    fn hold(&mut self, now: u64, blocked: bool) -> usize {
        let mut held = 0;
        for (due, data) in self.packets.iter_mut().filter(|(due, _)| *due > now) {
            *due = HELD;
            held += data.len();
        }
        match &mut self.end {
            // Nobody sends a reset twice.
            Some((due, End::Reset)) if *due > now && blocked => self.end = None,
            Some((due, _)) if *due > now => *due = HELD,
            _ => {}
        }
        held
    }

    fn release(&mut self, now: u64, link: &mut Link) {
        if self.held || !link.is_open() {
            return;
        }
        let first = now + link.delay() + link.rng.below(link.profile.retransmit_ns_max + 1);
        let mut last = self.last_due.max(first);
        for (due, data) in self.packets.iter_mut().filter(|(due, _)| *due == HELD) {
            last += data.len() as u64 * 1_000_000_000 / link.profile.bytes_per_sec;
            *due = last;
        }
        if let Some((due, _)) = self.end.as_mut().filter(|(due, _)| *due == HELD) {
            *due = last;
        }
        self.last_due = last;
        self.reader.arm(first);
    }
}

#[derive(Debug)]
struct Side {
    node: u32,
    reading: bool,
    writing: bool,
    /// From then on writing fails.
    reset_at: Option<u64>,
}

#[derive(Debug)]
struct Connection {
    sides: [Side; 2],
    /// `pipes[i]` is from `sides[i]` to the other.
    pipes: [Pipe; 2],
    /// Something on the way has forgotten it: nothing gets through any more.
    forgotten: bool,
}

impl Connection {
    fn is_gone(&self, side: usize) -> bool {
        !self.sides[side].reading && !self.sides[side].writing
    }

    /// Makes `side` learn at `due` that the connection is broken.
    fn break_at(&mut self, side: usize, due: u64, rng: &mut SplitMix) -> bool {
        self.sides[side].reset_at = Some(due);
        self.pipes[side].writer.arm(due);
        self.pipes[1 - side].cut(due, rng)
    }
}

fn reset_error() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) links: Links,
    pub(super) nodes: BTreeMap<u32, Node>,
    pub(super) hosts: BTreeMap<String, u32>,
    pub(super) counters: NetCounters,
    trace: Trace,
    connections: BTreeMap<u64, Connection>,
    last_connection: u64,
    /// Rung when a link opens or a machine goes on.
    connecting: Vec<Arc<Alarm>>,
}

impl State {
    pub(super) fn new(seed: u64, trace: Trace) -> Self {
        Self {
            links: Links { seed, profile: LinkProfile::default(), map: BTreeMap::new() },
            nodes: BTreeMap::new(),
            hosts: BTreeMap::new(),
            counters: NetCounters::default(),
            trace,
            connections: BTreeMap::new(),
            last_connection: 0,
            connecting: Vec::new(),
        }
    }

    pub(super) fn event(&self, at: u64, node: u32, kind: &'static str, subject: &str, numbers: [u64; 2]) {
        self.trace.event(Event { at, node, kind, subject, numbers, payload: &[] });
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    // Making connections

    pub(super) fn resolve(&self, addr: &str) -> io::Result<(u32, u16)> {
        let (host, port) = addr.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        let port = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        let node = self.hosts.get(host).ok_or_else(|| io::Error::other(format!("no such host: {host}")))?;
        Ok((*node, port))
    }

    /// Whether packets get through from one machine to the other.
    pub(super) fn is_open(&mut self, from: u32, to: u32) -> bool {
        let off = |node: u32| self.nodes.get(&node).is_some_and(|node| node.off);
        !off(from) && !off(to) && self.links.get(from, to).is_open()
    }

    /// Whether somebody on one machine can get a connection to the other.
    pub(super) fn may_connect(&mut self, from: u32, to: u32) -> bool {
        self.is_open(from, to) && !self.links.get(from, to).refuses
    }

    /// Rings the alarm at the next change for the better.
    pub(super) fn await_change(&mut self, alarm: &Arc<Alarm>) {
        self.connecting.retain(|waiting| Arc::strong_count(waiting) > 1 && !Arc::ptr_eq(waiting, alarm));
        self.connecting.push(alarm.clone());
    }

    pub(super) fn changed(&mut self) {
        for alarm in std::mem::take(&mut self.connecting) {
            alarm.ring();
        }
        let half_open = self.connections.iter().filter(|(_, connection)| {
            (0..2).any(|side| connection.is_gone(1 - side) && connection.pipes[side].in_flight > 0)
        });
        for id in half_open.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.bounce(global_now(), id);
        }
    }

    /// The connection request has arrived; none if nobody listens.
    pub(super) fn accepted(&mut self, now: u64, from: u32, to: u32, port: u16) -> Option<u64> {
        let listening = self.nodes.get_mut(&to)?.listeners.get_mut(&port)?;
        self.last_connection += 1;
        let id = self.last_connection;
        listening.backlog.push_back(id);
        listening.acceptor.ring();
        let side = |node| Side { node, reading: true, writing: true, reset_at: None };
        let pipe = |from, to| Pipe { label: format!("n{from}>n{to}"), ..Pipe::default() };
        let connection =
            Connection { sides: [side(from), side(to)], pipes: [pipe(from, to), pipe(to, from)], forgotten: false };
        self.connections.insert(id, connection);
        self.counters.connects += 1;
        self.event(now, to, "net connect", "", [u64::from(from), id]);
        Some(id)
    }

    pub(super) fn poll_accept(&mut self, node: u32, port: u16, cx: &Context<'_>) -> Poll<io::Result<(u64, u32)>> {
        let Some(listening) = self.nodes.get_mut(&node).and_then(|node| node.listeners.get_mut(&port)) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        while let Some(id) = listening.backlog.pop_front() {
            if let Some(connection) = self.connections.get(&id) {
                return Poll::Ready(Ok((id, connection.sides[0].node)));
            }
        }
        listening.acceptor.set(cx.waker());
        Poll::Pending
    }

    /// Nobody listens any more: connections that were not accepted are reset.
    pub(super) fn unlisten(&mut self, now: u64, node: u32, port: u16) {
        let listening = self.nodes.get_mut(&node).and_then(|node| node.listeners.remove(&port));
        for id in listening.into_iter().flat_map(|listening| listening.backlog) {
            self.abandon(now, id, 1);
        }
    }

    // Streams

    pub(super) fn poll_read(
        &mut self,
        now: u64,
        (id, side): (u64, usize),
        buf: &mut BytesMut,
        cx: &Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.sides[side].reading) else {
            return Poll::Ready(Err(reset_error()));
        };
        let (from, to) = (connection.sides[1 - side].node, connection.sides[side].node);
        let pipe = &mut connection.pipes[1 - side];
        let next = match (pipe.packets.front(), pipe.end) {
            (Some((due, _)), _) if *due <= now => None,
            (None, Some((due, End::Eof))) if due <= now => return Poll::Ready(Ok(0)),
            (None, Some((due, End::Reset))) if due <= now => return Poll::Ready(Err(reset_error())),
            (Some((due, _)), _) => Some(*due),
            (None, end) => Some(end.map_or(HELD, |(due, _)| due)),
        };
        if let Some(next) = next {
            pipe.reader.set(cx.waker());
            pipe.reader.arm(next);
            return Poll::Pending;
        }
        let link = self.links.get(from, to);
        let mut room = READ_BYTES_MAX;
        if link.rng.chance(link.profile.short_read_per_mille) {
            room = 1 + link.rng.below(pipe.in_flight as u64) as usize;
        }
        let start = buf.len();
        while let Some((due, data)) = pipe.packets.front_mut().filter(|_| room > 0) {
            if *due > now {
                break;
            }
            let taken = room.min(data.len());
            buf.extend_from_slice(&data[..taken]);
            data.advance(taken);
            room -= taken;
            if data.is_empty() {
                pipe.packets.pop_front();
            }
        }
        let taken = buf.len() - start;
        pipe.in_flight -= taken;
        if pipe.in_flight < link.profile.window_bytes {
            pipe.writer.ring();
        }
        self.counters.bytes_delivered += taken as u64;
        let numbers = [id, taken as u64];
        let payload = &buf[start..];
        self.trace.event(Event { at: now, node: to, kind: "net deliver", subject: &pipe.label, numbers, payload });
        Poll::Ready(Ok(taken))
    }

    pub(super) fn poll_write(
        &mut self,
        now: u64,
        (id, side): (u64, usize),
        data: &mut Vec<Bytes>,
        cx: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.sides[side].writing) else {
            return Poll::Ready(Err(reset_error()));
        };
        if connection.sides[side].reset_at.is_some_and(|at| at <= now) {
            return Poll::Ready(Err(reset_error()));
        }
        let (from, to) = (connection.sides[side].node, connection.sides[1 - side].node);
        let link = self.links.get(from, to);
        let pipe = &mut connection.pipes[side];
        if pipe.in_flight >= link.profile.window_bytes {
            pipe.writer.set(cx.waker());
            if let Some(at) = connection.sides[side].reset_at {
                pipe.writer.arm(at);
            }
            return Poll::Pending;
        }
        if self.trace.is_recording() {
            let (sent, numbers) = (data.concat(), [id, side as u64]);
            let subject = &pipe.label;
            self.trace.detail(Event { at: now, node: from, kind: "net send", subject, numbers, payload: &sent });
        }
        let was_empty = pipe.packets.is_empty();
        let mut due = pipe.last_due.max(now + link.delay());
        for data in data.drain(..).filter(|data| !data.is_empty()) {
            pipe.in_flight += data.len();
            due += data.len() as u64 * 1_000_000_000 / link.profile.bytes_per_sec;
            if link.is_open() && !pipe.held {
                pipe.packets.push_back((due, data));
            } else {
                self.counters.bytes_delayed += data.len() as u64;
                pipe.packets.push_back((HELD, data));
            }
        }
        pipe.last_due = due;
        if was_empty && let Some((first, _)) = pipe.packets.front() {
            pipe.reader.arm(*first);
        }
        if connection.is_gone(1 - side) {
            self.bounce(now, id);
        }
        Poll::Ready(Ok(()))
    }

    /// Bytes were sent to an end that is gone: a reset comes back, if both ways are open.
    fn bounce(&mut self, now: u64, id: u64) {
        for side in 0..2 {
            let Some(connection) = self.connections.get(&id) else { return };
            let (from, to) = (connection.sides[side].node, connection.sides[1 - side].node);
            let sent = connection.pipes[side].in_flight > 0 && connection.sides[side].reset_at.is_none();
            let held = connection.pipes.iter().any(|pipe| pipe.held);
            if !sent || held || !connection.is_gone(1 - side) || !self.is_open(from, to) || !self.is_open(to, from) {
                continue;
            }
            let due = now + self.links.get(from, to).delay() + self.links.get(to, from).delay();
            self.event(now, from, "net bounce", "", [id, due]);
            let rng = &mut self.links.get(to, from).rng;
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.break_at(side, due, rng);
            }
            return;
        }
    }

    /// The process closed its sending half: the end of the stream follows its bytes.
    pub(super) fn close_write(&mut self, now: u64, id: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| connection.sides[side].writing) else {
            return;
        };
        connection.sides[side].writing = false;
        let link = self.links.get(connection.sides[side].node, connection.sides[1 - side].node);
        let pipe = &mut connection.pipes[side];
        if pipe.end.is_none() && connection.sides[side].reset_at.is_none() {
            let open = link.is_open() && !pipe.held;
            let due = if open { pipe.last_due.max(now + link.delay()) } else { HELD };
            pipe.end = Some((due, End::Eof));
            if pipe.packets.is_empty() {
                pipe.reader.arm(due);
            }
        }
        self.forget(now, id, side);
    }

    pub(super) fn close_read(&mut self, now: u64, id: u64, side: usize) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.sides[side].reading = false;
            self.forget(now, id, side);
        }
    }

    /// Drops a connection that both sides have closed; answers bytes sent to a side that is gone.
    fn forget(&mut self, now: u64, id: u64, side: usize) {
        match self.connections.get(&id).map(|connection| [connection.is_gone(side), connection.is_gone(1 - side)]) {
            Some([true, true]) => _ = self.connections.remove(&id),
            Some([true, false]) => self.bounce(now, id),
            _ => {}
        }
    }

    /// The process at one side died: the other side is reset, unless no packet gets there.
    fn abandon(&mut self, now: u64, id: u64, side: usize) {
        let Some(connection) = self.connections.get_mut(&id).filter(|connection| !connection.is_gone(side)) else {
            return;
        };
        (connection.sides[side].reading, connection.sides[side].writing) = (false, false);
        let (node, peer) = (connection.sides[side].node, connection.sides[1 - side].node);
        // So that tasks that outlive their process for a moment find out, and nothing holds them.
        connection.pipes[side].writer.ring();
        connection.pipes[1 - side].reader.ring();
        if self.nodes.get(&node).is_some_and(|node| node.off) {
            self.counters.half_open += 1;
        } else {
            let link = self.links.get(node, peer);
            if link.blocked || connection.pipes[side].held {
                self.counters.half_open += 1;
            } else {
                let due = if link.clogged { HELD } else { now + link.delay() };
                let mid = connection.break_at(1 - side, due, &mut link.rng);
                self.counters.resets += 1;
                self.counters.resets_mid_write += u64::from(mid);
                self.event(now, peer, "net reset", "", [id, due]);
            }
        }
        self.forget(now, id, side);
    }
}
