//! Which backends the kernel maps hold, kept up from the writes themselves, to know when one has left for good.
//!
//! A place is cleared only when no Service uses its backend any more and a grace period has passed, so that a cleared
//! place is the proof that no new flow can reach it. Must not know Services.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use proxy_common::{Address, BackendId, BackendValue, Protocol};
use proxy_core::{
    desired::Family,
    diff::{BackendOp, MapOp, RealisedDump},
};

/// Backends by place.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    places: HashMap<(Family, BackendId), (SocketAddr, u8)>,
}

impl Ledger {
    pub(super) fn restore(dump: &RealisedDump) -> Self {
        let v4 = dump.backends4.iter().map(|(id, value)| BackendOp::V4(*id, *value));
        let v6 = dump.backends6.iter().map(|(id, value)| BackendOp::V6(*id, *value));
        let mut ledger = Self::default();
        for op in v4.chain(v6) {
            ledger.write(&op);
        }
        ledger
    }

    /// How many backends there are.
    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// Takes in a write that happened. Returns the UDP backend that left by it.
    pub(super) fn commit(&mut self, op: &MapOp) -> Option<SocketAddr> {
        let MapOp::Backend(op) = op else { return None };
        let (left, protocol) = self.write(op)?;
        (protocol == Protocol::Udp as u8).then_some(left)
    }

    /// Returns what was in the place before, if it is not there any more.
    fn write(&mut self, op: &BackendOp) -> Option<(SocketAddr, u8)> {
        let (place, now) = match op {
            BackendOp::V4(id, value) => {
                ((Family::V4, *id), occupant(value, IpAddr::V4(value.address.into())))
            }
            BackendOp::V6(id, value) => {
                ((Family::V6, *id), occupant(value, IpAddr::V6(value.address.into())))
            }
        };
        let before = match now {
            Some(now) => self.places.insert(place, now),
            None => self.places.remove(&place),
        };
        before.filter(|before| now != Some(*before))
    }
}

/// The backend in a place; `None` if it is free.
fn occupant<A: Address>(value: &BackendValue<A>, address: IpAddr) -> Option<(SocketAddr, u8)> {
    (value.protocol != 0).then_some((SocketAddr::new(address, value.port.to_host()), value.protocol))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proxy_common::PortBe;

    use super::*;

    fn backend(id: BackendId, last: u8, protocol: Protocol) -> MapOp {
        let address = Ipv4Addr::new(10, 244, 0, last).into();
        MapOp::Backend(BackendOp::V4(
            id,
            BackendValue::sealed(id, address, PortBe::from_host(53), protocol as u8),
        ))
    }

    fn clear(id: BackendId) -> MapOp {
        MapOp::Backend(BackendOp::V4(id, BackendValue::FREE))
    }

    #[test]
    fn only_a_udp_backend_whose_place_is_cleared_or_taken_has_left() {
        let mut ledger = Ledger::default();
        for op in [backend(1, 1, Protocol::Udp), backend(2, 2, Protocol::Tcp), backend(3, 3, Protocol::Udp)] {
            assert_eq!(ledger.commit(&op), None);
        }
        assert_eq!(ledger.len(), 3);
        assert_eq!(ledger.commit(&backend(1, 1, Protocol::Udp)), None, "written again as it was");
        assert_eq!(ledger.commit(&clear(1)), Some("10.244.0.1:53".parse().unwrap()));
        assert_eq!(ledger.commit(&clear(1)), None, "already gone");
        assert_eq!(ledger.commit(&clear(2)), None, "TCP");
        assert_eq!(ledger.commit(&backend(3, 9, Protocol::Udp)), Some("10.244.0.3:53".parse().unwrap()));
        assert_eq!(ledger.len(), 1);
    }
}
