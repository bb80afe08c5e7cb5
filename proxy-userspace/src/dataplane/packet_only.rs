//! The map `packet_only`: network namespaces whose sockets are not translated, so that their packets are.
//!
//! Works on the pinned map, with or without an agent. Must not know who is in a namespace.

use std::{io, path::Path};

use aya::maps::{HashMap, Map, MapData, MapError};
use proxy_common::names::{self, PACKET_ONLY_MAX};
use thiserror::Error;

use super::{
    ApplyError, Capacities, InspectError,
    definition::MapDefinition,
    handles::io_error,
    load::OBJECT,
    pins::{self, Pins},
    sys::Access,
};

/// What an entry holds: that it exists is what counts.
const LISTED: u8 = 1;

/// Why a namespace could not be switched.
#[derive(Debug, Error)]
pub enum SwitchError {
    /// No room.
    #[error(
        "{PACKET_ONLY_MAX} network namespaces are switched off already, as many as fit: switch on those that are \
         gone (see `sheave socket-lb list`)"
    )]
    Full,
    /// The map.
    #[error(transparent)]
    Map(#[from] ApplyError),
}

/// The switch between sockets and packets, by network namespace.
pub struct PacketOnly(HashMap<MapData, u64, u8>);

impl PacketOnly {
    /// Opens what is pinned under `pin_dir`. Needs the same rights as the agent.
    ///
    /// # Errors
    /// Nothing of this version is pinned there, or it cannot be opened.
    pub fn open(pin_dir: &Path) -> Result<Self, InspectError> {
        let pins = Pins::new(pin_dir);
        let definitions = MapDefinition::all(OBJECT, &Capacities::default())?;
        let nothing = || InspectError::Nothing(pin_dir.display().to_string());
        let definition = definitions.iter().find(|map| map.name == names::PACKET_ONLY).ok_or_else(nothing)?;
        let failed = |source| InspectError::from(super::ReadError::from(failed("open")(source)));
        match pins::open_map(&pins.map(definition), Access::Full) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(nothing()),
            Err(error) => Err(failed(error)),
            Ok((map, _)) => MapData::from_fd(map)
                .and_then(Map::from_map_data)
                .and_then(HashMap::try_from)
                .map(Self)
                .map_err(|error| failed(io_error(error))),
        }
    }

    /// The cookies of the namespaces whose sockets are not translated, in order.
    ///
    /// # Errors
    /// The map could not be read.
    pub fn list(&self) -> Result<Vec<u64>, ApplyError> {
        let mut cookies = self
            .0
            .keys()
            .collect::<Result<Vec<u64>, MapError>>()
            .map_err(|it| failed("read")(io_error(it)))?;
        cookies.sort_unstable();
        Ok(cookies)
    }

    /// From now on the namespace's sockets are translated when they connect or send, or their packets are. Connected
    /// sockets stay as they are.
    ///
    /// # Errors
    /// The map could not be written; it holds a limited number of namespaces.
    pub fn translate_sockets(&mut self, cookie: u64, translate: bool) -> Result<(), SwitchError> {
        if translate {
            return match self.0.remove(&cookie).map_err(io_error) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("remove from")(error).into())
                }
                Ok(()) | Err(_) => Ok(()),
            };
        }
        self.0.insert(cookie, LISTED, 0).map_err(io_error).map_err(|error| match error.raw_os_error() {
            Some(libc::E2BIG) => SwitchError::Full,
            _ => failed("write to")(error).into(),
        })
    }
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> ApplyError {
    move |source| ApplyError::Kernel { action, map: names::PACKET_ONLY, source }
}
