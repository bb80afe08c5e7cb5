//! The write order, once.
//!
//! Must not know why something is written.

use std::collections::BTreeMap;

use ipnetwork::IpNetwork;
use proxy_common::{BackendId, ServiceValue};

use super::{BackendOp, MapOp, Refusal, records::AddressWrite};
use crate::entries::RecordKey;

/// What a plan has collected so far.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// New backends.
    pub(super) backends: Vec<BackendOp>,
    /// New ranges of the ring.
    pub(super) rings: Vec<(u32, Vec<BackendId>)>,
    /// Clients to admit.
    pub(super) admitted: Vec<(u32, IpNetwork)>,
    /// Service records to put.
    pub(super) records: BTreeMap<RecordKey, ServiceValue>,
    /// Clients to forget.
    pub(super) dismissed: Vec<(u32, IpNetwork)>,
    /// Services that do not fit, with the service ids of their ports.
    pub(super) refused: Vec<(Refusal, Vec<Option<u32>>)>,
}

impl Draft {
    /// The writes in their order.
    ///
    /// What a record refers to is there before the record: backends, ring, admitted clients, and the address record
    /// that its lookup meets first. The record is the publication. What only old records needed goes last: a client
    /// that finds an address record finds the frontends behind it as well, and is judged by the prefixes it was
    /// published with.
    pub(super) fn into_ops(
        self,
        doomed: impl Iterator<Item = RecordKey>,
        addresses: &[(RecordKey, AddressWrite)],
    ) -> Vec<MapOp> {
        let mut ops: Vec<MapOp> = self.backends.into_iter().map(MapOp::Backend).collect();
        ops.extend(self.rings.into_iter().map(|(base, ids)| MapOp::WriteRing { base, ids }));
        ops.extend(
            self.admitted
                .into_iter()
                .map(|(service_id, network)| MapOp::PutSourceRange { service_id, network }),
        );
        ops.extend(addresses.iter().filter_map(early));
        ops.extend(self.records.into_iter().map(|(key, value)| MapOp::Service(key.write(Some(value)))));
        ops.extend(doomed.map(|key| MapOp::Service(key.write(None))));
        ops.extend(addresses.iter().filter_map(late));
        ops.extend(
            self.dismissed
                .into_iter()
                .map(|(service_id, network)| MapOp::DeleteSourceRange { service_id, network }),
        );
        ops
    }
}

fn early((key, write): &(RecordKey, AddressWrite)) -> Option<MapOp> {
    match write {
        AddressWrite::Add(value) => Some(MapOp::Service(key.write(Some(*value)))),
        AddressWrite::Change(_) | AddressWrite::Delete => None,
    }
}

fn late((key, write): &(RecordKey, AddressWrite)) -> Option<MapOp> {
    match write {
        AddressWrite::Add(_) => None,
        AddressWrite::Change(value) => Some(MapOp::Service(key.write(Some(*value)))),
        AddressWrite::Delete => Some(MapOp::Service(key.write(None))),
    }
}
