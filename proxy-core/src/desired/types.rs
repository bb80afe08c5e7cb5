//! The types of the desired state, and the words `sheave render` and every table print for them.
//!
//! Must not decide anything.

use std::{
    collections::BTreeSet,
    fmt::{Display, Formatter, Result},
    net::{IpAddr, SocketAddr},
};

use ipnetwork::IpNetwork;
use proxy_common::{Protocol, Scope};

use crate::model::ObjectName;

/// Address family. The families of a Service are independent of each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of `address`.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Identity of a ServicePort. The protocol is part of it: TCP and UDP may share a port number and even a name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServicePortName {
    /// The Service.
    pub service: ObjectName,
    /// The port's name; empty for an unnamed port.
    pub port_name: String,
    /// The port's protocol.
    pub protocol: Protocol,
}

/// How a frontend came to be. The order is the precedence when two claim one address and port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FrontendKind {
    /// `spec.clusterIPs`.
    ClusterIp,
    /// `spec.ports[].nodePort` on an address of this node.
    NodePort,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer,
    /// `spec.externalIPs`.
    ExternalIp,
    /// `hostPort` of a pod on this node.
    HostPort,
}

/// What identifies a frontend in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FrontendKey {
    /// Address a client uses.
    pub address: IpAddr,
    /// Port a client uses.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Which clients.
    pub scope: Scope,
}

/// Which of a ServicePort's lists a frontend uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ListKind {
    /// Endpoints anywhere, after topology hints.
    Cluster,
    /// Endpoints on this node.
    Local,
}

/// What a client gets when the list is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum WhenEmpty {
    /// An active refusal.
    Reject,
    /// Silence (an errno at a socket).
    Drop,
}

/// An address and port that clients use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frontend {
    /// Its identity.
    pub key: FrontendKey,
    /// How it came to be.
    pub kind: FrontendKind,
    /// Where its backends are.
    pub list: ListKind,
    /// What happens when there are none.
    pub when_empty: WhenEmpty,
    /// Only clients in the host's network namespace (NodePort on a loopback address).
    pub host_netns_only: bool,
    /// Refuse other ports of this address (true for ClusterIPs: nobody else can own them).
    pub owns_address: bool,
    /// Admitted clients, sorted; empty = all. Only for LoadBalancer frontends (of both scopes, as with kube-proxy);
    /// only of the frontend's family. Where nobody is admitted, because no entry could be read, it is one network
    /// that no client can be in: the all-ones address.
    pub source_ranges: Vec<IpNetwork>,
}

/// An address and port that a client is sent to. A list names each only once, with the one locality that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The endpoint's address.
    pub address: IpAddr,
    /// The endpoint's target port.
    pub port: u16,
    /// It is on this node, as the Service's own slices say: what another Service's slices say is that one's affair.
    pub local: bool,
}

/// The backends of one ServicePort in one family.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct BackendLists {
    /// Chosen from for [`ListKind::Cluster`].
    pub cluster: BTreeSet<Backend>,
    /// Chosen from for [`ListKind::Local`].
    pub local: BTreeSet<Backend>,
    /// Every endpoint that is serving or ready, terminating ones included, whatever policy or topology say: flows that
    /// have one of these keep it. Contains the other two.
    pub keep: BTreeSet<Backend>,
}

/// One port of a Service in one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DesiredServicePort {
    /// Its identity, together with `family`.
    pub name: ServicePortName,
    /// Its family.
    pub family: Family,
    /// Session affinity time-out in seconds; 0 = none.
    pub affinity_seconds: u32,
    /// Its frontends, sorted by key; only those this Service owns.
    pub frontends: Vec<Frontend>,
    /// Its NodePort frontends while nobody has told the node's addresses: `key.address` is the unspecified address and
    /// stands for any. For people to see; never programmed. Otherwise empty.
    pub unbound: Vec<Frontend>,
    /// Its backends.
    pub lists: BackendLists,
}

/// A `healthCheckNodePort` to answer on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    /// Port.
    pub port: u16,
    /// Ready endpoints on this node, counted once per address over all ports; of a dual-stack Service the larger of
    /// the two families' counts, because one pod has an address in each.
    pub local_ready: usize,
}

/// Everything this node should do for one Service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DesiredService {
    /// Sorted by name, then family. Empty for a headless or ExternalName Service.
    pub ports: Vec<DesiredServicePort>,
    /// Present for type LoadBalancer with externalTrafficPolicy Local.
    pub health_check: Option<HealthCheck>,
    /// What was wrong with the Service or its slices.
    pub warnings: Vec<Warning>,
}

/// Something in an object that was ignored or overruled.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Warning {
    /// `Service`, `EndpointSlice`, `Node` or `Pod`.
    pub kind: &'static str,
    /// The object.
    pub object: ObjectName,
    /// The field, as a path such as `spec.ports[1].nodePort`; empty for the object as a whole.
    pub field: String,
    /// Stable identifier, used as the reason of the Kubernetes Event.
    pub reason: WarningReason,
    /// What is wrong and what to do about it, for people.
    pub message: String,
}

/// Kinds of [`Warning`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WarningReason {
    /// A field's text is not what the API allows; it was ignored.
    InvalidField,
    /// An endpoint's address must never be a backend (loopback, link-local, unspecified, multicast).
    InvalidEndpointAddress,
    /// An endpoint's address is of another family than its slice says.
    WrongAddressFamily,
    /// Another Service owns this address, port and protocol.
    AddressConflict,
    /// The Service does not fit into the kernel maps; what it had before stays in force.
    NoRoom,
    /// A pod was refused: every address that pods of the Node may have is some pod's.
    NoPodAddress,
}

impl FrontendKind {
    /// The name as `sheave render` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::NodePort => "NodePort",
            Self::LoadBalancer => "LoadBalancer",
            Self::ExternalIp => "ExternalIP",
            Self::HostPort => "HostPort",
        }
    }
}

impl WhenEmpty {
    /// The name as `sheave render` prints it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Drop => "drop",
        }
    }
}

impl WarningReason {
    /// The name, as the reason of a Kubernetes Event.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidField => "InvalidField",
            Self::InvalidEndpointAddress => "InvalidEndpointAddress",
            Self::WrongAddressFamily => "WrongAddressFamily",
            Self::AddressConflict => "AddressConflict",
            Self::NoRoom => "NoRoom",
            Self::NoPodAddress => "NoPodAddress",
        }
    }
}

impl Display for Family {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

impl Display for FrontendKind {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.as_str())
    }
}

impl Display for WhenEmpty {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.as_str())
    }
}

impl Display for WarningReason {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        f.write_str(self.as_str())
    }
}

impl Display for Backend {
    /// `192.0.2.1:80`, `[2001:db8::1]:80`.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        SocketAddr::new(self.address, self.port).fmt(f)
    }
}

impl Display for Warning {
    /// `Service ns/name: spec.ports[0].port: InvalidField: message`; without the field if there is none.
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        write!(f, "{} {}: ", self.kind, self.object)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "{}: {}", self.reason, self.message)
    }
}
