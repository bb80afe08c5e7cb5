//! Which places of the backends arrays are in use, kept up from the writes themselves.
//!
//! Must not know Services.

use std::collections::BTreeSet;

use proxy_common::BackendId;
use proxy_core::{
    desired::Family,
    diff::{BackendOp, MapOp, RealisedDump},
};

/// Places in use.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    places: BTreeSet<(Family, BackendId)>,
}

impl Ledger {
    pub(super) fn restore(dump: &RealisedDump) -> Self {
        let v4 = dump.backends4.iter().map(|(id, value)| BackendOp::V4(*id, *value));
        let v6 = dump.backends6.iter().map(|(id, value)| BackendOp::V6(*id, *value));
        let mut ledger = Self::default();
        v4.chain(v6).for_each(|op| ledger.write(&op));
        ledger
    }

    /// How many backends there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Takes in a write that happened.
    pub(super) fn commit(&mut self, op: &MapOp) {
        if let MapOp::Backend(op) = op {
            self.write(op);
        }
    }

    fn write(&mut self, op: &BackendOp) {
        let place = (op.family(), op.id());
        if op.is_clear() {
            self.places.remove(&place);
        } else {
            self.places.insert(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_common::{BackendValue, PortBe, Protocol};

    use super::*;

    fn backend(id: BackendId, last: u8) -> BackendOp {
        let address = Ipv4Addr::new(10, 244, 0, last).into();
        BackendOp::V4(id, BackendValue::sealed(id, address, PortBe::from_host(53), Protocol::Udp as u8))
    }

    #[test]
    fn a_place_counts_until_it_is_cleared() {
        let mut ledger = Ledger::default();
        for op in [backend(1, 1), backend(2, 2), backend(2, 3)] {
            ledger.commit(&MapOp::Backend(op));
        }
        assert_eq!(ledger.len(), 2);
        ledger.commit(&MapOp::Backend(BackendOp::clear(Family::V4, 1)));
        ledger.commit(&MapOp::Backend(BackendOp::clear(Family::V4, 1)));
        assert_eq!(ledger.len(), 1);
    }
}
