//! Tests of rewriting: a rewritten packet is, byte for byte, the one that would have been built with its new ends.

use std::{net::SocketAddr, vec::Vec};

use proptest::prelude::*;
use proxy_common::{Ipv4Be, Ipv6Be};

use super::*;
use crate::{
    parse::{Parsed, network, parse},
    simulation::{
        Frame, Offload, Simulation,
        arbitrary::{FromIp, Sample, ends, sample},
        checksums_valid, outer_checksums_valid,
    },
};

const PROTOCOLS: &[u8] = &[1, 6, 17, 132];

/// State of the packet's checksum before it is rewritten.
#[derive(Clone, Copy, Debug)]
enum State {
    None,
    Partial,
    Complete,
}

fn port(end: SocketAddr) -> PortBe {
    PortBe::from_host(end.port())
}

/// Rewrites both ends of the packet in the simulation.
fn rewrite<A: Wire + FromIp>(simulation: &mut Simulation, new: [SocketAddr; 2], state: State) -> bool {
    let mut at = 0;
    network(simulation, &mut at);
    let mut headers = Headers::<A>::NONE;
    parse(simulation, at, false, &mut headers);
    match state {
        State::Partial if sum_at(headers.protocol) != 0 => {
            let field = headers.l4 + sum_at(headers.protocol);
            let mut sum = [0; 2];
            // UDP without a checksum leaves none to the device.
            if simulation.load(field, &mut sum) && sum != [0; 2] {
                simulation.leave_to_device(headers.l4, field);
            }
        }
        State::Complete => simulation.sum_by_device(),
        _ => {}
    }
    let [source, destination] = new;
    let done = rewrite_source(simulation, &mut headers, A::from_ip(source.ip()), port(source))
        && rewrite_destination(simulation, &mut headers, A::from_ip(destination.ip()), port(destination));
    let mut again = Headers::<A>::NONE;
    parse(simulation, at, false, &mut again);
    if done && headers.fragment != Fragment::Later as u8 && headers.protocol != A::ICMP {
        assert_eq!(
            (headers.source_port, headers.destination_port),
            (again.source_port, again.destination_port)
        );
    }
    assert!(headers.source == again.source && headers.destination == again.destination);
    done
}

fn rewritten(bytes: Vec<u8>, new: [SocketAddr; 2], state: State) -> (bool, Simulation) {
    let mut simulation = Simulation::new();
    simulation.put(1, bytes);
    let done = if new[0].is_ipv4() {
        rewrite::<Ipv4Be>(&mut simulation, new, state)
    } else {
        rewrite::<Ipv6Be>(&mut simulation, new, state)
    };
    (done, simulation)
}

/// The IP packet of a sample between two ends.
fn bare(sample: &Sample, ends: [SocketAddr; 2]) -> Vec<u8> {
    Sample { padding: 0, ..sample.clone() }.between(ends[0], ends[1]).bare().build()
}

/// Rewrites an ICMP error, at outer addresses and for the packet it quotes.
fn requote<A: Wire + FromIp>(
    simulation: &mut Simulation,
    outer: [SocketAddr; 2],
    inner: [SocketAddr; 2],
) -> bool {
    let (mut headers, mut quoted) = (Headers::<A>::NONE, Headers::<A>::NONE);
    assert_eq!(parse(simulation, 14, false, &mut headers), Parsed::IcmpError);
    parse(simulation, headers.l4 + 8, true, &mut quoted);
    let ends = Ends {
        source: A::from_ip(inner[0].ip()),
        destination: A::from_ip(inner[1].ip()),
        source_port: port(inner[0]),
        // Who is asked for an echo has none.
        destination_port: if quoted.protocol == A::ICMP { PortBe::ANY } else { port(inner[1]) },
    };
    let addresses = (A::from_ip(outer[0].ip()), A::from_ip(outer[1].ip()));
    rewrite_quoted(simulation, &mut headers, &mut quoted, &ends, addresses)
}

#[test]
fn nothing_is_written_when_nothing_changes() {
    let ends: [SocketAddr; 2] = ["192.0.2.1:5".parse().unwrap(), "192.0.2.2:6".parse().unwrap()];
    let mut bytes = Frame::tcp(ends[0], ends[1], 2, (1, 0), b"abc").build();
    // A wrong checksum stays as it is.
    bytes[50] ^= 0x55;
    let (done, simulation) = rewritten(bytes.clone(), ends, State::None);
    assert!(done);
    assert_eq!(simulation.bytes, bytes);
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let ends: [SocketAddr; 2] = ["192.0.2.1:5".parse().unwrap(), "192.0.2.2:6".parse().unwrap()];
    let new: [SocketAddr; 2] = ["198.51.100.1:7".parse().unwrap(), "198.51.100.2:8".parse().unwrap()];
    for frame in [Frame::tcp(ends[0], ends[1], 2, (1, 0), b"abcd"), Frame::sctp(ends[0], ends[1], b"abcd")] {
        let mut bytes = frame.build();
        *bytes.last_mut().unwrap() ^= 1;
        let (done, simulation) = rewritten(bytes, new, State::None);
        assert!(done);
        assert!(checksums_valid(&simulation.bytes).is_err());
    }
}

#[test]
fn an_sctp_checksum_that_is_left_to_the_device_stays_empty() {
    let ends: [SocketAddr; 2] = ["192.0.2.1:5".parse().unwrap(), "192.0.2.2:6".parse().unwrap()];
    let new: [SocketAddr; 2] = ["192.0.2.1:7".parse().unwrap(), "192.0.2.2:8".parse().unwrap()];
    let mut bytes = Frame::sctp(ends[0], ends[1], b"abcd").build();
    bytes[42..46].fill(0);
    let (done, simulation) = rewritten(bytes, new, State::None);
    assert!(done);
    assert_eq!(simulation.bytes[42..46], [0; 4]);
    assert_eq!(simulation.bytes[34..38], [0, 7, 0, 8]);
}

#[test]
fn the_port_of_a_fragmented_sctp_packet_cannot_change_but_its_address_can() {
    for text in ["192.0.2.1:5 192.0.2.2:6 192.0.2.3:7", "[2001:db8::1]:5 [2001:db8::2]:6 [2001:db8::3]:7"] {
        let ends: Vec<SocketAddr> = text.split(' ').map(|end| end.parse().unwrap()).collect();
        let frame = Frame::sctp(ends[0], ends[1], &[7; 100]);
        let (first, later) = frame.fragments(9, 48);
        let other = SocketAddr::new(ends[2].ip(), ends[0].port());
        for (fragment, is_first) in [(first, true), (later, false)] {
            let (done, simulation) = rewritten(fragment.clone(), [ends[2], ends[1]], State::None);
            assert!(!done, "another port");
            assert_eq!(simulation.bytes, fragment);
            if is_first {
                let (done, _) = rewritten(fragment, [other, ends[1]], State::None);
                assert!(done, "another address");
            }
        }
    }
}

proptest! {
    #[test]
    fn a_rewritten_packet_is_the_one_built_with_its_new_ends(
        [a, b, c, d] in ends(),
        sample in sample(PROTOCOLS, 300),
        keep in any::<(bool, bool)>(),
        state in prop::sample::select(&[State::None, State::Partial, State::Complete][..]),
    ) {
        let new = [if keep.0 { a } else { c }, if keep.1 { b } else { d }];
        let (done, mut simulation) = rewritten(sample.between(a, b).build(), new, state);
        prop_assert!(done);
        // Where nothing in the packet makes up for a change, nobody looks at the device's sum.
        let summed = sample.protocol != 132 && (sample.protocol != 17 || sample.udp_sum || a.is_ipv6());
        prop_assert!(!summed || simulation.device_sum_fits());
        simulation.transmit();
        prop_assert_eq!(checksums_valid(&simulation.bytes), Ok(()));
        prop_assert_eq!(simulation.bytes, sample.between(new[0], new[1]).build());
    }

    #[test]
    fn fragments_that_are_rewritten_fit_together(
        [a, b, c, d] in ends(),
        sample in sample(&[1, 6, 17], 300),
        at in 8..12_u16,
    ) {
        let sample = Sample { padding: 0, ..sample };
        // The first fragment holds the whole TCP header.
        let at = at * 8;
        let (first, later) = sample.between(a, b).fragments(7, at);
        let (new_first, new_later) = sample.between(c, d).fragments(7, at);
        let (done, simulation) = rewritten(first, [c, d], State::None);
        prop_assert!(done);
        prop_assert_eq!(simulation.bytes, new_first);
        let (done, simulation) = rewritten(later, [c, d], State::Complete);
        prop_assert!(done && simulation.device_sum_fits());
        prop_assert_eq!(simulation.bytes, new_later);
    }

    #[test]
    fn an_error_follows_the_packet_that_it_quotes(
        [a, b, c, d] in ends(),
        [e, f, g, h] in ends(),
        sample in sample(PROTOCOLS, 300),
        cut in any::<prop::sample::Index>(),
        keep in any::<(bool, bool)>(),
        complete in any::<bool>(),
    ) {
        // The outer addresses are of the inner family.
        let [outer, new_outer] = if a.is_ipv4() == e.is_ipv4() { [[e, f], [g, h]] } else { [[b, a], [d, c]] };
        let new = [if keep.0 { a } else { c }, if keep.1 { b } else { d }];
        let old_quote = bare(&sample, [a, b]);
        let shortest = if a.is_ipv4() { 20 + sample.options.len() + 8 } else {
            let upper = Sample { extensions: Vec::new(), ..sample.clone() };
            old_quote.len() - bare(&upper, [a, b]).len() + 48
        };
        let length = shortest + cut.index(old_quote.len() - shortest + 1);
        let build = |outer: [SocketAddr; 2], quote: &[u8]| {
            let kind = if a.is_ipv4() { (3, 4) } else { (1, 4) };
            Frame::icmp(outer[0].ip(), outer[1].ip(), kind, 1_400, &quote[..length]).build()
        };
        let mut simulation = Simulation::new();
        simulation.put(1, build(outer, &old_quote));
        if complete {
            simulation.sum_by_device();
        }
        let done = if a.is_ipv4() {
            requote::<Ipv4Be>(&mut simulation, new_outer, new)
        } else {
            requote::<Ipv6Be>(&mut simulation, new_outer, new)
        };
        prop_assert!(done && simulation.device_sum_fits());
        prop_assert_eq!(simulation.offload != Offload::None, complete);
        prop_assert_eq!(outer_checksums_valid(&simulation.bytes), Ok(()));
        // A quoted CRC32c is left alone, and so is half a checksum.
        if sample.protocol != 132 && (sample.protocol != 6 || length != shortest + 9) {
            prop_assert_eq!(simulation.bytes, build(new_outer, &bare(&sample, new)));
        }
    }
}
