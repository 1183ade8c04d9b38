//! The binding of the three seams to madsim, and the machines that a run consists of.

mod channels;
mod clock;
mod disk;
mod net;
mod runtime;

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use madsim::runtime::{Handle, NodeHandle};
use madsim::task::JoinHandle;

use crate::{Event, Trace};

pub use channels::{SimMpsc, SimMpscReceiver, SimMpscSender, SimMpscWeakSender, SimMutex, SimMutexGuard};
pub use channels::{SimOneshot, SimOneshotSender};
pub use clock::{DRIFT_PPM_MAX, SimInstant, Sleep, global_now};
pub use disk::{Act, CRASH_POINTS, CrashPoint, DiskCounters, DiskProfile, Drive, Failure, FileClass, Garble, Harm};
pub use disk::{SimDisk, SimFile, SimLock, SimWake, Trap, TrapKind};
pub use net::{Detained, LinkProfile, NetCounters, Network, SimListener, SimNet, SimReadHalf, SimWriteHalf};
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
    /// Who is told of everything.
    pub trace: Trace,
}

/// Machines and the network between them. Lives inside a [`run`].
#[derive(Clone, Debug)]
pub struct World {
    config: WorldConfig,
    network: Network,
    machines: Arc<Mutex<u32>>,
}

impl World {
    /// A world without machines.
    pub fn new(config: WorldConfig) -> Self {
        let network = Network::new(config.seed, config.trace.clone());
        network.set_profile(&config.link);
        Self { config, network, machines: Arc::default() }
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
        let trace = self.config.trace.clone();
        let drive = Drive::new(node, self.config.seed, self.config.disk.clone(), trace.clone());
        let process = Mutex::new(Process { handle, running: false });
        Machine(Arc::new(Inner { node, drive, network: self.network.clone(), trace, process }))
    }

    /// The network, to break and to heal.
    pub fn network(&self) -> &Network {
        &self.network
    }

    /// The witness of the run.
    pub fn trace(&self) -> &Trace {
        &self.config.trace
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
    trace: Trace,
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
        self.event("process boot");
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
            self.event("process kill");
            self.0.network.kill(self.0.node);
            self.0.drive.kill();
            self.end();
        }
    }

    /// Takes the power: unsynced writes are lost in part, peers are told nothing.
    pub fn power_loss(&self) {
        self.event("process unpowered");
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
            self.event("process pause");
            Handle::current().pause(process.handle.id());
        }
    }

    /// Undoes [`Machine::pause`].
    pub fn resume(&self) {
        let process = self.process();
        if process.running {
            self.event("process resume");
            Handle::current().resume(process.handle.id());
        }
    }

    fn event(&self, kind: &'static str) {
        let (at, node) = (global_now(), self.0.node);
        self.0.trace.event(Event { at, node, kind, subject: "", numbers: [0, 0], payload: &[] });
    }

    /// From now on its clock runs fast by so many parts in a million, at most [`DRIFT_PPM_MAX`]; slow if negative.
    /// Processes come and go under the same clock. It is exact before the first call to this or
    /// [`Machine::step_clock`], and who sleeps until then is not woken by it: call one before the first boot.
    pub fn set_clock_drift(&self, ppm: i64) {
        clock::change_clock(self.process().handle.id(), Some(ppm), Duration::ZERO);
    }

    /// Its clock jumps forward. What was to happen meanwhile happens at once.
    pub fn step_clock(&self, step: Duration) {
        clock::change_clock(self.process().handle.id(), None, step);
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
