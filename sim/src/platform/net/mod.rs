//! The Net seam: byte streams over links that have latency, and are broken in every way that TCP is.
//!
//! ```text
//!   machine a                     link a → b                        machine b
//!   WriteHalf ──▶ packets with a time of arrival, in order ──▶ ReadHalf
//!                 at most a window of bytes; held while the link is closed
//! ```
//!
//! No task carries bytes: a packet is stamped when it is sent, and the reader sleeps until the first is due. Packets
//! of one connection arrive in order; those of two connections do not wait for each other, so late bytes of an old
//! connection can arrive after a new one is up.
//!
//! | a link that is | bytes and ends of streams | resets | connecting |
//! |---|---|---|---|
//! | open | arrive | arrive | takes a round trip; refused if nobody listens |
//! | blocked, one way | arrive after it opens | are lost: the connection stays half open until one sends into it | hangs |
//! | clogged, one way | arrive after it opens | arrive after it opens | hangs |
//! | refusing | arrive | arrive | hangs |
//!
//! Connections that were up can be [forgotten](Network::forget_connections), as a firewall does: both ends are half open,
//! and new ones work. Or what they carry one way is [detained](Network::detain) and arrives after newer connections
//! are up.

mod state;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use quorate_io::net::{Listener, Net, ReadHalf, WriteHalf};

use self::state::State;
use super::clock::{Alarm, Sleep, global_now};
use crate::Trace;

/// What one direction between two machines is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkProfile {
    /// What a packet takes at least, nanoseconds.
    pub latency_ns: u64,
    /// What it takes at most beyond that, nanoseconds; mostly little.
    pub jitter_ns: u64,
    /// How many of 1000 packets take longer still.
    pub spike_per_mille: u32,
    /// By how much at most, nanoseconds.
    pub spike_ns_max: u64,
    /// Bytes that a connection carries in a second; not 0.
    pub bytes_per_sec: u64,
    /// Bytes that may be sent and not read; the write that exceeds it is still taken.
    pub window_bytes: usize,
    /// How many of 1000 reads return less than has arrived.
    pub short_read_per_mille: u32,
    /// How long after a link opens it takes at most until the first packet is sent again, nanoseconds.
    pub retransmit_ns_max: u64,
}

impl Default for LinkProfile {
    /// A good local network: 100 µs and mostly little more, one packet in 500 up to 5 ms late, 1 Gbit/s.
    fn default() -> Self {
        Self {
            latency_ns: 100_000,
            jitter_ns: 400_000,
            spike_per_mille: 2,
            spike_ns_max: 5_000_000,
            bytes_per_sec: 125_000_000,
            window_bytes: 256 << 10,
            short_read_per_mille: 100,
            retransmit_ns_max: 200_000_000,
        }
    }
}

/// What happened on the network. A fault that hit nothing counts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetCounters {
    /// Connections that were established.
    pub connects: u64,
    /// Connects that were refused because nobody listened.
    pub refused: u64,
    /// Connects that a closed link or a dead machine kept waiting.
    pub connects_hung: u64,
    /// Bytes that were read.
    pub bytes_delivered: u64,
    /// Bytes that a closed link held back.
    pub bytes_delayed: u64,
    /// Connections broken by a kill or an injected reset.
    pub resets: u64,
    /// Those that delivered a part of a written piece before they broke.
    pub resets_mid_write: u64,
    /// Connections whose one end died without the other being told.
    pub half_open: u64,
    /// Connections whose sender was told that they are broken, while what it had sent was still under way.
    pub stranded: u64,
    /// Bytes of those that arrived later.
    pub late_bytes: u64,
}

/// The network between all machines. The harness breaks and heals it. Clones share it.
#[derive(Clone)]
pub struct Network(Arc<Mutex<State>>);

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Network({} connections)", self.lock().connections())
    }
}

impl Network {
    /// A network without hosts. Each link's random stream is that of (`seed`, from, to).
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(State::new(seed, trace))))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a host name mean a machine, from the next connect on.
    pub fn map(&self, host: &str, node: u32) {
        self.lock().hosts.insert(host.to_owned(), node);
    }

    /// A host name means nobody any more, from the next connect on.
    pub fn unmap(&self, host: &str) {
        self.lock().hosts.remove(host);
    }

    /// A handle for a process that starts now on a machine, which is on from now. Ends the process before it, if it
    /// still runs.
    pub fn boot(&self, node: u32) -> SimNet {
        let now = global_now();
        let mut state = self.lock();
        state.kill(now, node);
        let machine = state.nodes.entry(node).or_default();
        machine.off = false;
        let generation = machine.generation;
        state.changed();
        SimNet { network: self.clone(), node, generation }
    }

    /// The machine's process is killed: its listeners are gone, its connections reset, its handles dead.
    pub fn kill(&self, node: u32) {
        self.lock().kill(global_now(), node);
    }

    /// The machine is off: its process is gone and nobody is told. Connects to it hang until [`Network::boot`].
    pub fn power_off(&self, node: u32) {
        let mut state = self.lock();
        state.nodes.entry(node).or_default().off = true;
        state.kill(global_now(), node);
    }

    /// Nothing gets from one machine to the other, resets least of all. One way only.
    pub fn block(&self, from: u32, to: u32) {
        self.set_link(from, to, |(_, clogged)| (true, clogged));
    }

    /// Undoes [`Network::block`].
    pub fn unblock(&self, from: u32, to: u32) {
        self.set_link(from, to, |(_, clogged)| (false, clogged));
    }

    /// Everything from one machine to the other waits, and nothing is lost. One way only.
    pub fn clog(&self, from: u32, to: u32) {
        self.set_link(from, to, |(blocked, _)| (blocked, true));
    }

    /// Undoes [`Network::clog`].
    pub fn unclog(&self, from: u32, to: u32) {
        self.set_link(from, to, |(blocked, _)| (blocked, false));
    }

    /// Opens all links.
    pub fn heal_all(&self) {
        let closed = self.lock().links.closed();
        for (from, to) in closed {
            self.set_link(from, to, |_| (false, false));
            self.connect_again(from, to);
        }
    }

    /// New connections from one machine to the other hang, and those that there are work.
    pub fn refuse(&self, from: u32, to: u32) {
        self.lock().refuse(global_now(), from, to, true);
    }

    /// Undoes [`Network::refuse`].
    pub fn connect_again(&self, from: u32, to: u32) {
        self.lock().refuse(global_now(), from, to, false);
    }

    /// Nothing gets through the connections that there are between two machines any more, for ever, and neither end is
    /// told: a firewall has forgotten them. New ones work. Returns how many there were.
    pub fn forget_connections(&self, a: u32, b: u32) -> usize {
        self.lock().forget_connections(global_now(), a, b)
    }

    /// What one machine sends to the other on the connections that there are stands still, until
    /// [`Network::let_go`].
    pub fn detain(&self, from: u32, to: u32) -> Detained {
        Detained { from, ids: self.lock().detain(global_now(), from, to) }
    }

    /// The sender of detained connections is told that they are broken, and may make new ones.
    pub fn strand(&self, detained: &Detained) {
        self.lock().strand(global_now(), detained.from, &detained.ids);
    }

    /// What was detained arrives.
    pub fn let_go(&self, detained: &Detained) {
        self.lock().let_go(global_now(), detained.from, &detained.ids);
    }

    fn set_link(&self, from: u32, to: u32, change: impl FnOnce((bool, bool)) -> (bool, bool)) {
        let mut state = self.lock();
        let link = state.links.get(from, to);
        let (blocked, clogged) = change((link.blocked, link.clogged));
        state.set_link(global_now(), from, to, blocked, clogged);
    }

    /// Sets what one direction is like, from the next packet on.
    pub fn set_link_profile(&self, from: u32, to: u32, profile: LinkProfile) {
        self.lock().links.get(from, to).profile = profile;
    }

    /// Sets what all links are like, those that will be included.
    pub fn set_profile(&self, profile: &LinkProfile) {
        self.lock().links.set_all(profile);
    }

    /// Breaks all connections between two machines, each after an arbitrary prefix of the bytes under way, whatever
    /// the state of the links. Returns how many there were.
    pub fn reset(&self, a: u32, b: u32) -> usize {
        self.lock().reset(global_now(), a, b)
    }

    /// What happened so far.
    pub fn counters(&self) -> NetCounters {
        self.lock().counters.clone()
    }

    /// How many connections have an end that somebody holds.
    pub fn connections(&self) -> usize {
        self.lock().connections()
    }
}

/// Connections whose bytes stand still one way.
#[derive(Clone, Debug)]
pub struct Detained {
    from: u32,
    ids: Vec<u64>,
}

/// One process's handle to the [`Network`]. After a kill it returns errors, whoever still holds it.
#[derive(Clone)]
pub struct SimNet {
    network: Network,
    node: u32,
    generation: u64,
}

impl fmt::Debug for SimNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SimNet(n{}, boot {})", self.node, self.generation)
    }
}

impl SimNet {
    fn live(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.network.lock();
        if state.nodes.get(&self.node).is_none_or(|node| node.generation != self.generation) {
            return Err(io::Error::other("the process that uses this network was killed"));
        }
        Ok(state)
    }

    /// Waits until packets get through, and returns how long one takes.
    async fn travel(&self, from: u32, to: u32, hung: &mut bool) -> io::Result<u64> {
        let mut alarm: Option<Arc<Alarm>> = None;
        poll_fn(|cx| {
            let mut state = self.live()?;
            if state.may_connect(from, to) {
                return Poll::Ready(Ok(state.links.get(from, to).delay()));
            }
            state.counters.connects_hung += u64::from(!std::mem::replace(hung, true));
            let alarm = alarm.get_or_insert_default();
            alarm.set(cx.waker());
            state.await_change(alarm);
            Poll::Pending
        })
        .await
    }

    /// Sends a packet that is repeated until it arrives, and waits until it has.
    async fn send(&self, from: u32, to: u32, hung: &mut bool) -> io::Result<()> {
        loop {
            let delay = self.travel(from, to, hung).await?;
            Sleep::until_global(global_now() + delay).await;
            if self.live()?.may_connect(from, to) {
                return Ok(());
            }
        }
    }

    fn halves(&self, id: u64, side: usize) -> (SimReadHalf, SimWriteHalf) {
        let half = |_| Half { network: self.network.clone(), id, side };
        (SimReadHalf(half(0)), SimWriteHalf(half(1)))
    }
}

impl Net for SimNet {
    type Read = SimReadHalf;
    type Write = SimWriteHalf;
    type Listener = SimListener;

    async fn connect(&self, addr: &str) -> io::Result<(SimReadHalf, SimWriteHalf)> {
        let (peer, port) = self.live()?.resolve(addr)?;
        let mut hung = false;
        self.send(self.node, peer, &mut hung).await?;
        let accepted = self.live()?.accepted(global_now(), self.node, peer, port);
        // Made before the answer arrives, so that giving up meanwhile closes the connection.
        let halves = accepted.map(|id| self.halves(id, 0));
        self.send(peer, self.node, &mut hung).await?;
        halves.ok_or_else(|| {
            self.network.lock().counters.refused += 1;
            io::ErrorKind::ConnectionRefused.into()
        })
    }

    async fn listen(&self, addr: &str) -> io::Result<SimListener> {
        let mut state = self.live()?;
        let (host, port) = addr.rsplit_once(':').ok_or(io::ErrorKind::InvalidInput)?;
        let mut port: u16 = port.parse().map_err(|_| io::ErrorKind::InvalidInput)?;
        if !["0.0.0.0", "[::]"].contains(&host) && state.hosts.get(host) != Some(&self.node) {
            return Err(io::ErrorKind::AddrNotAvailable.into());
        }
        let machine = state.nodes.entry(self.node).or_default();
        if port == 0 {
            // Never the same twice while there are others, as an operating system does.
            let free = |port: &u16| !machine.listeners.contains_key(port);
            let after = machine.last_port.max(49_151).saturating_add(1);
            port = (after..=u16::MAX).chain(49_152..=u16::MAX).find(free).ok_or(io::ErrorKind::AddrInUse)?;
            machine.last_port = port;
        }
        if machine.listeners.contains_key(&port) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        machine.listeners.insert(port, state::Listening::default());
        drop(state);
        Ok(SimListener { net: self.clone(), addr: format!("{host}:{port}"), port })
    }
}

/// Accepts streams on a [`SimNet`].
#[derive(Debug)]
pub struct SimListener {
    net: SimNet,
    addr: String,
    port: u16,
}

impl Listener for SimListener {
    type Read = SimReadHalf;
    type Write = SimWriteHalf;

    async fn accept(&mut self) -> io::Result<(SimReadHalf, SimWriteHalf, String)> {
        let accepted = poll_fn(|cx| self.net.live()?.poll_accept(self.net.node, self.port, cx));
        let (id, peer) = accepted.await?;
        let (read, write) = self.net.halves(id, 1);
        Ok((read, write, format!("n{peer}:{id}")))
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.addr.clone())
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        if let Ok(mut state) = self.net.live() {
            state.unlisten(global_now(), self.net.node, self.port);
        }
    }
}

/// One side of a connection.
struct Half {
    network: Network,
    id: u64,
    side: usize,
}

impl fmt::Debug for Half {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "connection {} side {}", self.id, self.side)
    }
}

/// See [`ReadHalf`].
#[derive(Debug)]
pub struct SimReadHalf(Half);

/// See [`WriteHalf`].
#[derive(Debug)]
pub struct SimWriteHalf(Half);

impl ReadHalf for SimReadHalf {
    async fn read(&mut self, buf: &mut BytesMut) -> io::Result<usize> {
        let Half { network, id, side } = &self.0;
        poll_fn(|cx| network.lock().poll_read(global_now(), (*id, *side), buf, cx)).await
    }
}

impl WriteHalf for SimWriteHalf {
    async fn write(&mut self, data: Vec<Bytes>) -> io::Result<()> {
        let Half { network, id, side } = &self.0;
        let mut data = data;
        poll_fn(|cx| network.lock().poll_write(global_now(), (*id, *side), &mut data, cx)).await
    }
}

impl Drop for SimReadHalf {
    fn drop(&mut self) {
        self.0.network.lock().close_read(global_now(), self.0.id, self.0.side);
    }
}

impl Drop for SimWriteHalf {
    fn drop(&mut self) {
        self.0.network.lock().close_write(global_now(), self.0.id, self.0.side);
    }
}
