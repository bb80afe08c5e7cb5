//! Tests of refusals: each is a valid packet, whatever the state of the refused one's checksums.

use std::{
    net::{IpAddr, SocketAddr},
    vec::Vec,
};

use proptest::prelude::*;
use proxy_common::{Ipv4Be, Ipv6Be};

use super::*;
use crate::{
    parse::{Parsed, network, parse},
    simulation::{
        Extension, Frame, Offload, Simulation,
        arbitrary::{FromIp, ends, sample},
        checksums_valid, outer_checksums_valid,
    },
};

/// The hook's device, in every test.
const DEVICE: u32 = 3;

/// State of the packet's checksum before it is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    None,
    Partial,
    Complete,
}

const STATES: &[State] = &[State::None, State::Partial, State::Complete];

const ERRORS: &[IcmpError] =
    &[IcmpError::PortUnreachable, IcmpError::NoRoute, IcmpError::TimeExceeded, IcmpError::TooBig];

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn pairs() -> [(SocketAddr, SocketAddr); 2] {
    [
        (addr("192.0.2.1:1025"), addr("10.96.0.1:80")),
        (addr("[2001:db8::1]:1025"), addr("[2001:db8:96::1]:80")),
    ]
}

fn placed(bytes: Vec<u8>, segment: u32) -> Simulation {
    let mut simulation = Simulation::new();
    simulation.put(DEVICE, bytes);
    simulation.segment = segment;
    simulation
}

fn headers<A: Wire>(simulation: &mut Simulation) -> Headers<A> {
    let (mut at, mut headers) = (0, Headers::NONE);
    network(simulation, &mut at);
    parse(simulation, at, false, &mut headers);
    headers
}

/// Brings the packet into a state; a checksum of TCP or UDP only can be left to the device.
fn bring<A: Wire>(simulation: &mut Simulation, headers: &Headers<A>, state: State) {
    match state {
        State::Partial if sum_at(headers.protocol) != 0 => {
            simulation.leave_to_device(headers.l4, headers.l4 + sum_at(headers.protocol));
        }
        State::Complete => simulation.sum_by_device(),
        _ => {}
    }
}

fn reset_in(simulation: &mut Simulation, state: State) -> bool {
    fn go<A: Wire>(simulation: &mut Simulation, state: State) -> bool {
        let headers = headers::<A>(simulation);
        bring(simulation, &headers, state);
        reset(simulation, &headers)
    }
    if is_ipv4(simulation) { go::<Ipv4Be>(simulation, state) } else { go::<Ipv6Be>(simulation, state) }
}

fn error_in(simulation: &mut Simulation, state: State, error: IcmpError, mtu: u32, from: IpAddr) -> bool {
    fn go<A: Wire + FromIp>(
        s: &mut Simulation,
        state: State,
        error: IcmpError,
        mtu: u32,
        from: IpAddr,
    ) -> bool {
        let headers = headers::<A>(s);
        bring(s, &headers, state);
        icmp_error(s, &headers, error, mtu, A::from_ip(from))
    }
    if is_ipv4(simulation) {
        go::<Ipv4Be>(simulation, state, error, mtu, from)
    } else {
        go::<Ipv6Be>(simulation, state, error, mtu, from)
    }
}

fn is_ipv4(simulation: &mut Simulation) -> bool {
    network(simulation, &mut 0) == 4
}

#[test]
fn a_reset_acknowledges_what_it_refuses() {
    // RFC 9293, 3.10.7.1: flags, numbers and payload of the segment; flags and numbers of the reset.
    let cases = [
        (SYN, (100, 0), &b""[..], RST | ACK, (0, 101)),
        (SYN, (u32::MAX, 0), b"", RST | ACK, (0, 0)),
        (SYN, (100, 0), b"fast", RST | ACK, (0, 105)),
        (FIN, (100, 0), b"ab", RST | ACK, (0, 103)),
        (ACK, (100, 200), b"abc", RST, (200, 0)),
        (SYN | ACK, (100, 200), b"", RST, (200, 0)),
    ];
    for (source, destination) in pairs() {
        for (flags, numbers, payload, expected_flags, expected) in cases {
            let frame =
                Frame::tcp(source, destination, flags, numbers, payload).tcp_options(&[1; 12]).padding(3);
            let mut simulation = placed(frame.build(), 0);
            assert!(reset_in(&mut simulation, State::None));
            let answer = headers::<Ipv6Be>(&mut simulation);
            let answer4 = headers::<Ipv4Be>(&mut simulation);
            let seen = if source.is_ipv4() {
                (answer4.tcp_flags, (answer4.sequence, answer4.acknowledgement))
            } else {
                (answer.tcp_flags, (answer.sequence, answer.acknowledgement))
            };
            assert_eq!(seen, (expected_flags, expected));
        }
    }
}

#[test]
fn a_reset_is_byte_for_byte_what_it_should_be() {
    for (source, destination) in pairs() {
        let frame = Frame::tcp(source, destination, SYN, (100, 0), b"").tcp_options(&[1; 12]);
        let mut simulation = placed(frame.build(), 0);
        assert!(reset_in(&mut simulation, State::None));
        let reset = Frame::tcp(destination, source, RST | ACK, (0, 101), b"").hop_limit(64).dont_fragment();
        let mut expected = reset.build();
        // The link layer goes back, the window is 0 and not the frame's 8192.
        expected[..12].copy_from_slice(&[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1]);
        let l4 = expected.len() - 20;
        let sum = u16::from_ne_bytes([expected[l4 + 16], expected[l4 + 17]]);
        let sum = checksum::update(sum, checksum::difference(&[u32::from_ne_bytes([0x20, 0, 0, 0])], &[0]));
        expected[l4 + 14] = 0;
        expected[l4 + 16..l4 + 18].copy_from_slice(&sum.to_ne_bytes());
        assert_eq!(simulation.bytes, expected);
    }
}

#[test]
fn some_packets_get_no_answer() {
    let (four, six) = (pairs()[0], pairs()[1]);
    let tcp = |source: &str, destination: &str| {
        Frame::tcp(addr(source), addr(destination), SYN, (1, 0), b"").build()
    };
    let mut to_group = Frame::tcp(four.0, four.1, SYN, (1, 0), b"").build();
    to_group[0] |= 1;
    let (_, later) = Frame::tcp(six.0, six.1, SYN, (1, 0), &[0; 64]).fragments(1, 24);
    let cases = [
        ("from everybody", tcp("255.255.255.255:1", "10.96.0.1:80")),
        ("from a group", tcp("224.0.0.1:1", "10.96.0.1:80")),
        ("from nobody", tcp("0.0.0.0:1", "10.96.0.1:80")),
        ("to everybody", tcp("192.0.2.1:1", "255.255.255.255:80")),
        ("to a group", tcp("192.0.2.1:1", "239.1.2.3:80")),
        ("from loopback", tcp("127.0.0.1:1", "10.96.0.1:80")),
        ("from nobody", tcp("[::]:1", "[2001:db8::1]:80")),
        ("from a group", tcp("[ff02::1]:1", "[2001:db8::1]:80")),
        ("to a group", tcp("[2001:db8::1]:1", "[ff02::1]:80")),
        ("from loopback", tcp("[::1]:1", "[2001:db8::1]:80")),
        ("to a group of stations", to_group),
        ("a later fragment", later),
    ];
    for (name, bytes) in cases {
        assert!(!reset_in(&mut placed(bytes.clone(), 0), State::None), "reset {name}");
        for from in [four.1.ip(), six.1.ip()] {
            let mut simulation = placed(bytes.clone(), 0);
            assert!(!error_in(&mut simulation, State::None, IcmpError::NoRoute, 0, from), "error {name}");
        }
    }
    assert!(
        reset_in(&mut placed(tcp("127.0.0.1:1", "127.0.0.1:80"), 0), State::None),
        "on the loopback device"
    );
}

#[test]
fn a_reset_is_not_reset_and_a_fragment_neither() {
    for (source, destination) in pairs() {
        let frame = |flags| Frame::tcp(source, destination, flags, (1, 0), &[0; 64]);
        assert!(!reset_in(&mut placed(frame(RST).build(), 0), State::None));
        assert!(!reset_in(&mut placed(frame(RST | ACK).build(), 0), State::None));
        assert!(!reset_in(&mut placed(frame(SYN).fragments(1, 48).0, 0), State::None));
        assert!(!reset_in(&mut placed(Frame::udp(source, destination, b"abc").build(), 0), State::None));
    }
}

#[test]
fn an_error_is_not_answered_by_an_error_but_an_echo_request_is() {
    for (source, destination) in pairs() {
        let kinds: &[(u8, bool)] = if source.is_ipv4() {
            &[(3, false), (4, false), (5, false), (11, false), (12, false), (8, true)]
        } else {
            &[(1, false), (2, false), (4, false), (100, false), (137, false), (128, true)]
        };
        for (kind, answered) in kinds {
            let frame = Frame::icmp(source.ip(), destination.ip(), (*kind, 0), 0, &[0; 48]);
            let mut simulation = placed(frame.build(), 0);
            let sent = error_in(&mut simulation, State::None, IcmpError::NoRoute, 0, destination.ip());
            assert_eq!(sent, *answered, "{kind}");
        }
    }
}

#[test]
fn errors_have_their_families_types() {
    let cases = [
        (IcmpError::PortUnreachable, [3, 3], [1, 4]),
        (IcmpError::NoRoute, [3, 1], [1, 0]),
        (IcmpError::TimeExceeded, [11, 0], [3, 0]),
        (IcmpError::TooBig, [3, 4], [2, 0]),
    ];
    for (error, four, six) in cases {
        for ((source, destination), (l4, kind)) in pairs().into_iter().zip([(34, four), (54, six)]) {
            let mut simulation = placed(Frame::udp(source, destination, b"abc").build(), 0);
            assert!(error_in(&mut simulation, State::None, error, 1_400, destination.ip()));
            assert_eq!(simulation.bytes[l4..l4 + 2], kind);
            let mtu = if error == IcmpError::TooBig { [0, 0, 5, 0x78] } else { [0; 4] };
            assert_eq!(simulation.bytes[l4 + 4..l4 + 8], mtu);
        }
    }
}

#[test]
fn extension_headers_stand_in_the_way_of_an_answer_only_if_the_device_is_to_sum() {
    let (source, destination) = pairs()[1];
    let frame =
        Frame::tcp(source, destination, SYN, (1, 0), b"abc").extension(Extension::DestinationOptions(0));
    for (state, answered) in [(State::None, true), (State::Complete, true), (State::Partial, false)] {
        assert_eq!(reset_in(&mut placed(frame.build(), 0), state), answered, "{state:?}");
        let mut simulation = placed(frame.build(), 0);
        let sent = error_in(&mut simulation, state, IcmpError::NoRoute, 0, destination.ip());
        assert_eq!(sent, answered, "{state:?}");
    }
}

proptest! {
    #[test]
    fn a_reset_is_a_valid_packet(
        [source, destination, ..] in ends(),
        sample in sample(&[6], 2_000),
        state in prop::sample::select(STATES),
        segment in prop::sample::select(&[0_u32, 500][..]),
    ) {
        let mut simulation = placed(sample.between(source, destination).build(), segment);
        let plain = if source.is_ipv4() { sample.options.is_empty() } else { sample.extensions.is_empty() };
        let answered = sample.flags & RST == 0 && (plain || state != State::Partial);
        prop_assert_eq!(reset_in(&mut simulation, state), answered);
        if answered {
            prop_assert_eq!(simulation.segment, 0);
            prop_assert!(!matches!(simulation.offload, Offload::Complete(_)));
            simulation.transmit();
            prop_assert_eq!(checksums_valid(&simulation.bytes), Ok(()));
            prop_assert_eq!(simulation.bytes.len(), if source.is_ipv4() { 54 } else { 74 });
        }
    }

    #[test]
    fn an_error_is_a_valid_packet_that_quotes_the_refused_one(
        [source, destination, from, _] in ends(),
        sample in sample(&[1, 6, 17, 132], 2_000),
        state in prop::sample::select(STATES),
        error in prop::sample::select(ERRORS),
        segment in prop::sample::select(&[0_u32, 500][..]),
        idle in any::<bool>(),
    ) {
        let bytes = sample.between(source, destination).build();
        let mut simulation = placed(bytes.clone(), if sample.padding == 0 { segment } else { 0 });
        let left = state == State::Partial && [6, 17].contains(&sample.protocol);
        let answered = !left || source.is_ipv4() || sample.extensions.is_empty();
        // UDP without a checksum leaves none to the device.
        prop_assume!(!left || sample.protocol == 6 || sample.udp_sum || source.is_ipv6());
        prop_assert_eq!(error_in(&mut simulation, state, error, 1_300, from.ip()), answered);
        if !answered {
            return Ok(());
        }
        prop_assert_eq!(simulation.segment, 0);
        prop_assert!(!matches!(simulation.offload, Offload::Complete(_)));
        // A device that sees ICMP may do nothing.
        if idle {
            simulation.offload = Offload::None;
        }
        simulation.transmit();
        prop_assert_eq!(outer_checksums_valid(&simulation.bytes), Ok(()));
        let (room, most) = if source.is_ipv4() { (28, 576) } else { (48, 1_280) };
        let packet = &bytes[14..bytes.len() - sample.padding];
        let quoted = &simulation.bytes[14 + room..];
        prop_assert_eq!(quoted.len(), packet.len().min(most - room));
        if !left {
            prop_assert_eq!(quoted, &packet[..quoted.len()]);
            prop_assert_eq!(checksums_valid(&simulation.bytes), Ok(()));
        }
        let (mut at, mut outer4, mut outer6) = (0, Headers::<Ipv4Be>::NONE, Headers::<Ipv6Be>::NONE);
        network(&mut simulation, &mut at);
        let parsed = if source.is_ipv4() {
            parse(&mut simulation, at, false, &mut outer4)
        } else {
            parse(&mut simulation, at, false, &mut outer6)
        };
        prop_assert_eq!(parsed, Parsed::IcmpError);
    }
}
