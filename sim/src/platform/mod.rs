//! The binding of the three seams to madsim, and the machines that a run consists of.

mod channels;
mod clock;
mod disk;
mod net;
mod runtime;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::JoinHandle;

use crate::Trace;

pub use channels::{SimMpsc, SimMpscReceiver, SimMpscSender, SimMpscWeakSender, SimMutex, SimMutexGuard};
pub use channels::{SimOneshot, SimOneshotSender, SimWatch, SimWatchReceiver, SimWatchSender};
pub use clock::{SimInstant, Sleep, global_now};
pub use disk::{Act, CRASH_POINTS, CrashPoint, DiskCounters, DiskProfile, Drive, Failure, FileClass, Garble, Harm};
pub use disk::{SimDisk, SimFile, SimLock, SimWake, Trap, TrapKind};
pub use net::{LinkProfile, NetCounters, Network, SimListener, SimNet, SimReadHalf, SimWriteHalf};
pub use runtime::{Elapsed, SimRng, SimRuntime, Timeout, run};

/// What a process runs on, from its boot to its kill.
#[derive(Clone, Debug)]
pub struct SimPlatform {
    disk: SimDisk,
    net: SimNet,
}

impl quorate_io::Platform for SimPlatform {
    type Runtime = SimRuntime;
    type Disk = SimDisk;
    type Net = SimNet;

    fn disk(&self) -> &SimDisk {
        &self.disk
    }

    fn net(&self) -> &SimNet {
        &self.net
    }
}

/// What a [`World`] is made of.
#[derive(Clone, Debug, Default)]
pub struct WorldConfig {
    /// The seed of all disks and links. [`run`] takes the one of everything else.
    pub seed: u64,
    /// Every new machine's disk.
    pub disk: DiskProfile,
    /// Every link.
    pub link: LinkProfile,
    /// How many of the last events to keep as text; see [`Trace::new`].
    pub trace_keep: usize,
}

/// Machines and the network between them. Lives inside a [`run`].
#[derive(Clone, Debug)]
pub struct World {
    config: WorldConfig,
    trace: Trace,
    network: Network,
    machines: Arc<Mutex<u32>>,
}

impl World {
    /// A world without machines.
    pub fn new(config: WorldConfig) -> Self {
        let trace = Trace::new(config.trace_keep);
        let network = Network::new(config.seed, trace.clone());
        network.set_profile(&config.link);
        Self { config, trace, network, machines: Arc::default() }
    }

    /// Adds a machine, with an empty disk and no process. Machines are numbered from 1; `host` is its name on the
    /// network.
    ///
    /// # Panics
    /// Outside a [`run`].
    pub fn machine(&self, host: &str) -> Machine {
        let node = {
            let mut machines = self.machines.lock().unwrap_or_else(PoisonError::into_inner);
            *machines += 1;
            *machines
        };
        self.network.map(host, node);
        let handle = Handle::current().create_node().name(host).build();
        let drive = Drive::new(node, self.config.seed, self.config.disk.clone(), self.trace.clone());
        let process = Mutex::new(Process { handle, running: false });
        Machine(Arc::new(Inner { node, drive, network: self.network.clone(), process }))
    }

    /// The network, to break and to heal.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The witness of the run.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }
}

/// A machine: a disk, a place on the network, and at most one process. Clones share it.
///
/// Killing takes effect at once for disk and network; the destructors of the process's tasks run a moment later and
/// can do nothing any more. At the end of a run kill every machine and let some time pass: tasks that wait for each
/// other hold each other, and would be kept until the program ends.
#[derive(Clone)]
pub struct Machine(Arc<Inner>);

struct Inner {
    node: u32,
    drive: Drive,
    network: Network,
    process: Mutex<Process>,
}

struct Process {
    handle: NodeHandle,
    running: bool,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Machine(n{})", self.0.node)
    }
}

impl Machine {
    /// Its number, from 1.
    pub fn node(&self) -> u32 {
        self.0.node
    }

    /// Its disk.
    pub fn drive(&self) -> &Drive {
        &self.0.drive
    }

    /// Whether it has a process, paused or not.
    pub fn is_running(&self) -> bool {
        self.process().running
    }

    /// Starts a process, after killing the one that runs, and returns its main task; `main` is called inside it. The
    /// process does not end with that task.
    ///
    /// # Panics
    /// Outside a [`run`].
    pub fn boot<F>(&self, main: impl FnOnce(SimPlatform) -> F + Send + 'static) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.kill();
        let platform = SimPlatform { disk: self.0.drive.boot(), net: self.0.network.boot(self.0.node) };
        let mut process = self.process();
        let id = process.handle.id();
        // The old handle spawns onto the killed process for ever.
        Handle::current().restart(id);
        process.handle = Handle::current().get_node(id).expect("the machine created it");
        process.running = true;
        process.handle.spawn(async move { main(platform).await })
    }

    /// Starts another task in the process that runs; none without a process. What workloads on a machine use.
    pub fn spawn<F>(&self, task: F) -> Option<JoinHandle<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let process = self.process();
        process.running.then(|| process.handle.spawn(task))
    }

    /// Kills the process, if there is one: the disk keeps its cache, peers are reset.
    pub fn kill(&self) {
        if self.is_running() {
            self.0.network.kill(self.0.node);
            self.0.drive.kill();
            self.end();
        }
    }

    /// Takes the power: unsynced writes are lost in part, peers are told nothing.
    pub fn power_loss(&self) {
        self.0.network.power_off(self.0.node);
        self.0.drive.power_loss();
        self.end();
    }

    /// Kills the process and empties the disk.
    pub fn wipe(&self) {
        self.kill();
        self.0.drive.wipe();
    }

    /// Stops the process where it is; its peers see a machine that answers nothing.
    pub fn pause(&self) {
        let process = self.process();
        if process.running {
            Handle::current().pause(process.handle.id());
        }
    }

    /// Undoes [`Machine::pause`].
    pub fn resume(&self) {
        let process = self.process();
        if process.running {
            Handle::current().resume(process.handle.id());
        }
    }

    /// Drops the tasks; disk and network no longer listen to them.
    fn end(&self) {
        let id = {
            let mut process = self.process();
            process.running = false;
            process.handle.id()
        };
        Handle::current().kill(id);
    }

    fn process(&self) -> std::sync::MutexGuard<'_, Process> {
        self.0.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
