//! The settings of the packet path, from texts to what the data plane takes.
//!
//! Must not know how a packet is treated.

use std::{fmt::Display, str::FromStr, time::Duration};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use proxy_common::{Ipv4Be, Ipv6Be, PacketSettings, SocketLb};

use super::{ConfigError, PortRange, parse::Reader};
use crate::{
    dataplane::Masquerade,
    devices::{Pattern, Selection},
};

/// Longest time-out: a year, so that no difference of times overflows.
const LONGEST: u32 = 31_536_000;

/// Longest wait, milliseconds: what `fq` itself keeps a packet at most (its `horizon`).
const LONGEST_PACING: u32 = 10_000;

/// What the packet path is told, and what it must not collide with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketConfig {
    /// Which devices get programs.
    pub selection: Selection,
    /// Whose sockets are translated at the socket.
    pub socket_lb: SocketLb,
    /// Constants of the programs.
    pub settings: PacketSettings,
    /// How long a packet that a pod sends beyond its limit may be delayed instead of dropped; `None`: as the queues of the
    /// node's devices allow.
    pub pacing: Option<Duration>,
    /// Prefixes of egress masquerade, as far as they are configured.
    pub masquerade: Masquerade,
    /// Ports for source addresses that are the node's.
    pub snat_ports: PortRange,
    /// Ports that the API server gives to Services.
    pub node_port_range: PortRange,
}

impl Reader<'_> {
    pub(super) fn packet(&self) -> Result<PacketConfig, ConfigError> {
        let socket_lb = self.checked("socket-lb", socket_lb)?;
        let selection = Selection {
            node: self.checked("devices", list::<Pattern>)?,
            pod: self.checked("pod-devices", pod_devices)?,
            with_loopback: socket_lb == SocketLb::Off,
        };
        let (snat_ports, node_port_range) = self.ports()?;
        let settings = self.packet_settings(snat_ports)?;
        let pacing = self.pacing()?;
        let masquerade = Masquerade {
            pods: self.checked("cluster-cidr", list::<IpNetwork>)?,
            exempt: self.checked("non-masquerade-cidrs", list::<IpNetwork>)?,
        };
        Ok(PacketConfig { selection, socket_lb, settings, pacing, masquerade, snat_ports, node_port_range })
    }

    fn pacing(&self) -> Result<Option<Duration>, ConfigError> {
        self.checked("pod-pacing", |text| match text.trim() {
            "auto" => Ok(None),
            text => match text.parse::<u32>() {
                Ok(milliseconds) if milliseconds <= LONGEST_PACING => {
                    Ok(Some(Duration::from_millis(milliseconds.into())))
                }
                _ => Err(format!("expected `auto` or a number from 0 to {LONGEST_PACING}")),
            },
        })
    }

    fn masquerades(&self) -> Result<bool, ConfigError> {
        if self.text("masquerade").as_deref() == Some("auto") {
            return self.checked("pod-network", yes_or_no);
        }
        self.checked("masquerade", |text| yes_or_no(text).map_err(|_| "expected `auto`, `true` or `false`"))
    }

    fn ports(&self) -> Result<(PortRange, PortRange), ConfigError> {
        let (snat, nodes): (PortRange, PortRange) =
            (self.parsed("snat-ports")?, self.parsed("node-port-range")?);
        if snat.overlaps(nodes) {
            return Err(ConfigError::Overlap {
                snat,
                snat_origin: self.origin("snat-ports"),
                node_ports: nodes,
                node_ports_origin: self.origin("node-port-range"),
            });
        }
        Ok((snat, nodes))
    }

    fn packet_settings(&self, snat: PortRange) -> Result<PacketSettings, ConfigError> {
        let time_out = |name| self.number(name, 1..=LONGEST);
        let settings = PacketSettings {
            masquerade_all: self.checked("masquerade-all", yes_or_no)?.into(),
            masquerade: self.masquerades()?.into(),
            shortcut: self.checked("pod-shortcut", yes_or_no)?.into(),
            tunnel_port: self.tunnel_port()?.into(),
            source_port_first: snat.first.into(),
            source_port_count: snat.count(),
            tcp_new_s: time_out("tcp-syn-timeout")?,
            tcp_established_s: time_out("tcp-established-timeout")?,
            tcp_half_closed_s: time_out("tcp-close-wait-timeout")?,
            datagram_new_s: time_out("udp-timeout")?,
            datagram_s: time_out("udp-stream-timeout")?,
            ..PacketSettings::DEFAULT
        };
        let networks = self.checked("cluster-cidr", list::<IpNetwork>)?;
        self.checked("cluster-cidr", |_| networks.iter().try_fold(settings, inside))
    }
}

/// Texts with commas between; none for an empty text.
pub(super) fn list<T: FromStr<Err: Display>>(text: &str) -> Result<Vec<T>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    text.split(',').map(|part| part.trim().parse().map_err(|error| format!("`{part}`: {error}"))).collect()
}

fn pod_devices(text: &str) -> Result<Vec<Pattern>, String> {
    if text.trim() == "auto" { Ok(Vec::new()) } else { list(text) }
}

fn socket_lb(text: &str) -> Result<SocketLb, &'static str> {
    match text {
        "all" => Ok(SocketLb::All),
        "host" => Ok(SocketLb::Host),
        "off" => Ok(SocketLb::Off),
        _ => Err("expected `all`, `host` or `off`"),
    }
}

pub(super) fn yes_or_no(text: &str) -> Result<bool, &'static str> {
    text.parse().map_err(|_| "expected `true` or `false`")
}

/// Adds a prefix whose addresses are inside the cluster.
fn inside(settings: PacketSettings, network: &IpNetwork) -> Result<PacketSettings, &'static str> {
    const TWO: &str = "expected at most one prefix of each family";
    match network {
        IpNetwork::V4(_) if settings.inside4_set != 0 => Err(TWO),
        IpNetwork::V6(_) if settings.inside6_set != 0 => Err(TWO),
        IpNetwork::V4(network) => Ok(inside4(settings, *network)),
        IpNetwork::V6(network) => Ok(inside6(settings, *network)),
    }
}

fn inside4(settings: PacketSettings, network: Ipv4Network) -> PacketSettings {
    PacketSettings {
        inside4: Ipv4Be::from(network.network()).network_bits(),
        inside4_mask: Ipv4Be::from(network.mask()).network_bits(),
        inside4_set: 1,
        ..settings
    }
}

fn inside6(settings: PacketSettings, network: Ipv6Network) -> PacketSettings {
    PacketSettings {
        inside6: Ipv6Be::from(network.network()).network_words(),
        inside6_mask: Ipv6Be::from(network.mask()).network_words(),
        inside6_set: 1,
        ..settings
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_told_in_network_byte_order_without_host_bits() {
        let networks: Vec<IpNetwork> = list("10.244.1.2/16, fd00:10:244::1/56").unwrap();
        let settings = networks.iter().try_fold(PacketSettings::DEFAULT, inside).unwrap();
        assert_eq!(settings.inside4.to_ne_bytes(), [10, 244, 0, 0]);
        assert_eq!(settings.inside4_mask.to_ne_bytes(), [255, 255, 0, 0]);
        assert_eq!(settings.inside6[0].to_ne_bytes(), [0xfd, 0, 0, 0x10]);
        assert_eq!(settings.inside6_mask[1].to_ne_bytes(), [255, 255, 255, 0]);
        assert_eq!((settings.inside4_set, settings.inside6_set), (1, 1));
    }

    #[test]
    fn a_list_is_what_is_between_commas() {
        assert_eq!(list::<Pattern>("").unwrap(), []);
        assert_eq!(list::<Pattern>("eth*, bond0").unwrap().len(), 2);
        assert!(list::<Pattern>("eth0,").is_err());
        assert_eq!(pod_devices("auto").unwrap(), []);
    }
}
