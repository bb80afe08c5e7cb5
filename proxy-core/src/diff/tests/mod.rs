//! Tests of the planner as a whole, against a kernel in memory and its readers.

mod build;
mod generate;
mod lookup;
mod objects;
mod random;
mod refusals;
mod restarts;
mod single;
mod world;

use super::Capacities;

/// Room for every small test.
const ROOMY: Capacities = Capacities { services: 200, ring: 300, backends: 100, source_ranges: 100 };
