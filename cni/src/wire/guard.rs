//! The guard on the host's end: the endpoint record, and the programs that the agent pinned, attached.
//!
//! Must not know what the programs do.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use proxy_common::{ENDPOINT_SCHEMA_HASH, EndpointValue, names};
use proxy_kernel::{
    bpf::{self, Access},
    element::ElementMap,
};

use super::{WireError, filter, netlink::Rtnetlink, plan::Side};
use crate::facts::Pins;

/// `BPF_TCX_INGRESS` (linux/bpf.h): what comes from the device, here out of the pod.
const TCX_INGRESS: u32 = 46;
/// `BPF_TCX_EGRESS`.
const TCX_EGRESS: u32 = 47;
/// What pinned links are called at the beginning; then the device's index and the side.
const LINK_PREFIX: &str = "guard-";

impl Side {
    const BOTH: [Self; 2] = [Self::Ingress, Self::Egress];

    fn attach_type(self) -> u32 {
        match self {
            Self::Ingress => TCX_INGRESS,
            Self::Egress => TCX_EGRESS,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }

    /// Name of the program.
    pub(super) fn program_name(self) -> &'static str {
        let [ingress, egress] = names::GUARD_PROGRAMS;
        match self {
            Self::Ingress => ingress,
            Self::Egress => egress,
        }
    }

    fn program(self, pins: &Pins) -> &Path {
        match self {
            Self::Ingress => &pins.guard_ingress,
            Self::Egress => &pins.guard_egress,
        }
    }
}

fn link_path(pins: &Pins, index: u32, side: Side) -> PathBuf {
    pins.links.join(format!("{LINK_PREFIX}{index}-{}", side.name()))
}

fn cannot(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> WireError {
    let path = path.to_owned();
    move |source| WireError::Pin { attempt, path, source }
}

fn open(path: &Path) -> Result<ElementMap, WireError> {
    ElementMap::open(path).map_err(cannot("open the map", path))
}

/// Tells the guard what it is to admit from the device.
pub(super) fn record(pins: &Pins, index: u32, endpoint: &EndpointValue) -> Result<(), WireError> {
    if pins.schema != ENDPOINT_SCHEMA_HASH {
        return Err(WireError::Schema { theirs: pins.schema, ours: ENDPOINT_SCHEMA_HASH });
    }
    let map = open(&pins.endpoints)?;
    map.put(&index.to_ne_bytes(), &bytes(endpoint)).map_err(cannot("write to the map", &pins.endpoints))
}

/// Whether the guard was told this. What the programs themselves write is not looked at.
pub(super) fn is_recorded(pins: &Pins, index: u32, endpoint: &EndpointValue) -> Result<bool, WireError> {
    let found =
        open(&pins.endpoints)?.get(&index.to_ne_bytes()).map_err(cannot("read the map", &pins.endpoints))?;
    let told = std::mem::offset_of!(EndpointValue, from_due);
    Ok(found.is_some_and(|found| found.get(..told) == bytes(endpoint).get(..told)))
}

/// Forgets the device: from now on the guard admits nothing from it.
pub(super) fn forget(pins: &Pins, index: u32) -> Result<(), WireError> {
    remove(&pins.endpoints, &index.to_ne_bytes())
}

/// The devices that the guard was told of; none if the map is gone.
pub(super) fn recorded(pins: &Pins) -> Result<Vec<u32>, WireError> {
    let keys = match ElementMap::open(&pins.endpoints) {
        Ok(map) => map.keys().map_err(cannot("read the map", &pins.endpoints))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(cannot("open the map", &pins.endpoints)(error)),
    };
    Ok(keys.into_iter().filter_map(|key| key.try_into().ok()).map(u32::from_ne_bytes).collect())
}

/// Leaves the sockets of a namespace alone.
pub(super) fn exempt(pins: &Pins, cookie: u64) -> Result<(), WireError> {
    let map = open(&pins.packet_only)?;
    map.put(&cookie.to_ne_bytes(), &[1]).map_err(cannot("write to the map", &pins.packet_only))
}

/// Whether they are left alone.
pub(super) fn is_exempt(pins: &Pins, cookie: u64) -> Result<bool, WireError> {
    let found = open(&pins.packet_only)?.get(&cookie.to_ne_bytes());
    found.map(|value| value.is_some()).map_err(cannot("read the map", &pins.packet_only))
}

/// No longer leaves them alone.
pub(super) fn unexempt(pins: &Pins, cookie: u64) -> Result<(), WireError> {
    remove(&pins.packet_only, &cookie.to_ne_bytes())
}

/// A map that is gone holds nothing any more.
fn remove(path: &Path, key: &[u8]) -> Result<(), WireError> {
    match ElementMap::open(path) {
        Ok(map) => map.remove(key).map_err(cannot("write to the map", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(cannot("open the map", path)(error)),
    }
}

/// Makes the place for the programs on a device.
pub(super) fn prepare(host: &mut Rtnetlink, pins: &Pins, index: u32) -> Result<(), WireError> {
    if pins.tcx { Ok(()) } else { filter::prepare(host, index) }
}

/// Attaches the program to the device, so that it stays when this process ends.
pub(super) fn attach(host: &mut Rtnetlink, pins: &Pins, index: u32, side: Side) -> Result<(), WireError> {
    let path = side.program(pins);
    let program = bpf::open_pin(path, Access::Full).map_err(cannot("open the program", path))?;
    if !pins.tcx {
        return filter::attach(host, program.as_fd(), index, side);
    }
    let link = bpf::link_to_device(program.as_fd(), index, side.attach_type())
        .map_err(cannot("attach the program", path))?;
    let place = link_path(pins, index, side);
    // A pin of this name is that of a device that is gone: the kernel gives no index of a living one.
    unpin(&place)?;
    bpf::pin(link.as_fd(), &place).map_err(cannot("pin a link at", &place))
}

/// Whether the program is on the device, by a pinned link or as a filter.
pub(super) fn is_attached(
    host: &mut Rtnetlink,
    pins: &Pins,
    index: u32,
    side: Side,
) -> Result<bool, WireError> {
    if !pins.tcx {
        return filter::is_attached(host, index, side);
    }
    let path = link_path(pins, index, side);
    let info = bpf::open_pin(&path, Access::Full).and_then(|link| bpf::link_info(link.as_fd()));
    match info {
        Ok(info) => Ok(info.device() == Some((index, side.attach_type()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(cannot("open the link", &path)(error)),
    }
}

/// Removes the pinned link of one side; a filter goes with its device.
pub(super) fn detach(pins: &Pins, index: u32, side: Side) -> Result<(), WireError> {
    unpin(&link_path(pins, index, side))
}

/// Removes the pinned links of a device.
pub(super) fn detach_all(pins: &Pins, index: u32) -> Result<(), WireError> {
    Side::BOTH.into_iter().try_for_each(|side| detach(pins, index, side))
}

/// The indices for which there are pinned links.
pub(super) fn pinned(pins: &Pins) -> Vec<u32> {
    let entries = fs::read_dir(&pins.links).into_iter().flatten().flatten();
    let mut indices: Vec<u32> = entries.filter_map(|entry| index_of(entry.file_name().to_str()?)).collect();
    indices.sort_unstable();
    indices.dedup();
    indices
}

fn index_of(name: &str) -> Option<u32> {
    name.strip_prefix(LINK_PREFIX)?.split_once('-')?.0.parse().ok()
}

fn unpin(path: &Path) -> Result<(), WireError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove the pin", path)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The record as it is in memory: fields in their order, without gaps.
fn bytes(value: &EndpointValue) -> Vec<u8> {
    let EndpointValue {
        address4,
        address6,
        mac,
        reserved,
        from_rate,
        from_burst,
        to_rate,
        to_burst,
        from_due,
        to_due,
    } = value;
    let mut bytes = address4.network_bits().to_ne_bytes().to_vec();
    bytes.extend(address6.network_words().into_iter().flat_map(u32::to_ne_bytes));
    bytes.extend(mac);
    bytes.extend(reserved);
    for number in [from_rate, from_burst, to_rate, to_burst, from_due, to_due] {
        bytes.extend(number.to_ne_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::{mem::offset_of, net::Ipv6Addr};

    use super::*;
    use crate::wire::{plan, sample};

    #[test]
    fn a_records_bytes_are_where_the_programs_read_them() {
        let attachment = sample::dual_stack();
        let value = EndpointValue { from_rate: 7, to_due: 9, ..plan::endpoint(&attachment) };
        let bytes = bytes(&value);
        assert_eq!(bytes.len(), size_of::<EndpointValue>());
        let at = |offset: usize, length: usize| bytes.get(offset..offset + length).unwrap().to_vec();
        assert_eq!(at(offset_of!(EndpointValue, address4), 4), [10, 244, 1, 5]);
        let v6: Ipv6Addr = "fd00:10:244:1::5".parse().unwrap();
        assert_eq!(at(offset_of!(EndpointValue, address6), 16), v6.octets());
        assert_eq!(at(offset_of!(EndpointValue, mac), 6), attachment.pod_mac.0);
        assert_eq!(at(offset_of!(EndpointValue, from_rate), 8), 7_u64.to_ne_bytes());
        assert_eq!(at(offset_of!(EndpointValue, to_due), 8), 9_u64.to_ne_bytes());
    }

    #[test]
    fn the_device_of_a_pinned_link_is_in_its_name() {
        assert_eq!(index_of("guard-17-ingress"), Some(17));
        for other in ["guard-x-ingress", "node_ingress", "guard-17", "guard--1-egress"] {
            assert_eq!(index_of(other), None, "{other}");
        }
    }

    #[test]
    fn an_agent_of_another_layout_is_not_written_to() {
        let pins = Pins { schema: ENDPOINT_SCHEMA_HASH ^ 1, ..sample::pins(Path::new("/nonexistent")) };
        let endpoint = plan::endpoint(&sample::dual_stack());
        assert!(matches!(record(&pins, 1, &endpoint), Err(WireError::Schema { .. })));
    }
}
