//! How many addresses there are, and the requests for which there was none: for the agent to tell.
//!
//! Must not know who asked.

use std::{
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

use super::{
    files::{Entry, Locked},
    ranges::{Family, Ranges},
};

/// How full one range is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    /// The range.
    pub range: IpNetwork,
    /// Addresses of it that pods may have.
    pub capacity: u128,
    /// Those of them that attachments have.
    pub used: u64,
}

/// Requests that were refused because no address was free, since the node was started.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exhaustion {
    /// How many.
    pub count: u64,
    /// When the last one was, seconds since 1970.
    pub last: u64,
    /// Which ranges had none then.
    pub ranges: Vec<IpNetwork>,
}

pub(super) fn room(entries: &[Entry], range: IpNetwork) -> Room {
    let addresses = Ranges::new(Family::of(range.ip()), &[range]);
    let is_inside = |address: &&IpAddr| addresses.contains(**address);
    let used = entries.iter().flat_map(|entry| &entry.addresses).filter(is_inside).count();
    Room { range, capacity: addresses.capacity(), used: u64::try_from(used).unwrap_or(u64::MAX) }
}

/// Counts one more. What cannot be written is not told: the request has its error.
pub(super) fn note(files: &Locked<'_>, ranges: &[IpNetwork]) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs());
    let known = files.exhaustion().unwrap_or_default();
    let count = known.count.saturating_add(1);
    drop(files.put_exhaustion(&Exhaustion { count, last: now, ranges: ranges.to_vec() }));
}
