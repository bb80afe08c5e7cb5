//! Questions to the shadow: what a frontend offers in the kernel just now.
//!
//! Must not change anything, nor know who asks.

use std::{collections::BTreeSet, net::SocketAddr};

use proxy_common::{BackendId, Protocol, Scope, ServiceValue};

use super::{Planner, ServiceOp, commit::length, records::Realised};
use crate::entries::{BackendKey, RecordKey, RecordKind};

impl Planner {
    /// Whether the kernel offers `backend` to clients inside the cluster that use `frontend`: to new flows, or to those
    /// that have it. Cost is proportional to the frontend's backends.
    pub fn offers(&self, frontend: SocketAddr, protocol: Protocol, backend: SocketAddr) -> bool {
        let key = RecordKey {
            address: frontend.ip(),
            port: frontend.port(),
            protocol: protocol as u8,
            scope: Scope::Internal as u8,
        };
        let Realised::Whole(value) = self.records.realised(&key) else { return false };
        let table = self.backends.get(key.family());
        let is_it = |held: BackendKey| {
            (held.address, held.port, held.protocol) == (backend.ip(), backend.port(), protocol as u8)
        };
        self.offered(&value).iter().any(|id| table.key(*id).is_some_and(is_it))
    }

    /// Whether a write, before it is committed, takes a frontend a backend that flows may have: it deletes a record, or
    /// puts one that no longer lists everything the one before listed.
    pub fn takes_away(&self, op: &ServiceOp) -> bool {
        let key = op.key();
        let before = match self.records.realised(&key) {
            Realised::Whole(before) if key.kind() == RecordKind::Frontend => before,
            Realised::Whole(_) | Realised::Torn | Realised::Absent => return false,
        };
        let now: BTreeSet<BackendId> =
            op.value().map(|value| self.offered(value).iter().copied().collect()).unwrap_or_default();
        self.offered(&before).iter().any(|id| !now.contains(id))
    }

    fn offered(&self, value: &ServiceValue) -> &[BackendId] {
        length(value).and_then(|length| self.ring.contents(value.ring_base, length)).unwrap_or_default()
    }
}
