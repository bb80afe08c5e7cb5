//! A node and its pods, each a network namespace, routed as a CNI plugin routes them, IPv4 and IPv6.
//!
//! Must not know: Services.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Child, Command, Stdio};

use anyhow::Result;

use crate::netns::{Netns, veth};
use crate::server::Server;

/// The node's address, IPv4 (documentation range).
pub const NODE_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The node's address, IPv6 (documentation range).
pub const NODE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);

/// A node with pods.
#[derive(Debug)]
pub struct Lab {
    /// The node's own namespace.
    pub node: Netns,
    pods: u8,
}

/// A pod.
#[derive(Debug)]
pub struct Pod {
    /// Its name, which its servers answer with.
    pub name: String,
    /// Its namespace.
    pub netns: Netns,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    _pause: Pause,
}

/// The process that every pod has and by which its namespace is found, as a runtime's pause container.
#[derive(Debug)]
pub(crate) struct Pause(Child);

impl Pause {
    pub(crate) fn start(netns: &Netns) -> Result<Self> {
        let mut command = Command::new("sleep");
        command.arg("3600").stdin(Stdio::null());
        netns.place(&mut command)?;
        Ok(Self(command.spawn()?))
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        // An error here means that it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Lab {
    /// A node without pods.
    ///
    /// # Errors
    /// Not root, or `ip` is missing.
    pub fn new() -> Result<Self> {
        let node = Netns::new()?;
        node.ip(&format!("addr add {NODE_V4}/32 dev lo"))?;
        node.ip(&format!("addr add {NODE_V6}/128 dev lo nodad"))?;
        node.sysctl("ipv4/ip_forward", "1")?;
        node.sysctl("ipv6/conf/all/forwarding", "1")?;
        Ok(Self { node, pods: 0 })
    }

    /// Adds a pod: a veth pair, /32 and /128 addresses, link-local gateways.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn pod(&mut self, name: &str) -> Result<Pod> {
        self.pods += 1;
        let netns = Netns::new()?;
        let pause = Pause::start(&netns)?;
        let pod = Pod {
            name: name.to_owned(),
            netns,
            v4: Ipv4Addr::new(10, 244, 0, 10 + self.pods),
            v6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0x10 + u16::from(self.pods)),
            _pause: pause,
        };
        let device = format!("pod{}", self.pods);
        veth(&self.node, &device, &pod.netns, "eth0")?;
        self.node.ip(&format!("addr add 169.254.1.1/32 dev {device}"))?;
        self.node.ip(&format!("addr add fe80::1/64 dev {device} nodad"))?;
        self.node.ip(&format!("route add {}/32 dev {device}", pod.v4))?;
        self.node.ip(&format!("route add {}/128 dev {device}", pod.v6))?;
        pod.netns.ip(&format!("addr add {}/32 dev eth0", pod.v4))?;
        pod.netns.ip(&format!("addr add {}/128 dev eth0 nodad", pod.v6))?;
        pod.netns.ip("route add 169.254.1.1 dev eth0 scope link")?;
        pod.netns.ip("route add default via 169.254.1.1 dev eth0")?;
        pod.netns.ip("-6 route add default via fe80::1 dev eth0")?;
        Ok(pod)
    }

    /// Adds a pod that serves `port` on both of its addresses.
    ///
    /// # Errors
    /// As [`Lab::pod`].
    pub fn serving_pod(&mut self, name: &str, port: u16) -> Result<(Pod, Vec<Server>)> {
        let pod = self.pod(name)?;
        let servers = vec![
            Server::start(&pod.netns, name, IpAddr::V4(pod.v4), port)?,
            Server::start(&pod.netns, name, IpAddr::V6(pod.v6), port)?,
        ];
        Ok((pod, servers))
    }
}
