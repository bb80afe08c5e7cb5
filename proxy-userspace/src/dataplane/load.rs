//! The object, and programs of it in the kernel.
//!
//! Must not know where programs are attached.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::{
    Btf, Ebpf, EbpfError, EbpfLoader,
    maps::Map,
    programs::{CgroupSockAddr, Iter, ProgramError, SchedClassifier},
};
use proxy_common::{PacketSettings, SocketLb, names};
use thiserror::Error;

use super::{Capacities, definition::MapDefinition, pins::Pins, sys};

/// The compiled programs, part of this binary.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sheave-ebpf.o"));

/// The iterator's type: one run for each element of a socket storage map.
const SOCKET_STORAGE: &str = "bpf_sk_storage_map";

/// Why the programs are not in the kernel.
#[derive(Debug, Error)]
pub enum LoadError {
    /// bpf(2) itself is refused.
    #[error("the kernel does not let this process use bpf(): {RIGHTS}")]
    NotPermitted(#[source] io::Error),
    /// The object or one of its maps.
    #[error("cannot load the eBPF object{}", hint(.0))]
    Object(#[source] Box<EbpfError>),
    /// A program.
    #[error("the kernel refused program {program}: {reason}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The error, with the end of the verifier's log.
        reason: String,
    },
    /// The object lacks something this binary needs: they were not built together.
    #[error("the eBPF object has no {what}: run `cargo xtask build` and rebuild the agent")]
    Missing {
        /// The program or map.
        what: String,
    },
    /// The network namespace has no cookie.
    #[error("cannot read the cookie of the network namespace (kernel 5.14 or later)")]
    NetnsCookie(#[source] io::Error),
}

/// What the agent needs.
const RIGHTS: &str = "run the agent as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN";

/// Says at once that rights are missing. Without it the first sign is a pin that cannot be opened, which looks like a
/// foreign one, or an object that the loader stripped of what it believes this kernel lacks.
pub(super) fn check_permitted() -> Result<(), LoadError> {
    permitted(sys::try_map())
}

fn permitted(tried: io::Result<()>) -> Result<(), LoadError> {
    match tried {
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Err(LoadError::NotPermitted(error)),
        // Whatever else is wrong the loader says better.
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What to do about the usual reason.
fn hint(error: &EbpfError) -> String {
    let refused = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source())
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::PermissionDenied);
    if refused { format!(": {RIGHTS}") } else { String::new() }
}

/// Which programs to load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Variant {
    /// Without the code that sends events.
    Quiet,
    /// With it.
    Monitor,
}

/// What the verifier sees as constants, and the sizes of the maps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constants {
    pub(super) capacities: Capacities,
    pub(super) socket_lb: SocketLb,
    pub(super) packet: PacketSettings,
    /// How long the guard may delay a packet, nanoseconds.
    pub(super) pacing_ns: u64,
}

impl Constants {
    /// Settings with those that follow from others filled in.
    pub(super) fn new(
        capacities: Capacities,
        socket_lb: SocketLb,
        packet: PacketSettings,
        pacing: Duration,
    ) -> Self {
        let packet = PacketSettings {
            flows: capacities.flows,
            host_by_packet: (socket_lb == SocketLb::Off).into(),
            ..packet
        };
        // The programs add the time to it.
        let pacing_ns = u64::try_from(pacing.as_nanos()).unwrap_or(u64::MAX).min(u64::MAX / 2);
        Self { capacities, socket_lb, packet, pacing_ns }
    }
}

/// Programs in the kernel, and the maps they use.
pub(super) struct Loaded {
    ebpf: Ebpf,
}

/// Loads all programs of one variant. Maps that are pinned are used; the others are created and pinned.
pub(super) fn load(
    definitions: &[MapDefinition],
    pins: &Pins,
    constants: &Constants,
    variant: Variant,
) -> Result<Loaded, LoadError> {
    // The host's, where the agent runs.
    let cookie = proxy_kernel::netns_cookie().map_err(LoadError::NetnsCookie)?;
    let monitor = u8::from(variant == Variant::Monitor);
    let socket_lb = constants.socket_lb as u32;
    let mut loader = EbpfLoader::new();
    // No program reads kernel structures by name: without this aya would keep the kernel's types in memory.
    loader.btf(None);
    loader.override_global(names::GLOBAL_HOST_NETNS, &cookie, true);
    loader.override_global(names::GLOBAL_MONITOR, &monitor, true);
    loader.override_global(names::GLOBAL_SOCKET_LB, &socket_lb, true);
    loader.override_global(names::GLOBAL_PACKET, &constants.packet, true);
    loader.override_global(names::GLOBAL_PACING, &constants.pacing_ns, true);
    for (map, capacity) in constants.capacities.by_map() {
        loader.map_max_entries(map, capacity);
    }
    for definition in definitions {
        loader.map_pin_path(&definition.name, pins.map(definition));
    }
    let mut ebpf = loader.load(OBJECT).map_err(|error| LoadError::Object(Box::new(error)))?;
    for program in names::PROGRAMS {
        let hook: &mut CgroupSockAddr = find_program(&mut ebpf, program)?;
        hook.load().map_err(|error| refused(program, &error))?;
    }
    // The guard tells no events: one variant serves.
    let guard = if variant == Variant::Quiet { &names::GUARD_PROGRAMS[..] } else { &[] };
    for program in names::DEVICE_PROGRAMS.iter().chain(guard) {
        let classifier: &mut SchedClassifier = find_program(&mut ebpf, program)?;
        classifier.load().map_err(|error| refused(program, &error))?;
    }
    Ok(Loaded { ebpf })
}

fn find_program<'a, P>(ebpf: &'a mut Ebpf, program: &'static str) -> Result<&'a mut P, LoadError>
where
    &'a mut P: TryFrom<&'a mut aya::programs::Program, Error = ProgramError>,
{
    let found = ebpf.program_mut(program).ok_or_else(|| missing(program))?;
    found.try_into().map_err(|error| refused(program, &error))
}

fn missing(program: &str) -> LoadError {
    LoadError::Missing { what: format!("program {program}") }
}

/// The verifier says at the end of its log why; the rest is for `bpftool`.
const LOG_LINES: usize = 12;

fn refused(program: &'static str, error: &ProgramError) -> LoadError {
    let reason = match error {
        ProgramError::LoadError { io_error, .. } if io_error.raw_os_error() == Some(libc::EPERM) => {
            format!("{io_error}: {RIGHTS}")
        }
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<_> = log.lines().collect();
            let end = lines.get(lines.len().saturating_sub(LOG_LINES)..).unwrap_or_default().join("\n");
            format!("{io_error}\n{end}")
        }
        other => other.to_string(),
    };
    LoadError::Program { program, reason }
}

impl Loaded {
    /// The descriptor of a program.
    pub(super) fn program(&self, program: &'static str) -> Result<BorrowedFd<'_>, LoadError> {
        let found = self.ebpf.program(program).ok_or_else(|| missing(program))?;
        found.fd().map(AsFd::as_fd).map_err(|error| refused(program, &error))
    }

    /// A descriptor of a map of its own.
    pub(super) fn map(&self, name: &str) -> Option<io::Result<OwnedFd>> {
        let (Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::Array(data)
        | Map::PerCpuArray(data)
        | Map::LpmTrie(data)
        | Map::RingBuf(data)
        | Map::SkStorage(data)) = self.ebpf.map(name)?
        else {
            return None;
        };
        Some(data.fd().as_fd().try_clone_to_owned())
    }

    /// Loads the program that lists sockets. Needs the kernel's own BTF, and a kernel from 5.12 on.
    pub(super) fn load_lister(&mut self) -> Result<OwnedFd, LoadError> {
        let program = names::LIST_SOCKETS;
        let unavailable = |reason: String| LoadError::Program { program, reason };
        let btf = Btf::from_sys_fs().map_err(|error| unavailable(error.to_string()))?;
        let lister: &mut Iter = find_program(&mut self.ebpf, program)?;
        lister.load(SOCKET_STORAGE, &btf).map_err(|error| refused(program, &error))?;
        let fd = lister.fd().map_err(|error| refused(program, &error))?;
        fd.as_fd().try_clone_to_owned().map_err(|error| unavailable(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_rights_are_explained() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let error = EbpfError::MapError(aya::maps::MapError::CreateError {
            name: "services4".into(),
            io_error: denied,
        });
        assert!(LoadError::Object(Box::new(error)).to_string().contains("CAP_BPF"));
        let errno = |number| permitted(Err(io::Error::from_raw_os_error(number)));
        assert!(errno(libc::EPERM).unwrap_err().to_string().contains("CAP_BPF"));
        assert!(errno(libc::EINVAL).is_ok());
    }
}
