//! Looking at the data plane: counters, fill of the maps, programs, translated sockets.
//!
//! Works beside the agent and without it. Must not write.

use std::{
    fs,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::Duration,
};

use aya::{
    Pod,
    maps::{MapData, PerCpuArray, lpm_trie::Key},
};
use proxy_common::{
    AffinityKey, AffinityValue, Counter, DeviceValue, EndpointValue, FragmentKey, FragmentValue, Ipv4Be,
    Ipv6Be, MasqueradeKey, PacketSettings, TranslatedSocket, names,
};
use proxy_core::diff::RealisedDump;
use serde::Serialize;
use thiserror::Error;

use super::{
    ApplyError, capacities,
    flows::{self, Flow, FlowCounts},
    handles::{MapHandle, MapHandles, io_error},
    links::{self, HOOKS},
    pins::Pins,
    sys::{self, Access},
    tcx,
};

/// Why something could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// A map.
    #[error(transparent)]
    Map(#[from] ApplyError),
    /// A program.
    #[error("cannot read the details of program {program}")]
    Program {
        /// Its name.
        program: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The list of translated sockets.
    #[error("cannot list the translated sockets")]
    Sockets(#[source] io::Error),
    /// The list of translated sockets needs a program that this kernel refused at start.
    #[error("this kernel cannot list the translated sockets (see the warning at start)")]
    NoLister,
    /// Run time statistics.
    #[error("cannot switch the kernel's program statistics on")]
    Statistics(#[source] io::Error),
}

/// How full one map is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapUsage {
    /// Name of the map.
    pub name: String,
    /// Its kind, e.g. "hash".
    pub kind: String,
    /// Entries in use, for maps in which that can be told.
    pub used: Option<u64>,
    /// Entries that fit, without the places kept for the probe; bytes for the ring buffer; 0 if only the number of sockets limits it.
    pub capacity: u64,
    /// Memory the kernel charges for it now, in bytes.
    pub bytes: Option<u64>,
}

/// One program in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramInfo {
    /// Its name.
    pub name: String,
    /// The kernel's id.
    pub id: u32,
    /// Hash of its instructions, in hexadecimal as `bpftool` prints it.
    pub tag: String,
    /// Instructions that the verifier walked through; `None` before kernel 5.16.
    pub verified_instructions: Option<u32>,
    /// Bytes of machine code; `None` if it is interpreted.
    pub bytes: Option<u64>,
    /// Runs since it was loaded; counted only while statistics are on.
    pub run_count: u64,
    /// Time spent in it since it was loaded; counted only while statistics are on.
    pub run_time: Duration,
}

/// A handle for whoever watches. Every call reads the kernel; nothing is cached.
pub struct Observer {
    handles: MapHandles,
    counters: PerCpuArray<MapData, u64>,
    pins: Pins,
    lister: Option<OwnedFd>,
    flow_counter: flows::Counter,
    /// With the time-outs that tell which flows are over.
    packet: PacketSettings,
}

impl Observer {
    pub(super) fn new(
        handles: MapHandles,
        pins: Pins,
        lister: Option<OwnedFd>,
        packet: PacketSettings,
    ) -> Result<Self, ReadError> {
        let counters = handles.typed(names::COUNTERS)?;
        Ok(Self { handles, counters, pins, lister, flow_counter: flows::Counter::default(), packet })
    }

    /// What the programs counted since the maps were made, summed over the CPUs.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, ReadError> {
        let sum =
            |counter: &Counter| {
                let values = self.counters.get(&(*counter as u32), 0).map_err(|error| {
                    ApplyError::Kernel { action: "read", map: names::COUNTERS, source: io_error(error) }
                })?;
                Ok((*counter, values.iter().sum()))
            };
        Counter::ALL.iter().map(sum).collect()
    }

    /// How full the maps are. Reads the service maps whole: some milliseconds for each 10,000 entries.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn usage(&self) -> Result<Vec<MapUsage>, ReadError> {
        let dump = self.handles.dump_without_ring()?;
        self.handles.iter().map(|map| Ok(usage(map, self.used(map, &dump)?))).collect()
    }

    fn used(&self, map: &MapHandle, dump: &RealisedDump) -> Result<Option<u64>, ReadError> {
        let used = match map.name.as_str() {
            names::SERVICES4 => dump.services4.len(),
            names::SERVICES6 => dump.services6.len(),
            names::RING => ring_positions(dump),
            names::BACKENDS4 => dump.backends4.len(),
            names::BACKENDS6 => dump.backends6.len(),
            names::SOURCE_RANGES => dump.source_ranges.len(),
            name => return self.counted(name),
        };
        Ok(Some(used as u64))
    }

    /// Entries of a map that only counting tells; `None` where there is nothing to count.
    fn counted(&self, name: &str) -> Result<Option<u64>, ReadError> {
        let census = || self.flow_counter.census(&self.handles, self.packet);
        let counted = match name {
            names::AFFINITY => self.count::<AffinityKey, AffinityValue>(names::AFFINITY)?,
            names::FLOWS4 => first(census()?.flows).alive(),
            names::FLOWS6 => second(census()?.flows).alive(),
            names::FLOW_KEYS4 => first(census()?.keys),
            names::FLOW_KEYS6 => second(census()?.keys),
            names::FRAGMENTS4 => self.count::<FragmentKey<Ipv4Be>, FragmentValue>(names::FRAGMENTS4)?,
            names::FRAGMENTS6 => self.count::<FragmentKey<Ipv6Be>, FragmentValue>(names::FRAGMENTS6)?,
            names::DEVICES => self.count::<u32, DeviceValue>(names::DEVICES)?,
            names::MASQUERADE => self.count::<Key<MasqueradeKey>, u32>(names::MASQUERADE)?,
            names::ENDPOINTS => self.count::<u32, EndpointValue>(names::ENDPOINTS)?,
            names::PACKET_ONLY => self.count::<u64, u8>(names::PACKET_ONLY)?,
            _ => return Ok(None),
        };
        Ok(Some(counted))
    }

    fn count<K: Pod, V: Pod>(&self, map: &'static str) -> Result<u64, ReadError> {
        let mut number = 0;
        self.handles.for_each(map, |_: K, _: V| number += 1)?;
        Ok(number)
    }

    /// Every flow that the packet path knows. Reads the table whole: some milliseconds for each 10,000 places.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn flows(&self) -> Result<Vec<Flow>, ReadError> {
        Ok(flows::list(&self.handles, self.packet)?)
    }

    /// How many flows there are, or were a moment ago: IPv4, then IPv6.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn flow_counts(&self) -> Result<[FlowCounts; 2], ReadError> {
        Ok(self.flow_counter.census(&self.handles, self.packet)?.flows)
    }

    /// The programs that are attached now.
    ///
    /// # Errors
    /// A program could not be examined.
    pub fn programs(&self) -> Result<Vec<ProgramInfo>, ReadError> {
        let on_cgroup = |hook: &links::Hook| {
            let link = sys::open_pin(&self.pins.link(hook.program), Access::Full).ok()?;
            Some((hook.program.to_owned(), sys::link_info(link.as_fd()).ok()?.program_id))
        };
        let on_cgroup: Vec<_> = HOOKS.iter().filter_map(on_cgroup).collect();
        let on_devices = tcx::programs(&self.pins).into_iter().map(|(id, name)| (name, id));
        on_cgroup.into_iter().chain(on_devices).map(|(name, id)| examine(&name, id)).collect()
    }

    /// Everything the service maps hold.
    ///
    /// # Errors
    /// A map could not be read.
    pub fn dump(&self) -> Result<RealisedDump, ApplyError> {
        self.handles.dump()
    }

    /// Every socket of the machine, whatever its namespace, that is connected through a Service.
    ///
    /// # Errors
    /// The kernel cannot list them, or reading failed.
    pub fn translated_sockets(&self) -> Result<Vec<TranslatedSocket>, ReadError> {
        let link = self.lister.as_ref().ok_or(ReadError::NoLister)?;
        let mut bytes = Vec::new();
        sys::start_iterator(link.as_fd())
            .and_then(|mut list| list.read_to_end(&mut bytes))
            .map_err(ReadError::Sockets)?;
        Ok(records(&bytes))
    }
}

fn first<T>([first, _]: [T; 2]) -> T {
    first
}

fn second<T>([_, second]: [T; 2]) -> T {
    second
}

fn examine(name: &str, id: u32) -> Result<ProgramInfo, ReadError> {
    let failed = |source| ReadError::Program { program: name.to_owned(), source };
    let program = sys::program_by_id(id).map_err(failed)?;
    program_info(name, program.as_fd())
}

/// Details of one program.
pub(super) fn program_info(name: &str, program: BorrowedFd<'_>) -> Result<ProgramInfo, ReadError> {
    let failed = |source| ReadError::Program { program: name.to_owned(), source };
    let info = sys::program_info(program).map_err(failed)?;
    Ok(ProgramInfo {
        name: name.to_owned(),
        id: info.id,
        tag: info.tag.iter().fold(String::new(), |tag, byte| tag + &format!("{byte:02x}")),
        verified_instructions: Some(info.verified_insns).filter(|count| *count > 0),
        bytes: Some(info.jited_prog_len.into()).filter(|bytes| *bytes > 0),
        run_count: info.run_cnt,
        run_time: Duration::from_nanos(info.run_time_ns),
    })
}

/// Switches the kernel's program statistics on for as long as the result lives (about 20 ns for each run of any
/// program of the machine).
///
/// # Errors
/// The kernel refused.
pub fn enable_run_statistics() -> Result<OwnedFd, ReadError> {
    aya::sys::enable_stats(aya::sys::Stats::RunTime).map_err(|error| ReadError::Statistics(error.io_error))
}

/// The records of a plain sequence; a cut-off one at the end is dropped.
fn records(bytes: &[u8]) -> Vec<TranslatedSocket> {
    let whole = bytes.chunks_exact(size_of::<TranslatedSocket>());
    // SAFETY: the chunk is as long as the struct, which is made of integers without padding; unaligned on purpose.
    whole.map(|chunk| unsafe { chunk.as_ptr().cast::<TranslatedSocket>().read_unaligned() }).collect()
}

/// Positions of the ring that records refer to; records of one Service share ranges.
fn ring_positions(dump: &RealisedDump) -> usize {
    let of4 = dump.services4.iter().map(|(_, value)| value);
    let values = of4.chain(dump.services6.iter().map(|(_, value)| value));
    let mut ranges: Vec<_> = values.map(|value| (value.ring_base, value.ring_len + value.keep_len)).collect();
    ranges.sort_unstable();
    ranges.dedup();
    ranges.into_iter().map(|(_, length)| length as usize).sum()
}

fn usage(map: &MapHandle, used: Option<u64>) -> MapUsage {
    MapUsage {
        name: map.name.clone(),
        kind: map.shape.kind_name().to_owned(),
        used,
        capacity: map.shape.max_entries.saturating_sub(capacities::reserved(&map.name)).into(),
        bytes: charged_bytes(map.as_fd()),
    }
}

/// The kernel tells a map's memory in its fdinfo only.
fn charged_bytes(map: BorrowedFd<'_>) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", map.as_raw_fd())).ok()?;
    memlock(&text)
}

fn memlock(fdinfo: &str) -> Option<u64> {
    fdinfo.lines().find_map(|line| line.strip_prefix("memlock:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use proxy_common::{Address, Ipv4Be, Ipv6Be, Scope, ServiceKey, ServiceValue};

    use super::*;

    fn record(last: u32, ring_base: u32, ring_len: u32, keep_len: u32) -> (ServiceKey<Ipv4Be>, ServiceValue) {
        let key = ServiceKey::address_record(Ipv4Be::from_network_bits(last), Scope::Internal);
        let value = ServiceValue {
            service_id: 1,
            generation: 0,
            flags: 0,
            affinity_seconds: 0,
            ring_base,
            ring_len,
            keep_len,
            check: 0,
        };
        (key, value)
    }

    #[test]
    fn shared_ring_ranges_count_once() {
        let services4 = vec![record(1, 8, 3, 1), record(2, 8, 3, 1), record(3, 16, 2, 0), record(4, 0, 0, 0)];
        assert_eq!(ring_positions(&RealisedDump { services4, ..RealisedDump::default() }), 6);
    }

    #[test]
    fn the_charged_memory_is_found_among_the_fields() {
        assert_eq!(memlock("pos:\t0\nflags:\t02000002\nmap_type:\t1\nmemlock:\t4198400\n"), Some(4_198_400));
        assert_eq!(memlock("pos:\t0\n"), None);
    }

    #[test]
    fn records_are_read_from_any_alignment_and_a_cut_one_is_dropped() {
        let mut bytes = vec![0_u8; 1 + 2 * size_of::<TranslatedSocket>() + 5];
        bytes[1] = 9;
        bytes[1 + size_of::<TranslatedSocket>()] = 10;
        let sockets = records(&bytes[1..]);
        assert_eq!(sockets.iter().map(|socket| socket.cookie).collect::<Vec<_>>(), [9, 10]);
        assert_eq!(sockets[0].peer.backend, Ipv6Be::UNSPECIFIED);
    }
}
