//! The `devices` map: what the packet path must know of a network device.
//!
//! Must not know how devices are found.

use crate::addr::{Ipv4Be, Ipv6Be};

/// Key under which `devices` has what holds for every device that it does not name: the node's own addresses.
pub const NODE_DEFAULT: u32 = 0;

shared_struct! {
    /// Value of `devices`; the key is the device's index, or [`NODE_DEFAULT`].
    pub struct DeviceValue {
        /// Source address for packets that leave through this device on behalf of a client elsewhere; unspecified if none.
        pub source4: Ipv4Be,
        /// As `source4`, for IPv6.
        pub source6: Ipv6Be,
        /// 1: the device is the tunnel to other nodes. Their pods answer past it what does not bear its address. Under
        /// [`NODE_DEFAULT`]: the node has a tunnel.
        pub is_tunnel: u32,
    }
}

impl DeviceValue {
    /// No address of either family.
    pub const NONE: Self = Self {
        source4: Ipv4Be::from_network_bits(0),
        source6: Ipv6Be::from_network_words([0; 4]),
        is_tunnel: 0,
    };
}
