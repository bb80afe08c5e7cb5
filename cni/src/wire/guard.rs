//! The guard on the host's end: the endpoint record, and the programs that the agent pinned, attached.
//!
//! Must not know what the programs do.

use std::{io, os::fd::AsFd, path::Path};

use proxy_common::{ENDPOINT_SCHEMA_HASH, EndpointValue, names};
use proxy_kernel::{
    bpf::{self, Access},
    element::ElementMap,
};

use super::{WireError, filter, netlink::Rtnetlink, plan::Side};
use crate::facts::Pins;

impl Side {
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

/// Attaches the program to the device, so that it stays when this process ends. It goes with the device.
pub(super) fn attach(host: &mut Rtnetlink, pins: &Pins, index: u32, side: Side) -> Result<(), WireError> {
    let path = side.program(pins);
    let program = bpf::open_pin(path, Access::Full).map_err(cannot("open the program", path))?;
    filter::attach(host, program.as_fd(), index, side)
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
    fn an_agent_of_another_layout_is_not_written_to() {
        let pins = Pins { schema: ENDPOINT_SCHEMA_HASH ^ 1, ..sample::pins(Path::new("/nonexistent")) };
        let endpoint = plan::endpoint(&sample::dual_stack());
        assert!(matches!(record(&pins, 1, &endpoint), Err(WireError::Schema { .. })));
    }
}
