//! What the reconciler needs of a set of maps: perform one write, read everything, wait until readers are gone.
//!
//! Must not know whether the maps are in the kernel.

use std::{collections::BTreeSet, fmt, io};

use proxy_core::diff::{MapOp, RealisedDump};
use thiserror::Error;

/// The service maps, as the reconciler sees them.
pub trait LbMaps {
    /// Performs one write. Writes are visible to readers in the order of the calls.
    ///
    /// # Errors
    /// The write did not happen. [`ApplyError::Full`] and [`ApplyError::OutOfRange`] last until something else is
    /// removed or the capacity is raised; the rest may be tried again.
    fn apply(&mut self, op: &MapOp) -> Result<(), ApplyError>;

    /// Reads everything the maps hold.
    ///
    /// # Errors
    /// A map could not be read.
    fn dump(&self) -> Result<RealisedDump, ApplyError>;

    /// Forgets which backends clients used last of Services whose id is not `in_use`, so that a new Service that gets
    /// such an id does not inherit another's clients. Returns how many entries that were.
    ///
    /// # Errors
    /// Not all are forgotten; it may be tried again.
    fn forget_clients(&mut self, in_use: &BTreeSet<u32>) -> Result<usize, ApplyError>;

    /// Blocks until every reader that started before the call has finished, so that what the last writes made
    /// unreachable may be reused.
    fn wait_grace(&self);
}

/// Which map, with what a person needs to make it larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapLimit {
    /// Name of the map.
    pub map: &'static str,
    /// How many of `unit` it holds.
    pub capacity: u32,
    /// What it holds.
    pub unit: &'static str,
    /// The agent's option that sets the capacity.
    pub option: &'static str,
}

impl fmt::Display for MapLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { map, capacity, unit, option } = self;
        write!(f, "map {map} is full ({capacity} {unit}): raise {option}")
    }
}

/// Why a write or a reading failed.
#[derive(Debug, Error)]
pub enum ApplyError {
    /// No room.
    #[error("{0}")]
    Full(MapLimit),
    /// A position beyond the end of an array: the planner was told another capacity than the map has.
    #[error("position {position} does not exist in map {map}, which has {capacity} positions")]
    OutOfRange {
        /// Name of the map.
        map: &'static str,
        /// The first position that does not exist.
        position: u64,
        /// How many exist.
        capacity: u64,
    },
    /// The kernel has no memory left for the entry.
    #[error(
        "the kernel has no memory for an entry of map {map}: raise the memory limit of the agent's cgroup"
    )]
    NoMemory {
        /// Name of the map.
        map: &'static str,
    },
    /// The kernel refused.
    #[error("cannot {action} map {map}")]
    Kernel {
        /// What was tried.
        action: &'static str,
        /// Name of the map.
        map: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}
