//! Whatever claims frontends: a Service, or a pod with host ports. Both live under one kind of name and in one form of
//! result.
//!
//! Must not know who wins a frontend.

use super::{
    host_port::{self, desired_host_ports},
    node::NodeView,
    service::{self, desired_service},
    types::{DesiredService, Frontend, Warning},
};
use crate::model::{HostPortsObject, ObjectName, ServiceObject, Store};

/// A claimant of frontends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subject<'a> {
    Service(&'a ServiceObject),
    HostPorts(&'a HostPortsObject),
}

impl<'a> Subject<'a> {
    /// The one of this name.
    pub(super) fn find(store: &'a Store, name: &ObjectName) -> Option<Self> {
        let service = store.service(name).map(Self::Service);
        service.or_else(|| store.host_ports_of(name).map(Self::HostPorts))
    }

    /// All of them.
    pub(super) fn all(store: &'a Store) -> impl Iterator<Item = Self> {
        store.services().map(Self::Service).chain(store.host_ports().map(Self::HostPorts))
    }

    pub(super) fn name(self) -> &'a ObjectName {
        match self {
            Self::Service(service) => &service.name,
            Self::HostPorts(object) => &object.name,
        }
    }

    /// Seconds since 1970; `None` counts as the newest.
    pub(super) fn created(self) -> Option<i64> {
        match self {
            Self::Service(service) => service.created,
            Self::HostPorts(object) => Some(object.created),
        }
    }

    /// What it would get if it were alone.
    pub(super) fn alone(self, store: &Store, node: &NodeView) -> DesiredService {
        match self {
            Self::Service(service) => desired_service(service, store.slices_of(&service.name), node),
            Self::HostPorts(object) => desired_host_ports(object, node),
        }
    }

    /// The warning for a frontend of its port `port_name` that `owner` has.
    pub(super) fn conflict(self, port_name: &str, frontend: &Frontend, owner: &str) -> Warning {
        match self {
            Self::Service(service) => service::conflict(service, port_name, frontend, owner),
            Self::HostPorts(object) => host_port::conflict(object, &frontend.key, owner),
        }
    }

    /// For a warning: `Service shop/cart`, `Pod shop/cart-0`.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Service(service) => format!("Service {}", service.name),
            Self::HostPorts(object) => format!("Pod {}", object.pod),
        }
    }
}
