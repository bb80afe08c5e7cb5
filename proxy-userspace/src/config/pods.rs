//! The settings of the pod network, from texts to what routing takes.
//!
//! Must not know how a route is made.

use ipnetwork::IpNetwork;
use proxy_core::nodes;

use super::{
    ConfigError,
    packet::{list, yes_or_no},
    parse::Reader,
};

/// The least MTU that IPv6 works with, and the largest of a device.
const MTU: std::ops::RangeInclusive<u32> = 1280..=65_535;

/// What the pod network is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodConfig {
    /// Pods of this node get their network from our plugin.
    pub enabled: bool,
    /// How packets get to pods of other nodes.
    pub routing: nodes::Settings,
}

impl Reader<'_> {
    /// The port that pods must not send to: 0 where no tunnel can be.
    pub(super) fn tunnel_port(&self) -> Result<u16, ConfigError> {
        let tunnels = matches!(self.checked("routing", mode)?, nodes::Mode::Auto | nodes::Mode::Vxlan);
        let own = self.checked("pod-network", yes_or_no)?;
        if own && tunnels { self.checked("vxlan-port", port) } else { Ok(0) }
    }

    pub(super) fn pods(&self, node_name: String) -> Result<PodConfig, ConfigError> {
        Ok(PodConfig {
            enabled: self.checked("pod-network", yes_or_no)?,
            routing: nodes::Settings {
                node_name,
                mode: self.checked("routing", mode)?,
                pod_cidrs: self.checked("pod-cidrs", list::<IpNetwork>)?,
                pod_mtu: self.checked("pod-mtu", pod_mtu)?,
                vni: self.number("vxlan-vni", 1..=0x00ff_ffff)?,
                port: self.checked("vxlan-port", port)?,
            },
        })
    }
}

fn mode(text: &str) -> Result<nodes::Mode, &'static str> {
    match text {
        "auto" => Ok(nodes::Mode::Auto),
        "direct" => Ok(nodes::Mode::Direct),
        "vxlan" => Ok(nodes::Mode::Vxlan),
        "none" => Ok(nodes::Mode::None),
        _ => Err("expected `auto`, `direct`, `vxlan` or `none`"),
    }
}

fn pod_mtu(text: &str) -> Result<Option<u32>, String> {
    if text.trim() == "auto" {
        return Ok(None);
    }
    let number = text.trim().parse().ok().filter(|number| MTU.contains(number));
    number
        .map(Some)
        .ok_or_else(|| format!("expected `auto` or a number from {} to {}", MTU.start(), MTU.end()))
}

fn port(text: &str) -> Result<u16, &'static str> {
    text.trim().parse().ok().filter(|port| *port != 0).ok_or("expected a port from 1 to 65535")
}
