//! Tests of the parser.

use std::{net::SocketAddr, vec, vec::Vec};

use proptest::prelude::*;
use proxy_common::{Ipv4Be, Ipv6Be};

use super::*;
use crate::simulation::{
    Extension, Frame, Simulation,
    arbitrary::{ends, sample},
};

const PROTOCOLS: &[u8] = &[1, 6, 17, 132];

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Both families' ends.
fn pairs() -> [(SocketAddr, SocketAddr); 2] {
    [
        (addr("192.0.2.1:1025"), addr("10.96.0.1:80")),
        (addr("[2001:db8::1]:1025"), addr("[2001:db8:96::1]:80")),
    ]
}

/// What is found, and what does not depend on the family.
fn found(frame: Vec<u8>, segment: u32) -> (Parsed, Headers<Ipv6Be>) {
    let mut simulation = Simulation::new();
    simulation.put(1, frame);
    simulation.segment = segment;
    found_in(&mut simulation, false)
}

fn found_in(simulation: &mut Simulation, quoted: bool) -> (Parsed, Headers<Ipv6Be>) {
    let mut at = 0;
    let family = network(simulation, &mut at);
    found_at(simulation, family, at, quoted)
}

fn found_at(simulation: &mut Simulation, family: u32, at: u32, quoted: bool) -> (Parsed, Headers<Ipv6Be>) {
    if family == 4 {
        let mut headers = Headers::<Ipv4Be>::NONE;
        let parsed = parse(simulation, at, quoted, &mut headers);
        return (parsed, mapped(&headers));
    }
    let mut headers = Headers::NONE;
    let parsed = parse(simulation, at, quoted, &mut headers);
    (parsed, headers)
}

fn mapped(h: &Headers<Ipv4Be>) -> Headers<Ipv6Be> {
    Headers {
        source: h.source.to_mapped(),
        destination: h.destination.to_mapped(),
        l3: h.l3,
        l4: h.l4,
        end: h.end,
        source_port: h.source_port,
        destination_port: h.destination_port,
        sequence: h.sequence,
        acknowledgement: h.acknowledgement,
        identification: h.identification,
        protocol: h.protocol,
        tcp_flags: h.tcp_flags,
        tcp_header: h.tcp_header,
        fragment: h.fragment,
        hop_limit: h.hop_limit,
        icmp_type: h.icmp_type,
        icmp_code: h.icmp_code,
        dont_fragment: h.dont_fragment,
    }
}

/// The address as headers have it after [`mapped`].
fn ip(end: SocketAddr) -> Ipv6Be {
    match end {
        SocketAddr::V4(end) => Ipv4Be::from(*end.ip()).to_mapped(),
        SocketAddr::V6(end) => (*end.ip()).into(),
    }
}

#[test]
fn tcp_gives_its_ports_numbers_and_flags() {
    for (source, destination) in pairs() {
        let frame = Frame::tcp(source, destination, 0x12, (7, 9), b"abc").tcp_options(&[1; 8]);
        let (parsed, headers) = found(frame.hop_limit(3).build(), 0);
        assert_eq!(parsed, Parsed::Ports);
        assert_eq!((headers.source, headers.destination), (ip(source), ip(destination)));
        assert_eq!((headers.source_port.to_host(), headers.destination_port.to_host()), (1025, 80));
        assert_eq!((headers.sequence, headers.acknowledgement), (7, 9));
        assert_eq!((headers.tcp_flags, headers.tcp_header, headers.hop_limit), (0x12, 28, 3));
        assert_eq!(headers.end - headers.l4, 31);
    }
}

#[test]
fn what_has_no_ports_is_told_apart() {
    let (four, six) = (pairs()[0], pairs()[1]);
    let icmp = |(source, destination): (SocketAddr, SocketAddr), kind: u8| {
        Frame::icmp(source.ip(), destination.ip(), (kind, 1), 0, &[0; 40]).build()
    };
    let cases = [
        (icmp(four, 8), Parsed::Echo),
        (icmp(four, 0), Parsed::Echo),
        (icmp(four, 3), Parsed::IcmpError),
        (icmp(four, 4), Parsed::IcmpError),
        (icmp(four, 5), Parsed::Other),
        (icmp(four, 11), Parsed::IcmpError),
        (icmp(four, 12), Parsed::IcmpError),
        (icmp(six, 1), Parsed::IcmpError),
        (icmp(six, 2), Parsed::IcmpError),
        (icmp(six, 4), Parsed::IcmpError),
        (icmp(six, 5), Parsed::Other),
        (icmp(four, 13), Parsed::Other),
        (icmp(six, 128), Parsed::Echo),
        (icmp(six, 129), Parsed::Echo),
        (icmp(six, 130), Parsed::Other),
        (Frame::new(four.0.ip(), four.1.ip(), 47, vec![0; 8]).build(), Parsed::Other),
        (Frame::new(six.0.ip(), six.1.ip(), 59, Vec::new()).build(), Parsed::Other),
        (Frame::new(six.0.ip(), six.1.ip(), 50, vec![0; 8]).build(), Parsed::Other),
        // Each family's ICMP is nothing to the other.
        (Frame::new(four.0.ip(), four.1.ip(), 58, vec![1; 8]).build(), Parsed::Other),
    ];
    for (frame, expected) in cases {
        assert_eq!(found(frame.clone(), 0).0, expected, "{frame:02x?}");
    }
}

#[test]
fn a_fragmented_datagram_has_ports_in_its_first_fragment_only() {
    for (source, destination) in pairs() {
        let (first, later) = Frame::udp(source, destination, &[7; 100]).fragments(0xabcd, 64);
        let (parsed, one) = found(first, 0);
        assert_eq!((parsed, one.fragment), (Parsed::Ports, Fragment::First as u8));
        assert_eq!(one.destination_port.to_host(), 80);
        let (parsed, other) = found(later, 0);
        assert_eq!((parsed, other.fragment), (Parsed::Later, Fragment::Later as u8));
        assert_eq!((one.identification, one.protocol), (other.identification, other.protocol));
        assert_eq!((one.source, one.destination), (other.source, other.destination));
    }
}

#[test]
fn a_first_fragment_without_all_of_the_tcp_header_is_malformed() {
    for (source, destination) in pairs() {
        let frame = Frame::tcp(source, destination, 2, (1, 0), &[7; 100]);
        for (bytes, expected) in [(8, Parsed::Malformed), (16, Parsed::Malformed), (24, Parsed::Ports)] {
            assert_eq!(found(frame.fragments(1, bytes).0, 0).0, expected, "{bytes}");
        }
    }
}

#[test]
fn an_atomic_fragment_is_a_whole_packet() {
    let (source, destination) = pairs()[1];
    let (parsed, headers) = found(Frame::udp(source, destination, b"abc").atomic(5).build(), 0);
    assert_eq!((parsed, headers.fragment), (Parsed::Ports, Fragment::Whole as u8));
}

#[test]
fn vlan_tags_in_the_packet_are_stepped_over() {
    for (source, destination) in pairs() {
        let plain = Frame::udp(source, destination, b"abc");
        let cases = [
            (plain.clone().tag(0x8100), Parsed::Ports),
            (plain.clone().tag(0x88a8), Parsed::Ports),
            (plain.clone().tag(0x88a8).tag(0x8100), Parsed::Ports),
        ];
        for (frame, expected) in cases {
            let (parsed, headers) = found(frame.build(), 0);
            assert_eq!((parsed, headers.source), (expected, ip(source)));
        }
        let mut simulation = Simulation::new();
        simulation.put(1, plain.tag(0x8100).tag(0x8100).tag(0x8100).build());
        assert_eq!(network(&mut simulation, &mut 0), 0);
    }
}

#[test]
fn other_ethertypes_are_not_ip_and_a_device_without_link_layer_needs_none() {
    let mut simulation = Simulation::new();
    simulation.put(1, [0x08, 0x06].repeat(30));
    assert_eq!(network(&mut simulation, &mut 0), 0);
    for (family, (source, destination)) in [4, 6].into_iter().zip(pairs()) {
        simulation.put_bare(1, Frame::udp(source, destination, &[7; 40]).bare().build());
        let mut at = 9;
        assert_eq!((network(&mut simulation, &mut at), at), (family, 0));
        assert_eq!(found_in(&mut simulation, false).0, Parsed::Ports);
        // The other family's parser sees that it is not its own.
        assert_eq!(found_at(&mut simulation, 10 - family, 0, false).0, Parsed::NotIp);
    }
}

#[test]
fn six_extension_headers_are_followed_and_no_seventh() {
    let (source, destination) = pairs()[1];
    for (count, expected) in [(1, Parsed::Ports), (6, Parsed::Ports), (7, Parsed::TooManyHeaders)] {
        let frame = (0..count).fold(Frame::udp(source, destination, b"abc"), |frame, _| {
            frame.extension(Extension::DestinationOptions(1))
        });
        let (parsed, headers) = found(frame.build(), 0);
        assert_eq!((parsed, headers.source), (expected, ip(source)), "{count}");
        assert_ne!(headers.l4, 0);
    }
}

#[test]
fn a_packet_that_is_to_visit_others_yet_has_no_ports_for_us() {
    let (source, destination) = pairs()[1];
    let frame = |left| Frame::udp(source, destination, b"abc").extension(Extension::Routing(left)).build();
    assert_eq!(found(frame(0), 0).0, Parsed::Ports);
    assert_eq!(found(frame(1), 0).0, Parsed::Other);
}

#[test]
fn a_packet_shorter_than_it_says_is_malformed_at_every_length() {
    for (source, destination) in pairs() {
        let frames = [
            Frame::tcp(source, destination, 2, (1, 2), b"abc").tcp_options(&[1; 4]),
            Frame::udp(source, destination, b"abc"),
            Frame::sctp(source, destination, b"abcd"),
            Frame::icmp(source.ip(), destination.ip(), (3, 3), 0, &[0; 28]),
        ];
        for frame in frames {
            let bytes = frame.extension(Extension::HopByHop(0)).options(&[1; 4]).build();
            for length in 14..bytes.len() {
                let (parsed, _) = found(bytes[..length].to_vec(), 0);
                assert_eq!(parsed, Parsed::Malformed, "{length} of {}", bytes.len());
            }
        }
    }
}

#[test]
fn lengths_that_contradict_each_other_are_malformed() {
    let (source, destination) = pairs()[0];
    let tcp = Frame::tcp(source, destination, 2, (1, 2), b"").build();
    let udp = Frame::udp(source, destination, b"abc").build();
    let cases: [(&str, &[u8], usize, u8); 6] = [
        ("a header of 16 bytes", &tcp, 14, 0x44),
        ("a total length below the header's", &tcp, 17, 19),
        ("no room for the TCP header", &tcp, 17, 39),
        ("a TCP header of 16 bytes", &tcp, 46, 0x40),
        ("a TCP header beyond the end", &tcp, 46, 0x60),
        ("a UDP length of 7", &udp, 39, 7),
    ];
    for (name, bytes, at, byte) in cases {
        let mut bytes = bytes.to_vec();
        bytes[at] = byte;
        assert_eq!(found(bytes, 0).0, Parsed::Malformed, "{name}");
    }
    let mut longer = udp;
    longer[39] = 12;
    assert_eq!(found(longer.clone(), 0).0, Parsed::Malformed, "a UDP length beyond the end");
    assert_eq!(found(longer, 1_400).0, Parsed::Ports, "which a GSO packet may have");
}

#[test]
fn a_gso_packet_is_as_long_as_it_is() {
    for (source, destination) in pairs() {
        let mut bytes = Frame::tcp(source, destination, 0x10, (1, 2), &[7; 3_000]).build();
        let length = u32::try_from(bytes.len()).unwrap();
        // More than 65,535 bytes: the field is 0.
        let at = if source.is_ipv4() { 16 } else { 18 };
        bytes[at..at + 2].fill(0);
        assert_eq!(found(bytes.clone(), 0).0, Parsed::Malformed);
        let (parsed, headers) = found(bytes, 1_400);
        assert_eq!((parsed, headers.end), (Parsed::Ports, length));
    }
}

#[test]
fn a_quoted_packet_may_be_cut_off_after_eight_bytes() {
    for (source, destination) in pairs() {
        for frame in [
            Frame::tcp(source, destination, 2, (7, 2), b"abc"),
            Frame::udp(source, destination, b"abc"),
            Frame::sctp(source, destination, b"abcd"),
        ] {
            let bytes = frame.build();
            let l4 = if source.is_ipv4() { 34 } else { 54 };
            for (length, expected) in [(l4 + 7, Parsed::Malformed), (l4 + 8, Parsed::Ports)] {
                let mut simulation = Simulation::new();
                simulation.put(1, bytes[..length].to_vec());
                let (parsed, headers) = found_in(&mut simulation, true);
                assert_eq!(parsed, expected, "{length}");
                if parsed == Parsed::Ports {
                    assert_eq!(
                        (headers.source_port.to_host(), headers.destination_port.to_host()),
                        (1025, 80)
                    );
                    assert_eq!(headers.end as usize, length);
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn what_was_built_is_found([source, destination, ..] in ends(), sample in sample(PROTOCOLS, 300)) {
        let bytes = sample.between(source, destination).build();
        let length = bytes.len();
        let (parsed, headers) = found(bytes, 0);
        prop_assert_eq!((headers.source, headers.destination), (ip(source), ip(destination)));
        prop_assert_eq!(headers.end as usize, length - sample.padding);
        prop_assert_eq!(headers.fragment, Fragment::Whole as u8);
        if sample.protocol == 1 {
            prop_assert_eq!(parsed, Parsed::Echo);
            prop_assert_eq!((headers.source_port.to_host(), headers.destination_port.to_host()), (source.port(), 0));
            return Ok(());
        }
        prop_assert_eq!(parsed, Parsed::Ports);
        prop_assert_eq!(headers.protocol, sample.protocol);
        prop_assert_eq!(headers.source_port.to_host(), source.port());
        prop_assert_eq!(headers.destination_port.to_host(), destination.port());
    }

    #[test]
    fn random_bytes_are_survived(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        at in 0..220_u32,
        segment in 0..2_u32,
        quoted in any::<bool>(),
        family in prop::sample::select(&[4_u32, 6][..]),
        first in any::<bool>(),
    ) {
        let mut bytes = bytes;
        if first && let Some(byte) = bytes.get_mut(at as usize) {
            *byte = (u8::try_from(family).unwrap() << 4) | (*byte & 15);
        }
        let length = bytes.len();
        let mut simulation = Simulation::new();
        simulation.put(1, bytes);
        simulation.segment = segment;
        network(&mut simulation, &mut 0);
        let (parsed, headers) = found_at(&mut simulation, family, at, quoted);
        if matches!(parsed, Parsed::Ports | Parsed::Echo | Parsed::IcmpError | Parsed::Later | Parsed::Other) {
            prop_assert!(headers.l3 < headers.l4 && headers.l4 <= headers.end && headers.end as usize <= length);
        }
        if matches!(parsed, Parsed::Ports | Parsed::Echo | Parsed::IcmpError) {
            prop_assert!(headers.l4 + 8 <= headers.end);
        }
    }

    #[test]
    fn a_real_packet_with_wrong_bytes_is_survived(
        [source, destination, ..] in ends(),
        sample in sample(PROTOCOLS, 100),
        wrong in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = sample.between(source, destination).build();
        for (at, byte) in wrong {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        let length = bytes.len();
        let (parsed, headers) = found(bytes, 0);
        if parsed == Parsed::Ports {
            prop_assert!(headers.l4 + 8 <= headers.end && headers.end as usize <= length);
        }
    }
}
