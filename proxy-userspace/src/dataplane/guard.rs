//! The guard of pods: its programs pinned for the plugin, kept on the host's ends of pods, exchanged in place.
//!
//! The plugin attaches the pinned programs by itself; what is here repairs. Must not know pods: a device with a record is
//! one.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
};

use aya::maps::{HashMap, MapData};
use nix::{errno::Errno, net::if_::if_indextoname};
use proxy_common::{ENDPOINT_SCHEMA_HASH, EndpointValue, names};
use thiserror::Error;

use super::{
    ApplyError, LinkAction, clsact,
    definition::MapDefinition,
    devices::{DeviceError, Layer, Place, Side},
    handles::{MapHandles, io_error},
    load::{LoadError, Loaded},
    pins::{self, Pins},
};

/// Why nothing could be repaired.
#[derive(Debug, Error)]
pub enum GuardError {
    /// A program could not be pinned.
    #[error("cannot pin the guard at {pin}: is its file system writable?")]
    Pin {
        /// The pin.
        pin: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The records.
    #[error(transparent)]
    Records(#[from] ApplyError),
    /// The filters.
    #[error(transparent)]
    Places(#[from] DeviceError),
    /// The programs.
    #[error(transparent)]
    Load(#[from] LoadError),
}

/// What a repair found.
#[derive(Debug, Default)]
pub struct GuardRepair {
    /// Pods that are guarded by this agent's programs now.
    pub guarded: BTreeSet<u32>,
    /// Those of them whose guard was missing on a side.
    pub attached: BTreeSet<u32>,
    /// Devices that are gone, of which a record was left.
    pub gone: BTreeSet<u32>,
    /// Devices that have a guard, but no record: it was left as it is. With the programs of an earlier version it goes by
    /// that version's record until [`super::DataPlane::restore_endpoint`] gives it another.
    pub without_record: BTreeSet<u32>,
    /// What failed, by device.
    pub failed: BTreeMap<u32, DeviceError>,
}

type Records = HashMap<MapData, u32, EndpointValue>;

/// The program for a side.
fn program_name(side: Side) -> &'static str {
    let [ingress, egress] = names::GUARD_PROGRAMS;
    match side {
        Side::Ingress => ingress,
        Side::Egress => egress,
    }
}

/// The paths that the plugin is told.
pub(super) fn pins(definitions: &[MapDefinition], pins: &Pins) -> Result<cni::facts::Pins, GuardError> {
    let map = |name: &str| {
        let definition = definitions.iter().find(|map| map.name == name);
        definition.map(|map| pins.map(map)).ok_or_else(|| LoadError::Missing { what: format!("map {name}") })
    };
    Ok(cni::facts::Pins {
        schema: ENDPOINT_SCHEMA_HASH,
        endpoints: map(names::ENDPOINTS)?,
        packet_only: map(names::PACKET_ONLY)?,
        guard_ingress: pins.program(program_name(Side::Ingress)),
        guard_egress: pins.program(program_name(Side::Egress)),
        path: None,
    })
}

/// See [`super::DataPlane::pin_guards`].
pub(super) fn pin(loaded: &Loaded, pins: &Pins) -> Result<(), GuardError> {
    Side::ALL.into_iter().try_for_each(|side| pin_program(loaded, pins, side))
}

/// See [`super::DataPlane::repair_guards`].
pub(super) fn repair(loaded: &Loaded, handles: &MapHandles, pins: &Pins) -> Result<GuardRepair, GuardError> {
    pin(loaded, pins)?;
    // Filters and records before devices: whoever has one then has, or had, a device.
    let (places, records) = (places()?, records(handles)?);
    let mut repair = GuardRepair::default();
    repair.sweep(&places, &records, handles)?;
    for (index, record) in &records {
        if !repair.gone.contains(index) {
            repair.device(*index, record, &places, |place| attach(place, loaded));
        }
    }
    let unknown = places.iter().map(|place| place.index).filter(|index| !records.contains_key(index));
    repair.without_record = unknown.filter(|index| !repair.gone.contains(index)).collect();
    Ok(repair)
}

/// See [`super::DataPlane::restore_endpoint`].
pub(super) fn restore(handles: &MapHandles, index: u32, value: &EndpointValue) -> Result<(), ApplyError> {
    /// `BPF_NOEXIST`.
    const ABSENT: u64 = 1;
    let mut map: Records = handles.typed(names::ENDPOINTS)?;
    match map.insert(index, value, ABSENT).map_err(io_error) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("write to")(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

impl GuardRepair {
    /// Removes the records of devices that are gone; filters go with their devices.
    fn sweep(
        &mut self,
        places: &BTreeSet<Place>,
        records: &BTreeMap<u32, EndpointValue>,
        handles: &MapHandles,
    ) -> Result<(), GuardError> {
        let known: BTreeSet<u32> =
            places.iter().map(|place| place.index).chain(records.keys().copied()).collect();
        self.gone = known.into_iter().filter(|index| is_gone(*index)).collect();
        let mut map: Records = handles.typed(names::ENDPOINTS)?;
        for index in self.gone.iter().filter(|index| records.contains_key(index)) {
            match map.remove(index).map_err(io_error) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove from")(error).into());
                }
                Ok(()) | Err(_) => {}
            }
        }
        Ok(())
    }

    /// Both sides of one device; only a pod with a limit in that direction needs the way in guarded.
    fn device(
        &mut self,
        index: u32,
        record: &EndpointValue,
        places: &BTreeSet<Place>,
        attach: impl Fn(Place) -> Result<LinkAction, DeviceError>,
    ) {
        for side in Side::ALL {
            let place = Place { index, side, layer: Layer::Guard };
            if side == Side::Egress && record.to_rate == 0 && !places.contains(&place) {
                continue;
            }
            match attach(place) {
                Ok(LinkAction::Updated) => {}
                Ok(LinkAction::Created | LinkAction::Replaced) => _ = self.attached.insert(index),
                // Deleted meanwhile: the next repair removes the record.
                Err(error) if error.is_device_gone() => return,
                Err(error) => {
                    self.failed.insert(index, error);
                    return;
                }
            }
        }
        self.guarded.insert(index);
    }
}

/// Pins a program unless it is the one that is pinned.
fn pin_program(loaded: &Loaded, pins: &Pins, side: Side) -> Result<(), GuardError> {
    let name = program_name(side);
    let pin = pins.program(name);
    pins::keep_pinned(loaded.program(name)?, &pin).map_err(|source| GuardError::Pin { pin, source })
}

fn attach(place: Place, loaded: &Loaded) -> Result<LinkAction, DeviceError> {
    let name = program_name(place.side);
    clsact::attach(name, loaded.program(name)?, place)
}

/// Where guards are.
fn places() -> Result<BTreeSet<Place>, DeviceError> {
    Ok(clsact::places()?.into_iter().filter(|place| place.layer == Layer::Guard).collect())
}

fn records(handles: &MapHandles) -> Result<BTreeMap<u32, EndpointValue>, ApplyError> {
    let mut records = BTreeMap::new();
    handles.for_each(names::ENDPOINTS, |index: u32, value: EndpointValue| {
        records.insert(index, value);
    })?;
    Ok(records)
}

/// Whether this network namespace has no such device. Indexes are not given again soon. Any other failure says nothing:
/// a pod that lives must not lose its guard because descriptors are short.
fn is_gone(index: u32) -> bool {
    Errno::clear();
    let errno = match if_indextoname(index) {
        Ok(name) if !name.is_empty() => return false,
        // nix 0.31 does not see that the call failed.
        Ok(_) => Errno::last(),
        Err(errno) => errno,
    };
    matches!(errno, Errno::ENXIO | Errno::ENODEV)
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> ApplyError {
    move |source| ApplyError::Kernel { action, map: names::ENDPOINTS, source }
}
