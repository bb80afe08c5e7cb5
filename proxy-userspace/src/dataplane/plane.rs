//! The data plane of a running agent: lock, pins, programs, links, probe.
//!
//! The order is the caller's and decides that nothing is ever half: [`DataPlane::open`] takes over or makes the maps,
//! the caller fills them, [`DataPlane::attach`] puts the programs on the hooks of the cgroup, [`DataPlane::probe`]
//! proves it, [`DataPlane::attach_device`] puts programs on devices. Nothing is undone when the value is dropped: the
//! data plane goes on without the agent.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::Duration,
};

use aya_obj::ParseError;
use proxy_common::{Counter, DeviceValue, EndpointValue, PacketSettings, SocketLb, names};
use thiserror::Error;
use tracing::{info, warn};

use super::{
    ApplyError, Capacities, KernelMaps, MapUsage, Masquerade, ProgramInfo, ReadError,
    cgroup::{Cgroup, CgroupError},
    definition::MapDefinition,
    device_values,
    devices::{DeviceError, DeviceHook, DeviceRole, Devices},
    events::EventStream,
    forget::FlowTable,
    guard::{self, GuardError, GuardRepair},
    handles::MapHandles,
    links::{self, HOOKS, LinkAction, LinkError},
    load::{self, Constants, LoadError, Loaded, OBJECT, Variant},
    lock::{self, Lock, LockError},
    masquerade,
    observer::{self, Observer},
    path_pins,
    pins::{Pins, PinsError},
    probe::{self, ProbeError, ProbeReport},
    sys,
};

/// Where the data plane lives and how large it is.
#[derive(Clone, Debug)]
pub struct DataPlaneConfig {
    /// Directory of the pins, on a bpffs; `/sys/fs/bpf/sheave` by default.
    pub pin_dir: PathBuf,
    /// Locked while the agent runs; `/run/sheave/agent.lock` by default.
    pub lock_file: PathBuf,
    /// cgroup2 directory to attach to; `None` for the root that is mounted.
    pub cgroup: Option<PathBuf>,
    /// Sizes of the maps.
    pub capacities: Capacities,
    /// Whose sockets are translated at the socket.
    pub socket_lb: SocketLb,
    /// Settings of the packet path. What follows from the others is filled in: `flows`, `host_by_packet`.
    pub packet: PacketSettings,
    /// How long a packet that a pod sends beyond its limit may be delayed instead of dropped. Only for nodes whose devices
    /// have the queue `fq`, which keeps packets until their time; zero: it is dropped.
    pub pacing: Duration,
    /// How programs get onto devices; `None` for tcx where the kernel has it.
    pub device_hook: Option<DeviceHook>,
    /// Pods are wired by our plugin, which is told to attach their guard below clsact.
    pub own_pods: bool,
    /// Refuse if another agent works on the cgroup or the network namespace, with whatever pins: one would take the other's
    /// programs off pods.
    pub alone: bool,
    /// Run as `PROGRAM probe-client ...` when the agent is outside the attached cgroup; `/proc/self/exe` by default.
    pub probe_program: PathBuf,
}

impl Default for DataPlaneConfig {
    fn default() -> Self {
        Self {
            pin_dir: "/sys/fs/bpf/sheave".into(),
            lock_file: "/run/sheave/agent.lock".into(),
            cgroup: None,
            capacities: Capacities::default(),
            socket_lb: SocketLb::All,
            packet: PacketSettings::DEFAULT,
            pacing: Duration::ZERO,
            device_hook: None,
            own_pods: false,
            alone: false,
            probe_program: "/proc/self/exe".into(),
        }
    }
}

/// Why the data plane could not be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another agent, or the lock.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// No cgroup to attach to.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The pin directory.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The embedded object.
    #[error("the embedded eBPF object is broken")]
    Object(#[from] ParseError),
    /// The kernel refused the programs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A map.
    #[error(transparent)]
    Maps(#[from] ApplyError),
}

/// Why the programs are not all on their hooks.
#[derive(Debug, Error)]
pub enum AttachError {
    /// A hook.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A device.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The programs.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The pins of older maps.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// There is nothing to exchange, and maps that are not filled must not come into use.
    #[error("the programs are not attached yet; see `sheave status`")]
    NotAttached,
}

/// Everything this agent has in the kernel.
pub struct DataPlane {
    pins: Pins,
    definitions: Vec<MapDefinition>,
    constants: Constants,
    probe_program: PathBuf,
    cgroup: Cgroup,
    devices: Devices,
    own_pods: bool,
    inherited: bool,
    quiet: Loaded,
    /// Loaded while somebody watches.
    monitor: Option<Loaded>,
    /// The programs are on their hooks.
    attached: bool,
    handles: MapHandles,
    maps: KernelMaps,
    /// The iterator that lists translated sockets.
    lister: Option<OwnedFd>,
    succeeds_another: bool,
    /// On the lock file, on the pin directory, and with [`DataPlaneConfig::alone`] on the cgroup and the network namespace.
    _locks: Vec<Lock>,
}

impl DataPlane {
    /// Locks, takes over or makes the maps, and loads the programs. Nothing is attached yet, and what an earlier agent
    /// attached goes on. Takes about a second.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing that serves traffic was changed.
    pub fn open(config: &DataPlaneConfig) -> Result<Self, OpenError> {
        let run_lock = Lock::take(&config.lock_file)?;
        load::check_permitted()?;
        let cgroup = Cgroup::open(config.cgroup.as_deref())?;
        let pins = Pins::new(&config.pin_dir);
        pins.prepare()?;
        let mut locks = vec![run_lock, Lock::take_directory(&config.pin_dir)?];
        if config.alone {
            locks.extend(lock::take_node(cgroup.path())?);
        }
        pins.make_folders()?;
        let succeeds_another = pins.any_link()?;
        let constants = Constants::new(config.capacities, config.socket_lb, config.packet, config.pacing);
        let definitions = MapDefinition::all(OBJECT, &constants.capacities)?;
        let inherited = pins.admit(&definitions)?;
        let mut quiet = load::load(&definitions, &pins, &constants, Variant::Quiet)?;
        path_pins::drop_stale(&pins);
        let handles = MapHandles::of_programs(&quiet, &definitions)?;
        let mut maps = KernelMaps::open(&handles, constants.capacities)?;
        // A run that was killed while it probed left records that nobody else would remove.
        probe::remove_records(&mut maps)?;
        let lister = lister(&mut quiet, &handles);
        Ok(Self {
            pins,
            definitions,
            constants,
            probe_program: config.probe_program.clone(),
            cgroup,
            devices: Devices::new(config.device_hook, config.own_pods),
            own_pods: config.own_pods,
            inherited,
            quiet,
            monitor: None,
            attached: false,
            handles,
            maps,
            lister,
            succeeds_another,
            _locks: locks,
        })
    }

    /// The service maps.
    pub fn maps(&mut self) -> &mut KernelMaps {
        &mut self.maps
    }

    /// The same maps with descriptors of their own, to be moved to another thread. Only one of the two may write at a
    /// time; [`DataPlane::probe`] writes, too.
    ///
    /// # Errors
    /// The process is out of descriptors or address space.
    pub fn clone_maps(&self) -> Result<KernelMaps, OpenError> {
        Ok(KernelMaps::open(&self.handles, self.constants.capacities)?)
    }

    /// Whether the service maps are those of an earlier agent; otherwise they are empty.
    pub fn inherited(&self) -> bool {
        self.inherited
    }

    /// Whether programs of an earlier agent were on hooks when this one started: until [`DataPlane::attach`] they serve,
    /// from the same maps or from others.
    pub fn succeeds_another(&self) -> bool {
        self.succeeds_another
    }

    /// Whose sockets are translated.
    pub fn socket_lb(&self) -> SocketLb {
        self.constants.socket_lb
    }

    /// The cgroup directory the programs are for.
    pub fn cgroup(&self) -> &Path {
        self.cgroup.path()
    }

    /// Puts the programs on their hooks, in place where an earlier agent's are, and then removes the pins of maps that
    /// no attached program uses any more. Call it when the maps hold what they should; a second call repairs.
    ///
    /// # Errors
    /// See [`AttachError`]; the hooks before the failed one have the new programs, the others the old.
    pub fn attach(&mut self) -> Result<Vec<(&'static str, LinkAction)>, AttachError> {
        let loaded = self.monitor.as_ref().unwrap_or(&self.quiet);
        let actions = self.put_on_hooks(loaded)?;
        path_pins::keep(loaded, &self.pins, self.own_pods);
        self.attached = true;
        for map in self.pins.remove_other_maps(&self.definitions)? {
            info!(map, "removed a map of an earlier version or capacity");
        }
        Ok(actions)
    }

    fn put_on_hooks(&self, loaded: &Loaded) -> Result<Vec<(&'static str, LinkAction)>, AttachError> {
        let put = |hook: &links::Hook| {
            let program = loaded.program(hook.program)?;
            let action = links::attach(*hook, program, &self.cgroup, &self.pins.link(hook.program))?;
            Ok((hook.program, action))
        };
        HOOKS.iter().map(put).collect()
    }

    /// Proves that sockets in the attached cgroup are translated, which with [`SocketLb::Off`] they are not. Writes to
    /// the maps and cleans up after itself; blocks for some milliseconds, or some seconds if the hooks have no effect.
    ///
    /// # Errors
    /// See [`ProbeError`].
    pub fn probe(&mut self) -> Result<ProbeReport, ProbeError> {
        probe::run(&mut self.maps, &self.cgroup, &self.probe_program)
    }

    /// Exchanges the attached programs for those that send events, or back.
    ///
    /// # Errors
    /// See [`AttachError`]; switching back may be tried again. [`AttachError::NotAttached`] before
    /// [`DataPlane::attach`] has succeeded.
    pub fn set_monitor(&mut self, on: bool) -> Result<(), AttachError> {
        if !self.attached {
            return Err(AttachError::NotAttached);
        }
        if on == self.monitor.is_some() {
            return Ok(());
        }
        if on {
            let monitor = load::load(&self.definitions, &self.pins, &self.constants, Variant::Monitor)?;
            if let Err(error) = self.exchange(&monitor) {
                // Some places may tell already: nobody would silence them later.
                self.exchange(&self.quiet)?;
                return Err(error);
            }
            self.monitor = Some(monitor);
        } else {
            self.exchange(&self.quiet)?;
            self.monitor = None;
        }
        Ok(())
    }

    /// Puts these programs on every hook and device.
    fn exchange(&self, loaded: &Loaded) -> Result<(), AttachError> {
        path_pins::keep(loaded, &self.pins, self.own_pods);
        self.put_on_hooks(loaded)?;
        Ok(self.devices.exchange(loaded, &self.pins)?)
    }

    /// Puts the programs of `role` on both sides of a device of this thread's network namespace: the one for packets
    /// that leave first, in place where an earlier agent's are. A second call repairs, or changes the role. Call it
    /// when the maps hold what they should.
    ///
    /// # Errors
    /// See [`DeviceError`]; one of the two sides may have its program.
    pub fn attach_device(&mut self, index: u32, role: DeviceRole) -> Result<LinkAction, DeviceError> {
        let loaded = self.monitor.as_ref().unwrap_or(&self.quiet);
        self.devices.attach(index, role, loaded, &self.pins)
    }

    /// Takes our programs off one device.
    ///
    /// # Errors
    /// See [`DeviceError`].
    pub fn detach_device(&mut self, index: u32) -> Result<(), DeviceError> {
        self.devices.keep_only(|other| other != index, |_| false, &self.pins).map(drop)
    }

    /// Takes our programs off every device but these, also what an earlier agent left on devices that are gone.
    /// Returns the devices. `others` are all devices that were there besides when it was found out which are wanted: what
    /// the plugin put on later ones stays.
    ///
    /// # Errors
    /// See [`DeviceError`]; some may be left.
    pub fn keep_devices(
        &mut self,
        wanted: &BTreeSet<u32>,
        others: &BTreeSet<u32>,
    ) -> Result<BTreeSet<u32>, DeviceError> {
        let is_wanted = |index| wanted.contains(&index);
        let is_newer = |index| !is_wanted(index) && !others.contains(&index);
        self.devices.keep_only(is_wanted, is_newer, &self.pins)
    }

    /// The devices that have programs of this agent, by the kernel's index.
    pub fn devices(&self) -> &BTreeMap<u32, DeviceRole> {
        self.devices.roles()
    }

    /// Pins the guard's programs for the plugin, and attaches nothing.
    ///
    /// # Errors
    /// See [`GuardError`].
    pub fn pin_guards(&self) -> Result<(), GuardError> {
        guard::pin(&self.quiet, &self.pins)
    }

    /// Where the plugin finds the packet path's programs for pods, as soon as [`DataPlane::attach`] has pinned them.
    pub fn path_pins(&self) -> cni::facts::PathPins {
        path_pins::paths(&self.pins)
    }

    /// What the plugin finds pinned after [`DataPlane::pin_guards`].
    ///
    /// # Errors
    /// See [`GuardError`].
    pub fn guard_pins(&self) -> Result<cni::facts::Pins, GuardError> {
        guard::pins(&self.definitions, &self.pins)
    }

    /// Pins the guard's programs for the plugin, puts them on every pod of this thread's network namespace that has a
    /// record, in place where the plugin or an earlier agent did, and removes what is left of devices that are gone.
    /// Call it at the start, after [`DataPlane::attach`], and now and then.
    ///
    /// # Errors
    /// See [`GuardError`]; what concerns one device only is in the report.
    pub fn repair_guards(&mut self) -> Result<GuardRepair, GuardError> {
        guard::repair(&self.quiet, &self.handles, &self.pins)
    }

    /// Gives a device the record that [`DataPlane::repair_guards`] missed, from what the plugin noted elsewhere. A record
    /// that is there stays. Repair again afterwards.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn restore_endpoint(&mut self, index: u32, value: &EndpointValue) -> Result<(), ApplyError> {
        guard::restore(&self.handles, index, value)
    }

    /// How programs get onto devices of this role here.
    pub fn device_hook(&self, role: DeviceRole) -> DeviceHook {
        self.devices.hook(role)
    }

    /// Tells the packet path what it must know of a device; [`proxy_common::device::NODE_DEFAULT`] stands for all
    /// others.
    ///
    /// # Errors
    /// The map could not be written.
    pub fn set_device(&mut self, index: u32, value: DeviceValue) -> Result<(), ApplyError> {
        device_values::put(&self.handles, index, value)
    }

    /// Makes the map of devices hold exactly this.
    ///
    /// # Errors
    /// The map could not be read or written.
    pub fn set_devices(&mut self, values: &BTreeMap<u32, DeviceValue>) -> Result<(), ApplyError> {
        device_values::replace(&self.handles, values)
    }

    /// Makes the map of egress masquerade hold exactly this. Without [`PacketSettings::masquerade`] nobody reads it.
    ///
    /// # Errors
    /// The map could not be read or written, or is full: then fewer packets are masqueraded than should be.
    pub fn set_masquerade(&mut self, prefixes: &Masquerade) -> Result<(), ApplyError> {
        masquerade::replace(&self.handles, prefixes)
    }

    /// The decisions of the programs from now on; silent unless [`DataPlane::set_monitor`] is on. One reader at a time,
    /// inside a tokio runtime.
    ///
    /// # Errors
    /// The buffer could not be mapped.
    pub fn events(&self) -> Result<EventStream, ReadError> {
        EventStream::open(&self.handles)
    }

    /// A handle for whoever watches, to be moved to another thread.
    ///
    /// # Errors
    /// The process is out of descriptors.
    pub fn observer(&self) -> Result<Observer, ReadError> {
        let lister = self.lister.as_ref().map(OwnedFd::try_clone).transpose().map_err(ReadError::Sockets)?;
        Observer::new(self.handles.clone(), self.pins.clone(), lister, self.constants.packet)
    }

    /// The connection table, to be moved to another thread.
    pub fn flow_table(&self) -> FlowTable {
        FlowTable::new(self.handles.clone(), self.constants.packet)
    }

    /// See [`Observer::counters`].
    ///
    /// # Errors
    /// As there.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, ReadError> {
        self.observer()?.counters()
    }

    /// See [`Observer::usage`].
    ///
    /// # Errors
    /// As there.
    pub fn usage(&self) -> Result<Vec<MapUsage>, ReadError> {
        self.observer()?.usage()
    }

    /// A program on devices, to run it without a device.
    ///
    /// # Errors
    /// There is no program of this name.
    pub fn device_program(&self, name: &'static str) -> Result<BorrowedFd<'_>, LoadError> {
        self.monitor.as_ref().unwrap_or(&self.quiet).program(name)
    }

    /// The programs of this agent, attached or not.
    ///
    /// # Errors
    /// A program could not be examined.
    pub fn programs(&self) -> Result<Vec<ProgramInfo>, ReadError> {
        let loaded = self.monitor.as_ref().unwrap_or(&self.quiet);
        let examine = |(loaded, name): (&Loaded, &'static str)| {
            let failed =
                |error| ReadError::Program { program: name.to_owned(), source: io::Error::other(error) };
            observer::program_info(name, loaded.program(name).map_err(failed)?)
        };
        let common = names::PROGRAMS.iter().chain(&names::DEVICE_PROGRAMS).map(|name| (loaded, *name));
        common.chain(names::GUARD_PROGRAMS.map(|name| (&self.quiet, name))).map(examine).collect()
    }
}

/// Prepares the listing of sockets; without it only the destruction of stale UDP sockets is missing.
fn lister(loaded: &mut Loaded, handles: &MapHandles) -> Option<OwnedFd> {
    let result = loaded.load_lister().map_err(|error| error.to_string()).and_then(|program| {
        let map = handles.get(names::SOCK_PEERS).map_err(|error| error.to_string())?;
        sys::link_iterator(program.as_fd(), map.as_fd()).map_err(|error| error.to_string())
    });
    result
        .inspect_err(|reason| {
            warn!(
                reason,
                "connected UDP sockets cannot be told that their backend left: this kernel lists no sockets"
            );
        })
        .ok()
}
