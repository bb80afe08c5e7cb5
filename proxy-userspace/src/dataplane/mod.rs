//! Kernel maps, programs and links; the only importer of aya.
//!
//! [`LbMaps`] is what the reconciler needs of a set of maps; [`KernelMaps`], [`MemoryMaps`] and [`FaultyMaps`] are the
//! sets. [`DataPlane`] owns the rest: the lock against a second agent, the pins, the programs, their links and the
//! probe. [`inspect()`] and [`cleanup()`] work without an agent. Must not know Kubernetes, nor why a map entry should
//! be what it is.

mod address_filter;
mod batch;
mod bpf_maps;
mod bpffs;
mod capacities;
mod cgroup;
mod cleanup;
mod clsact;
mod definition;
mod device_values;
mod devices;
mod events;
mod faulty_maps;
mod flows;
mod forget;
mod grace;
mod guard;
mod handles;
mod inspect;
mod lb_maps;
mod links;
mod load;
mod lock;
mod mapped;
mod masquerade;
mod memory_maps;
mod observer;
mod packet_only;
mod path_pins;
mod pins;
mod plane;
mod pod_ranges;
mod probe;
mod ring_memory;
mod source_range;
mod tcx;

pub use bpf_maps::KernelMaps;
pub use bpffs::mount_bpffs;
pub use capacities::Capacities;
pub use cgroup::CgroupError;
pub use cleanup::{CleanupReport, cleanup};
pub use devices::{DeviceError, DeviceHook, DeviceRole};
pub use events::EventStream;
pub use faulty_maps::FaultyMaps;
pub use flows::{Flow, FlowCounts};
pub use forget::FlowTable;
pub use grace::{Grace, wait_grace};
pub use guard::{GuardError, GuardRepair};
pub use inspect::{DeviceStatus, InspectError, Inspection, LinkStatus, inspect};
pub use lb_maps::{ApplyError, LbMaps, MapLimit};
pub use links::{LinkAction, LinkError};
pub use load::LoadError;
pub use lock::{LockError, lock_holder};
pub use masquerade::Masquerade;
pub use memory_maps::MemoryMaps;
pub use observer::{MapUsage, Observer, ProgramInfo, ReadError, enable_run_statistics};
pub use packet_only::{PacketOnly, SwitchError};
pub use pins::PinsError;
pub use plane::{AttachError, DataPlane, DataPlaneConfig, OpenError};
pub use probe::{ProbeClient, ProbeError, ProbeReport};
use proxy_kernel::bpf as sys;
pub use proxy_kernel::netns_cookie;
