//! Removing flows from the connection table: of pods that are gone, before somebody else has their addresses.
//!
//! The programs go on working on the table meanwhile. Must not know which pods are gone.

use std::{collections::BTreeSet, io, net::IpAddr};

use aya::{
    Pod,
    maps::{Array, HashMap, MapData, MapError},
};
use proxy_common::{FlowKey, FlowPlace, FlowValue, Ipv4Be, Ipv6Be, PacketSettings};

use super::{
    ApplyError,
    flows::{self, Clock, Flow, Shown},
    handles::{MapHandles, io_error},
};

/// The connection table, to remove flows from it.
#[derive(Clone, Debug)]
pub struct FlowTable {
    handles: MapHandles,
    /// With the time-outs that tell which flows are over.
    settings: PacketSettings,
}

impl FlowTable {
    pub(super) fn new(handles: MapHandles, settings: PacketSettings) -> Self {
        Self { handles, settings }
    }

    /// Removes the flows for which `is_over`, of those with an end for which `is_suspect`: the client's or the backend's
    /// address. Returns how many. Reads the keys of all flows and the records of the suspects.
    ///
    /// # Errors
    /// A map could not be read or written; some flows may be removed.
    pub fn forget(
        &self,
        is_suspect: impl Fn(IpAddr) -> bool,
        mut is_over: impl FnMut(&Flow) -> bool,
    ) -> Result<usize, ApplyError> {
        let (handles, clock) = (&self.handles, Clock::new(self.settings));
        let v4 = Family::<Ipv4Be>::open(handles, clock)?.forget(handles, &is_suspect, &mut is_over)?;
        let v6 = Family::<Ipv6Be>::open(handles, clock)?.forget(handles, &is_suspect, &mut is_over)?;
        Ok(v4 + v6)
    }
}

/// The maps of one family.
struct Family<A: Shown>
where
    FlowKey<A>: Pod,
    FlowValue<A>: Pod,
{
    keys: HashMap<MapData, FlowKey<A>, FlowPlace>,
    flows: Array<MapData, FlowValue<A>>,
    clock: Clock,
}

impl<A: Shown> Family<A>
where
    FlowKey<A>: Pod,
    FlowValue<A>: Pod,
{
    fn open(handles: &MapHandles, clock: Clock) -> Result<Self, ApplyError> {
        Ok(Self { keys: handles.typed(A::KEYS)?, flows: handles.typed(A::FLOWS)?, clock })
    }

    fn forget(
        mut self,
        handles: &MapHandles,
        is_suspect: &impl Fn(IpAddr) -> bool,
        is_over: &mut impl FnMut(&Flow) -> bool,
    ) -> Result<usize, ApplyError> {
        // The source of the forward key is the client, that of the reply key the backend.
        let mut suspects = BTreeSet::new();
        handles.for_each(A::KEYS, |key: FlowKey<A>, place: FlowPlace| {
            if is_suspect(key.source.into()) {
                suspects.insert((place.slot, place.serial));
            }
        })?;
        let mut removed = 0;
        for (slot, serial) in suspects {
            removed += usize::from(self.forget_one(FlowPlace { slot, serial }, is_over)?);
        }
        Ok(removed)
    }

    /// As the programs give a flow up (`retire` in proxy-packet/src/flow.rs): keys first, then the place.
    fn forget_one(
        &mut self,
        place: FlowPlace,
        is_over: &mut impl FnMut(&Flow) -> bool,
    ) -> Result<bool, ApplyError> {
        let Some(value) = self.occupant(place)? else { return Ok(false) };
        if !flows::flow(&value, self.clock).is_some_and(|flow| is_over(&flow)) {
            return Ok(false);
        }
        self.forget_key(&value.forward_key(), place)?;
        self.forget_key(&value.reply_key(), place)?;
        // The programs may have given the place to another flow meanwhile.
        if self.occupant(place)?.is_some() {
            self.flows
                .set(place.slot, FlowValue::FREE, 0)
                .map_err(io_error)
                .map_err(failed("write to", A::FLOWS))?;
        }
        Ok(true)
    }

    /// The record at a place, unless it is another flow's by now.
    fn occupant(&self, place: FlowPlace) -> Result<Option<FlowValue<A>>, ApplyError> {
        let value = self.flows.get(&place.slot, 0).map_err(io_error).map_err(failed("read", A::FLOWS))?;
        Ok((value.serial == place.serial).then_some(value))
    }

    /// Removes a key unless it leads to another flow by now.
    fn forget_key(&mut self, key: &FlowKey<A>, place: FlowPlace) -> Result<(), ApplyError> {
        let found = absent(self.keys.get(key, 0)).map_err(failed("read", A::KEYS))?;
        if found == Some(place) {
            absent(self.keys.remove(key)).map_err(failed("remove from", A::KEYS))?;
        }
        Ok(())
    }
}

/// `None` if there is no such element.
fn absent<T>(result: Result<T, MapError>) -> Result<Option<T>, io::Error> {
    match result.map_err(io_error) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn failed(action: &'static str, map: &'static str) -> impl Fn(io::Error) -> ApplyError {
    move |source| ApplyError::Kernel { action, map, source }
}
