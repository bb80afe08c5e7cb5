//! What is remembered of an attachment: one interface of one container.
//!
//! Written by the plugin, read by the plugin and the agent. Must not know where it is kept.

use std::{fmt, net::IpAddr, path::PathBuf};

use proxy_common::fnv1a;
use serde::{Deserialize, Serialize};

/// What every host device of ours is called at the beginning; then 12 hexadecimal digits of [`AttachmentId::hash`].
pub const HOST_DEVICE_PREFIX: &str = "shv";

/// Who an attachment belongs to: the only key, never the pod's name (names are used again while the old pod ends).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentId {
    /// `CNI_CONTAINERID`.
    pub container_id: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
}

impl AttachmentId {
    /// FNV-1a over both parts, a zero byte between: names files, the host device and MAC addresses.
    pub fn hash(&self) -> u64 {
        fnv1a(self.container_id.bytes().chain([0]).chain(self.ifname.bytes()))
    }

    /// Name of the device in the host's namespace, 15 letters.
    pub fn host_device(&self) -> String {
        format!("{HOST_DEVICE_PREFIX}{:012x}", self.hash() & 0xffff_ffff_ffff)
    }

    /// MAC address of the host's end: locally administered, unicast.
    pub fn host_mac(&self) -> Mac {
        self.mac(0x0a)
    }

    /// MAC address of the pod's end where nobody asks for another.
    pub fn pod_mac(&self) -> Mac {
        self.mac(0x0e)
    }

    fn mac(&self, first: u8) -> Mac {
        let hash = self.hash();
        let byte = |number: u32| u8::try_from(hash >> (8 * number) & 0xff).unwrap_or_default();
        Mac([first, byte(4), byte(3), byte(2), byte(1), byte(0)])
    }
}

impl fmt::Display for AttachmentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of container {}", self.ifname, self.container_id)
    }
}

/// An Ethernet address; as text `0a:00:...`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

impl std::str::FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || format!("`{text}` is not an Ethernet address such as 0a:11:22:33:44:55");
        let parts: Result<Vec<u8>, _> =
            text.split([':', '-']).map(|part| u8::from_str_radix(part, 16)).collect();
        parts.ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(wrong)
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Which network namespace: device and inode of its file are used again after its end, the cookie never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    /// Device of the namespace file.
    pub device: u64,
    /// Its inode.
    pub inode: u64,
    /// `SO_NETNS_COOKIE`.
    pub cookie: u64,
}

/// The pod, as the runtime told; for people only.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PodRef {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: String,
    /// `K8S_POD_NAME`.
    pub name: String,
    /// `K8S_POD_UID`; empty if not told.
    pub uid: String,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// A port of the host that leads to the pod (`runtimeConfig.portMappings`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// On the host.
    pub host_port: u16,
    /// In the pod.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Which address of the host; `None`: all, loopback included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
}

impl PortMapping {
    /// Whether two mappings want the same port of the same address.
    pub fn collides_with(&self, other: &Self) -> bool {
        let same_host = match (self.host_ip, other.host_ip) {
            (Some(mine), Some(theirs)) => mine == theirs,
            _ => true,
        };
        self.host_port == other.host_port && self.protocol == other.protocol && same_host
    }
}

/// A limit of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Bits in a second.
    pub rate: u64,
    /// Bits that may come at once.
    pub burst: u64,
}

/// Limits, seen from the pod (`runtimeConfig.bandwidth`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Bandwidth {
    /// What comes into the pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<Rate>,
    /// What leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<Rate>,
}

/// How far an attachment got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// Addresses and ports are its own; of the wiring anything may exist.
    Reserved,
    /// ADD was answered.
    Wired,
}

/// Whose addresses they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ipam {
    /// Our store's.
    Own,
    /// Another plugin's: its `type`.
    Delegated(String),
}

/// An attachment. What is in it is decided before anything is wired, so that whoever finds it can undo all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    /// Whose.
    #[serde(flatten)]
    pub id: AttachmentId,
    /// `name` of the network configuration.
    pub network: String,
    /// How far.
    pub stage: Stage,
    /// Seconds since 1970 of the reservation.
    pub since: u64,
    /// The pod's namespace.
    pub netns: NetnsId,
    /// Its path then.
    pub netns_path: PathBuf,
    /// At most one address of each family.
    pub addresses: Vec<IpAddr>,
    /// Whose they are.
    pub ipam: Ipam,
    /// Name of the host's end.
    pub host_device: String,
    /// MAC address of the host's end.
    pub host_mac: Mac,
    /// MAC address of the pod's end.
    pub pod_mac: Mac,
    /// MTU of both ends, bytes.
    pub mtu: u32,
    /// Ports of the host.
    #[serde(default)]
    pub ports: Vec<PortMapping>,
    /// Limits.
    #[serde(default)]
    pub bandwidth: Bandwidth,
    /// Its sockets are not translated, its packets are (annotation `sheave.io/socket-lb: "off"`).
    #[serde(default)]
    pub socket_lb_off: bool,
    /// Addresses whose packets leave by a rule and a table of their own, as the pod had a default route before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub by_rule: Vec<IpAddr>,
    /// The pod.
    #[serde(default)]
    pub pod: PodRef,
}

impl Attachment {
    /// One of which nothing is known but whose it is, and what follows from that: names and MAC addresses.
    pub fn of(id: AttachmentId) -> Self {
        Self {
            network: String::new(),
            stage: Stage::Reserved,
            since: 0,
            // The kernel gives no namespace the cookie 0.
            netns: NetnsId { device: 0, inode: 0, cookie: 0 },
            netns_path: PathBuf::new(),
            addresses: Vec::new(),
            ipam: Ipam::Own,
            host_device: id.host_device(),
            host_mac: id.host_mac(),
            pod_mac: id.pod_mac(),
            mtu: 0,
            ports: Vec::new(),
            bandwidth: Bandwidth::default(),
            socket_lb_off: false,
            by_rule: Vec::new(),
            pod: PodRef::default(),
            id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_container_and_differ_by_interface() {
        let id = |ifname: &str| AttachmentId { container_id: "c1".into(), ifname: ifname.into() };
        let (first, second) = (id("eth0"), id("net1"));
        assert_eq!(first.host_device().len(), 15);
        // A DEL after an upgrade must find the devices of before.
        assert_eq!(first.host_device(), "shv02b3bfe94942");
        assert_eq!(first.host_device(), id("eth0").host_device());
        assert_ne!(first.host_device(), second.host_device());
        assert_ne!(first.host_mac(), first.pod_mac());
        assert_eq!(first.pod_mac().0[0] & 0b11, 0b10);
        assert_eq!(first.pod_mac().to_string().parse(), Ok(first.pod_mac()));
    }

    #[test]
    fn ports_collide_unless_their_addresses_are_different_ones() {
        let port = |host_ip: &str, protocol| PortMapping {
            host_port: 80,
            container_port: 8080,
            protocol,
            host_ip: host_ip.parse().ok(),
        };
        let any = port("", Protocol::Tcp);
        assert!(any.collides_with(&port("127.0.0.1", Protocol::Tcp)));
        assert!(!any.collides_with(&port("", Protocol::Udp)));
        assert!(!port("127.0.0.1", Protocol::Tcp).collides_with(&port("192.0.2.1", Protocol::Tcp)));
    }
}
