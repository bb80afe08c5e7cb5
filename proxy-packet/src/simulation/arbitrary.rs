//! Random packets for property tests.
//!
//! Must not know what they are tested for.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    vec::Vec,
};

use proptest::prelude::*;
use proxy_common::{Ipv4Be, Ipv6Be};

use super::{Extension, Frame};

/// What a random packet is made of, so that it can be made again with other ends.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    pub(crate) numbers: (u32, u32),
    pub(crate) payload: Vec<u8>,
    pub(crate) options: Vec<u8>,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) padding: usize,
    pub(crate) udp_sum: bool,
}

impl Sample {
    /// The packet between two ends. ICMP is an echo request, whose identifier is the source port.
    pub(crate) fn between(&self, source: SocketAddr, destination: SocketAddr) -> Frame {
        let frame = match self.protocol {
            6 => Frame::tcp(source, destination, self.flags, self.numbers, &self.payload)
                .tcp_options(&self.options),
            17 => Frame::udp(source, destination, &self.payload),
            132 => Frame::sctp(source, destination, &self.payload),
            _ => {
                let kind = if source.is_ipv4() { (8, 0) } else { (128, 0) };
                let rest = u32::from(source.port()) << 16 | 7;
                Frame::icmp(source.ip(), destination.ip(), kind, rest, &self.payload)
            }
        };
        let frame = frame.padding(self.padding).options(&self.options);
        let frame = if self.udp_sum || source.is_ipv6() { frame } else { frame.without_udp_sum() };
        self.extensions.iter().fold(frame, |frame, extension| frame.extension(*extension))
    }
}

/// Any packet of these protocols.
pub(crate) fn sample(protocols: &'static [u8], longest: usize) -> impl Strategy<Value = Sample> {
    let words = prop::collection::vec(any::<u8>(), 0..10).prop_map(|bytes| bytes.repeat(4));
    let payload = prop::collection::vec(any::<u8>(), 0..longest);
    let rest = (words, prop::collection::vec(extension(), 0..4), 0..9_usize, any::<bool>());
    (prop::sample::select(protocols), any::<u8>(), any::<(u32, u32)>(), payload, rest).prop_map(
        |(protocol, flags, numbers, payload, (options, extensions, padding, udp_sum))| Sample {
            protocol,
            flags,
            numbers,
            payload,
            options,
            extensions,
            padding,
            udp_sum,
        },
    )
}

fn extension() -> impl Strategy<Value = Extension> {
    prop_oneof![
        (0..3_u8).prop_map(Extension::HopByHop),
        (0..3_u8).prop_map(Extension::DestinationOptions),
        Just(Extension::Routing(0)),
        Just(Extension::Authentication),
    ]
}

/// Four ends of the same family, of single hosts and not loopback.
pub(crate) fn ends() -> impl Strategy<Value = [SocketAddr; 4]> {
    any::<bool>().prop_flat_map(|four| prop::array::uniform4(end(four)))
}

fn end(four: bool) -> impl Strategy<Value = SocketAddr> {
    (any::<[u8; 16]>(), any::<u16>()).prop_map(move |(mut bytes, port)| {
        bytes[0] = bytes[0] % 100 + 1;
        let [a, b, c, d, ..] = bytes;
        let ip = if four { IpAddr::from([a, b, c, d]) } else { IpAddr::from(bytes) };
        SocketAddr::new(ip, port)
    })
}

/// An address of either family as the packet path has it.
pub(crate) trait FromIp {
    fn from_ip(ip: IpAddr) -> Self;
}

impl FromIp for Ipv4Be {
    fn from_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => ip.into(),
            IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED.into(),
        }
    }
}

impl FromIp for Ipv6Be {
    fn from_ip(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V6(ip) => ip.into(),
            IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED.into(),
        }
    }
}
