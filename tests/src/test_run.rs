//! The packet programs in the kernel without a device to wait for: one packet in, verdict and packet out
//! (`BPF_PROG_TEST_RUN`), over maps of their own that nobody else sees.
//!
//! Must not know: what a packet or a map entry means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use aya::{Ebpf, EbpfLoader};
use proxy_common::{PacketSettings, SocketLb, names};

/// More than the largest packet that the kernel makes room for in a test run: one page.
const ROOM: usize = 65_536;

/// What of `struct __sk_buff` (linux/bpf.h) a test run takes from outside; the kernel refuses the rest unless it is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct SkBuff {
    before_ingress: [u32; 9],
    ingress_ifindex: u32,
    ifindex: u32,
    before_departure: [u32; 27],
    departure: [u32; 2],
    wire_length: u32,
    gso_segs: u32,
    socket: u64,
    gso_size: u32,
    timestamp_type: u32,
    hardware_timestamp: u64,
}

const _: () = assert!(size_of::<SkBuff>() == 192);

/// Where and how a packet meets a program.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    /// Index of the device, in the network namespace of the calling thread; 0 for the loopback device.
    pub device: u32,
    /// Index of the device through which it came into the host; 0 if the host itself made it.
    pub arrived_at: u32,
    /// Payload of a segment of a GSO packet, or 0.
    pub segment: u32,
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// The program's return value (`TC_ACT_*`, `TCX_*`).
    pub code: i32,
    /// The packet as it is then.
    pub packet: Vec<u8>,
    /// When it is to be sent, nanoseconds of the monotonic clock; 0: at once.
    pub departure: u64,
}

/// How many entries the tables have.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// Service and address records of each family.
    pub services: u32,
    /// Backend ids.
    pub ring: u32,
    /// Backends of each family.
    pub backends: u32,
    /// Flows of each family.
    pub flows: u32,
    /// Clients with affinity, and fragmented datagrams of each family.
    pub remembered: u32,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { services: 1_024, ring: 4_096, backends: 1_024, flows: 1_024, remembered: 1_024 }
    }
}

/// The packet programs, each loaded when it is run first, attached to nothing.
pub struct Programs {
    ebpf: Ebpf,
    /// What the verifier said of each program that was wanted.
    loaded: BTreeMap<String, Result<(), String>>,
}

impl Programs {
    /// Makes the maps for these settings; `flows` is filled in.
    ///
    /// # Errors
    /// Not root, or no object.
    pub fn load(settings: &PacketSettings, sizes: &Sizes) -> Result<Self> {
        Self::load_pacing(settings, sizes, Duration::ZERO)
    }

    /// As [`Programs::load`]; the guard delays packets so long instead of dropping them.
    ///
    /// # Errors
    /// As there.
    pub fn load_pacing(settings: &PacketSettings, sizes: &Sizes, pacing: Duration) -> Result<Self> {
        let object = std::fs::read(object())
            .with_context(|| format!("{}: `cargo xtask build`", object().display()))?;
        let settings = PacketSettings { flows: sizes.flows, ..*settings };
        let socket_lb = if settings.host_by_packet == 0 { SocketLb::All } else { SocketLb::Off } as u32;
        let mut loader = EbpfLoader::new();
        loader.btf(None);
        loader.override_global(names::GLOBAL_HOST_NETNS, &0_u64, true);
        loader.override_global(names::GLOBAL_MONITOR, &0_u8, true);
        loader.override_global(names::GLOBAL_SOCKET_LB, &socket_lb, true);
        loader.override_global(names::GLOBAL_PACKET, &settings, true);
        let pacing = u64::try_from(pacing.as_nanos())?;
        loader.override_global(names::GLOBAL_PACING, &pacing, true);
        for (map, entries) in entries(sizes) {
            loader.map_max_entries(map, entries);
        }
        let ebpf = loader.load(&object).context("cannot load the eBPF object")?;
        Ok(Self { ebpf, loaded: BTreeMap::new() })
    }

    /// Runs one packet through a program of [`names::DEVICE_PROGRAMS`] or [`names::GUARD_PROGRAMS`].
    ///
    /// # Errors
    /// The verifier refuses the program, or the kernel does not take the packet or the device.
    pub fn run(&mut self, program: &str, packet: &[u8], place: Place) -> Result<Ran> {
        let context = SkBuff {
            ingress_ifindex: place.arrived_at,
            ifindex: place.device,
            gso_segs: u32::from(place.segment != 0),
            gso_size: place.segment,
            ..SkBuff::default()
        };
        let (mut out, mut after) = (vec![0; ROOM], SkBuff::default());
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            ctx_in: Some(bytes_of(&context)),
            ctx_out: Some(bytes_of_mut(&mut after)),
            ..TestRunOptions::new()
        };
        let classifier = classifier(&mut self.ebpf, program)?;
        let load = || classifier.load().map_err(|error| error.to_string());
        // A program that is refused is not tried again: that takes seconds each time.
        if let Err(reason) = self.loaded.entry(program.to_owned()).or_insert_with(load) {
            bail!("program {program}: {reason}");
        }
        let result = classifier.test_run(options)?;
        out.truncate(usize::try_from(result.data_size_out)?);
        let [low, high] = after.departure.map(u64::from);
        Ok(Ran { code: result.return_value.cast_signed(), packet: out, departure: high << 32 | low })
    }

    /// How many instructions the verifier walked for a program; it is loaded if it is not yet.
    ///
    /// # Errors
    /// The verifier refuses the program, or the kernel does not tell.
    pub fn verified(&mut self, program: &str) -> Result<u32> {
        let classifier = classifier(&mut self.ebpf, program)?;
        let load = || classifier.load().map_err(|error| error.to_string());
        if let Err(reason) = self.loaded.entry(program.to_owned()).or_insert_with(load) {
            bail!("program {program}: {reason}");
        }
        classifier.info()?.verified_instruction_count().context("the kernel does not count")
    }

    /// A map, to be read and written.
    ///
    /// # Errors
    /// The object has no such map, or it is of another kind.
    pub fn map<'a, M>(&'a mut self, name: &str) -> Result<M>
    where
        M: TryFrom<&'a mut aya::maps::Map, Error = aya::maps::MapError>,
    {
        let map = self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))?;
        M::try_from(map).with_context(|| format!("map {name}"))
    }
}

fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf.program_mut(name).with_context(|| format!("the object has no program {name}"))?.try_into()?)
}

fn entries(sizes: &Sizes) -> [(&'static str, u32); 12] {
    let keys = sizes.flows.saturating_mul(names::KEYS_PER_FLOW).saturating_add(1_024);
    [
        (names::SERVICES4, sizes.services),
        (names::SERVICES6, sizes.services),
        (names::RING, sizes.ring),
        (names::BACKENDS4, sizes.backends),
        (names::BACKENDS6, sizes.backends),
        (names::FLOWS4, sizes.flows),
        (names::FLOWS6, sizes.flows),
        (names::FLOW_KEYS4, keys),
        (names::FLOW_KEYS6, keys),
        (names::AFFINITY, sizes.remembered),
        (names::FRAGMENTS4, sizes.remembered),
        (names::FRAGMENTS6, sizes.remembered),
    ]
}

/// The object that `cargo xtask build` made.
fn object() -> PathBuf {
    let default = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bpf/sheave-ebpf.o");
    std::env::var_os("SHEAVE_EBPF_OBJECT").map_or_else(default, PathBuf::from)
}

fn bytes_of(context: &SkBuff) -> &[u8] {
    let start = std::ptr::from_ref(context).cast::<u8>();
    // SAFETY: repr(C) of integers whose sizes add up to that of the whole, so every byte is initialised.
    unsafe { std::slice::from_raw_parts(start, size_of::<SkBuff>()) }
}

fn bytes_of_mut(context: &mut SkBuff) -> &mut [u8] {
    let start = std::ptr::from_mut(context).cast::<u8>();
    // SAFETY: as in `bytes_of`, and any bytes are a value of it.
    unsafe { std::slice::from_raw_parts_mut(start, size_of::<SkBuff>()) }
}
