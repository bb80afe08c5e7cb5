//! Writing the map `devices`: what the packet path must know of each device.
//!
//! Must not know where the addresses come from.

use std::{collections::BTreeMap, io};

use aya::maps::{HashMap, MapData, MapError};
use proxy_common::{DeviceValue, names};

use super::{
    ApplyError,
    handles::{MapHandles, io_error},
};

type Values = HashMap<MapData, u32, DeviceValue>;

/// Writes one value.
pub(super) fn put(handles: &MapHandles, index: u32, value: DeviceValue) -> Result<(), ApplyError> {
    open(handles)?.insert(index, value, 0).map_err(failed("write to"))
}

/// Removes what is not among `values`, which makes room, then writes what differs, the node itself first.
pub(super) fn replace(handles: &MapHandles, values: &BTreeMap<u32, DeviceValue>) -> Result<(), ApplyError> {
    let mut map = open(handles)?;
    let mut known = BTreeMap::new();
    handles.for_each(names::DEVICES, |index: u32, value: DeviceValue| {
        known.insert(index, value);
    })?;
    for index in known.keys().filter(|index| !values.contains_key(index)) {
        match map.remove(index) {
            Err(error) if io_error_kind(&error) != io::ErrorKind::NotFound => {
                return Err(failed("remove from")(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    for (index, value) in values.iter().filter(|(index, value)| known.get(index) != Some(value)) {
        map.insert(index, value, 0).map_err(failed("write to"))?;
    }
    Ok(())
}

fn open(handles: &MapHandles) -> Result<Values, ApplyError> {
    handles.typed(names::DEVICES)
}

fn io_error_kind(error: &MapError) -> io::ErrorKind {
    match error {
        MapError::SyscallError(error) => error.io_error.kind(),
        MapError::KeyNotFound | MapError::ElementNotFound => io::ErrorKind::NotFound,
        _ => io::ErrorKind::Other,
    }
}

fn failed(action: &'static str) -> impl Fn(MapError) -> ApplyError {
    move |error| ApplyError::Kernel { action, map: names::DEVICES, source: io_error(error) }
}
