//! What the guard lets out of a pod: one packet for every rule, and for every way around it.

use std::net::{Ipv4Addr, Ipv6Addr};

use aya::maps::{HashMap, PerCpuArray};
use proxy_common::{Counter, EndpointValue, PacketSettings, names};
use sheave_tests::test_run::{Place, Programs, Sizes};

/// `TCX_NEXT`.
pub(crate) const NEXT: i32 = -1;
/// `TCX_DROP`.
pub(crate) const DROP: i32 = 2;
/// Index of the loopback device, at which a test run happens.
pub(crate) const DEVICE: u32 = 1;

const MAC: &str = "0e0102030405";
const HOST: &str = "0a0102030405";
const ADDRESS4: &str = "0af40007";
const OTHER4: &str = "0af40008";
const ADDRESS6: &str = "fd001002440000000000000000000007";
const OTHER6: &str = "fd001002440000000000000000000008";
/// What the pod's kernel makes of its MAC address.
const LINK_LOCAL: &str = "fe800000000000000c0102fffe030405";
const OTHER_LINK_LOCAL: &str = "fe800000000000000c0102fffe030406";
const ALL_NODES: &str = "ff020000000000000000000000000001";
const UNSPECIFIED6: &str = "00000000000000000000000000000000";
/// 0x2118.
const TUNNEL_PORT: u32 = 8472;
/// A datagram to it.
const TO_TUNNEL: &str = "1f90211800080000";
const TARGET4: &str = "0a600001";
const TARGET6: &str = "20010db8000000000000000000000001";

pub(crate) fn pod() -> EndpointValue {
    EndpointValue {
        address4: Ipv4Addr::new(10, 244, 0, 7).into(),
        address6: Ipv6Addr::new(0xfd00, 0x1002, 0x4400, 0, 0, 0, 0, 7).into(),
        mac: [0x0e, 1, 2, 3, 4, 5],
        reserved: [0; 6],
        from_rate: 0,
        from_burst: 0,
        to_rate: 0,
        to_burst: 0,
        from_due: 0,
        to_due: 0,
    }
}

/// The programs, with a record for the device of a test run.
pub(crate) fn guarded(pod: &EndpointValue) -> Programs {
    let settings = PacketSettings { tunnel_port: TUNNEL_PORT, ..PacketSettings::DEFAULT };
    let mut programs = Programs::load(&settings, &Sizes::default()).unwrap();
    set(&mut programs, pod);
    programs
}

pub(crate) fn set(programs: &mut Programs, pod: &EndpointValue) {
    let mut endpoints: HashMap<_, u32, EndpointValue> = programs.map(names::ENDPOINTS).unwrap();
    endpoints.insert(DEVICE, pod, 0).unwrap();
}

pub(crate) fn counted(programs: &mut Programs, counter: Counter) -> u64 {
    let counters: PerCpuArray<_, u64> = programs.map(names::COUNTERS).unwrap();
    counters.get(&(counter as u32), 0).unwrap().iter().sum()
}

pub(crate) fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<char> = hex.chars().filter(char::is_ascii_hexdigit).collect();
    let pairs = digits.chunks(2).map(|pair| pair.iter().collect::<String>());
    pairs.map(|pair| u8::from_str_radix(&pair, 16).unwrap()).collect()
}

fn ethernet(from: &str, kind: &str, payload: &str) -> String {
    format!("{HOST} {from} {kind} {payload}")
}

/// `offset`: flags and fragment offset. `words`: 4 bytes of options, at most 10 times.
fn ipv4_packet(from: &str, protocol: &str, offset: &str, words: usize, payload: &str) -> String {
    let (ihl, length) = (5 + words, 20 + words * 4 + payload.len() / 2);
    let header = format!("4{ihl:x}00 {length:04x} 0001 {offset} 40 {protocol} 0000 {from} {TARGET4}");
    ethernet(MAC, "0800", &format!("{header} {} {payload}", "01010101".repeat(words)))
}

fn ipv4(from: &str) -> String {
    ipv4_packet(from, "11", "0000", 0, "1f901f9000080000")
}

fn icmp4(kind: &str, offset: &str, words: usize) -> String {
    ipv4_packet(ADDRESS4, "01", offset, words, &format!("{kind}000000 00000000").replace(' ', ""))
}

fn ipv6_packet(from: &str, to: &str, next: &str, payload: &str) -> String {
    let payload = payload.replace(' ', "");
    ethernet(MAC, "86dd", &format!("60000000 {:04x} {next} ff {from} {to} {payload}", payload.len() / 2))
}

fn ipv6(from: &str, to: &str) -> String {
    ipv6_packet(from, to, "11", "1f901f9000080000")
}

/// From the pod's link-local address to all nodes, as routers and neighbours speak.
fn icmp6(kind: &str, target: &str) -> String {
    ipv6_packet(LINK_LOCAL, ALL_NODES, "3a", &message(kind, target))
}

fn message(kind: &str, target: &str) -> String {
    format!("{kind}000000 00000000 {target}")
}

/// An ICMPv6 message behind extension headers, each with its number.
fn behind(headers: &[(&str, &str)], kind: &str) -> String {
    let numbers = headers.iter().map(|(number, _)| *number).chain(["3a"]);
    let follow: Vec<&str> = numbers.skip(1).collect();
    let chain: String = headers.iter().zip(follow).flat_map(|((_, rest), next)| [next, *rest]).collect();
    let payload = chain + &message(kind, OTHER6);
    ipv6_packet(ADDRESS6, ALL_NODES, headers.first().map_or("3a", |(number, _)| number), &payload)
}

fn arp(kind: &str, mac: &str, address: &str) -> String {
    ethernet(MAC, "0806", &format!("{kind} 0001 {mac} {address} 000000000000 a9fe0101"))
}

const HOP_BY_HOP: (&str, &str) = ("00", "00 050200000000");
const LONG_OPTIONS: (&str, &str) = ("3c", "01 010c000000000000 000000000000");
const AUTHENTICATION: (&str, &str) = ("33", "04 0000 00000001 00000001 000000000000000000000000");
const FIRST_FRAGMENT: (&str, &str) = ("2c", "00 0001 00000001");
const LATER_FRAGMENT: (&str, &str) = ("2c", "00 0009 00000001");
const ETHERNET_IPV4: &str = "0001 0800 06 04";

/// What passes.
fn admitted() -> Vec<(&'static str, String)> {
    vec![
        ("IPv4 from its address", ipv4(ADDRESS4)),
        ("a fragment", ipv4_packet(ADDRESS4, "11", "0010", 0, "1f901f9000080000")),
        ("an echo", icmp4("08", "0000", 0)),
        ("from the tunnel's port", ipv4_packet(ADDRESS4, "11", "0000", 0, "21181f9000080000")),
        ("TCP to its number", ipv4_packet(ADDRESS4, "06", "0000", 0, TO_TUNNEL)),
        ("a fragment whose bytes look like it", ipv4_packet(ADDRESS4, "11", "0010", 0, TO_TUNNEL)),
        ("a fragment whose bytes look like a redirect", icmp4("05", "0010", 0)),
        ("IPv6 from its address", ipv6(ADDRESS6, TARGET6)),
        ("its link-local address to one of the link", ipv6(LINK_LOCAL, "fe800000000000000000000000000001")),
        ("its link-local address to a group", ipv6(LINK_LOCAL, ALL_NODES)),
        ("a neighbour solicitation", icmp6("87", OTHER6)),
        ("a router solicitation", icmp6("85", "")),
        ("an advertisement of its address", icmp6("88", ADDRESS6)),
        ("an advertisement of its link-local address", icmp6("88", LINK_LOCAL)),
        ("an echo behind options", behind(&[HOP_BY_HOP], "80")),
        ("a later fragment", behind(&[LATER_FRAGMENT], "86")),
        ("ARP of its address", arp(ETHERNET_IPV4, MAC, ADDRESS4)),
    ]
}

/// What does not, and why.
fn refused() -> Vec<(&'static str, String, Counter)> {
    use Counter::{
        DroppedHeaders, DroppedMalformed, DroppedPodAddress, DroppedPodMac, DroppedPodNeighbour,
        DroppedPodProtocol, DroppedPodRouter, DroppedPodTunnel, DroppedPodUnspecified,
    };
    let foreign_mac = ipv4(ADDRESS4).replace(MAC, "0e0102030406");
    vec![
        ("another's MAC address", foreign_mac, DroppedPodMac),
        ("the host's MAC address", ipv6(ADDRESS6, TARGET6).replace(MAC, HOST), DroppedPodMac),
        ("another's IPv4 address", ipv4(OTHER4), DroppedPodAddress),
        ("the target's own address", ipv4(TARGET4), DroppedPodAddress),
        ("loopback", ipv4("7f000001"), DroppedPodAddress),
        ("no IPv4 address", ipv4("00000000"), DroppedPodUnspecified),
        ("a redirect", icmp4("05", "0000", 0), DroppedPodRouter),
        ("a router behind options", icmp4("09", "0000", 2), DroppedPodRouter),
        ("a redirect in a first fragment", icmp4("05", "2000", 0), DroppedPodRouter),
        ("to the tunnel", ipv4_packet(ADDRESS4, "11", "0000", 0, TO_TUNNEL), DroppedPodTunnel),
        ("to it behind options", ipv4_packet(ADDRESS4, "11", "0000", 2, TO_TUNNEL), DroppedPodTunnel),
        ("to it in a first fragment", ipv4_packet(ADDRESS4, "11", "2000", 0, TO_TUNNEL), DroppedPodTunnel),
        ("to it by IPv6", ipv6_packet(ADDRESS6, TARGET6, "11", TO_TUNNEL), DroppedPodTunnel),
        (
            "to it by IPv6 behind options",
            ipv6_packet(ADDRESS6, TARGET6, "00", &format!("1100010400000000{TO_TUNNEL}")),
            DroppedPodTunnel,
        ),
        ("half of its ports", ipv4_packet(ADDRESS4, "11", "0000", 0, "1f90"), DroppedMalformed),
        ("another's IPv6 address", ipv6(OTHER6, TARGET6), DroppedPodAddress),
        ("IPv6 loopback", ipv6("00000000000000000000000000000001", TARGET6), DroppedPodAddress),
        ("an IPv4-mapped address", ipv6("00000000000000000000ffff0af40007", TARGET6), DroppedPodAddress),
        ("no IPv6 address", ipv6(UNSPECIFIED6, ALL_NODES), DroppedPodUnspecified),
        ("its link-local address to elsewhere", ipv6(LINK_LOCAL, TARGET6), DroppedPodAddress),
        ("a link-local destination of a forged source", ipv6(OTHER6, LINK_LOCAL), DroppedPodAddress),
        ("another's link-local address", ipv6(OTHER_LINK_LOCAL, ALL_NODES), DroppedPodAddress),
        ("a router advertisement", icmp6("86", ""), DroppedPodRouter),
        ("a redirect of IPv6", icmp6("89", OTHER6), DroppedPodRouter),
        ("an advertisement behind options", behind(&[HOP_BY_HOP], "86"), DroppedPodRouter),
        ("behind long options", behind(&[HOP_BY_HOP, LONG_OPTIONS], "86"), DroppedPodRouter),
        ("behind authentication", behind(&[AUTHENTICATION], "86"), DroppedPodRouter),
        ("in a first fragment", behind(&[HOP_BY_HOP, FIRST_FRAGMENT], "86"), DroppedPodRouter),
        ("behind six headers", behind(&[HOP_BY_HOP; 6], "86"), DroppedPodRouter),
        ("behind seven headers", behind(&[HOP_BY_HOP; 7], "80"), DroppedHeaders),
        ("an advertisement of another's address", icmp6("88", OTHER6), DroppedPodNeighbour),
        ("of another's link-local address", icmp6("88", OTHER_LINK_LOCAL), DroppedPodNeighbour),
        ("ARP of another's address", arp(ETHERNET_IPV4, MAC, OTHER4), DroppedPodNeighbour),
        ("ARP with another's MAC address", arp(ETHERNET_IPV4, HOST, ADDRESS4), DroppedPodNeighbour),
        ("an ARP probe", arp(ETHERNET_IPV4, MAC, "00000000"), DroppedPodNeighbour),
        ("ARP of another medium", arp("0006 0800 06 04", MAC, ADDRESS4), DroppedPodNeighbour),
        ("a VLAN", ethernet(MAC, "8100", &format!("0005 0800 {}", "45".repeat(40))), DroppedPodProtocol),
        ("link layer discovery", ethernet(MAC, "88cc", &"00".repeat(60)), DroppedPodProtocol),
        ("IEEE 802.3", ethernet(MAC, "0040", &"42".repeat(60)), DroppedPodProtocol),
        ("half of ARP", ethernet(MAC, "0806", ETHERNET_IPV4), DroppedMalformed),
        ("ICMP without a message", ipv4_packet(ADDRESS4, "01", "0000", 0, ""), DroppedMalformed),
        ("ICMPv6 without a message", ipv6_packet(ADDRESS6, TARGET6, "3a", ""), DroppedMalformed),
        ("half an extension header", ipv6_packet(ADDRESS6, TARGET6, "00", "3a"), DroppedMalformed),
    ]
}

#[test]
fn a_pod_sends_what_is_its_own() {
    let mut programs = guarded(&pod());
    for (what, packet) in admitted() {
        let packet = bytes(&packet);
        let ran = programs.run("guard_ingress", &packet, Place::default()).unwrap();
        let dropped: Vec<_> = Counter::ALL.iter().filter(|it| counted(&mut programs, **it) != 0).collect();
        assert_eq!((ran.code, ran.packet, dropped), (NEXT, packet, vec![]), "{what}");
    }
}

#[test]
fn everything_else_is_dropped_and_its_reason_counted() {
    let mut programs = guarded(&pod());
    for (what, packet, reason) in refused() {
        let count = |programs: &mut Programs| -> Vec<(Counter, u64)> {
            Counter::ALL.iter().map(|it| (*it, counted(programs, *it))).collect()
        };
        let mut expected = count(&mut programs);
        let ran = programs.run("guard_ingress", &bytes(&packet), Place::default()).unwrap();
        expected[reason as usize].1 += 1;
        assert_eq!((ran.code, count(&mut programs)), (DROP, expected), "{what}");
    }
}

/// A pod of one family has no address of the other, and the unspecified one is not it.
#[test]
fn a_family_without_an_address_is_mute() {
    let none4 = EndpointValue { address4: Ipv4Addr::UNSPECIFIED.into(), ..pod() };
    let none6 = EndpointValue { address6: Ipv6Addr::UNSPECIFIED.into(), ..pod() };
    let cases = [
        (none4, ipv4("00000000"), DROP),
        (none4, ipv4(ADDRESS4), DROP),
        (none4, arp(ETHERNET_IPV4, MAC, "00000000"), DROP),
        (none4, ipv6(ADDRESS6, TARGET6), NEXT),
        (none6, ipv6(UNSPECIFIED6, ALL_NODES), DROP),
        (none6, ipv6(ADDRESS6, TARGET6), DROP),
        (none6, icmp6("88", UNSPECIFIED6), DROP),
        (none6, ipv4(ADDRESS4), NEXT),
    ];
    for (record, packet, code) in cases {
        let mut programs = guarded(&record);
        let ran = programs.run("guard_ingress", &bytes(&packet), Place::default()).unwrap();
        assert_eq!(ran.code, code, "{packet}");
    }
}

#[test]
fn without_a_record_nothing_passes_in_either_direction() {
    let mut programs = Programs::load(&PacketSettings::DEFAULT, &Sizes::default()).unwrap();
    for program in names::GUARD_PROGRAMS {
        let ran = programs.run(program, &bytes(&ipv4(ADDRESS4)), Place::default()).unwrap();
        assert_eq!(ran.code, DROP, "{program}");
    }
    assert_eq!(counted(&mut programs, Counter::DroppedPodUnknown), 2);
}

/// A packet that the pod may send, of this many bytes.
pub(crate) fn sized(length: usize) -> Vec<u8> {
    let mut packet = bytes(&ipv4(ADDRESS4));
    packet.resize(length, 0);
    packet
}

/// What the packet says of its sender, if it says it where the pod's own do.
fn names_the_pod(packet: &[u8]) -> bool {
    let at = |from: usize, hex: &str| {
        let expected = bytes(hex);
        packet.get(from..from + expected.len()) == Some(expected.as_slice())
    };
    let stays = at(38, "ff") || at(38, "fe") && packet.get(39).is_some_and(|byte| byte & 0xc0 == 0x80);
    let source = match packet.get(12..14) {
        Some([0x08, 0x00]) => at(26, ADDRESS4),
        Some([0x86, 0xdd]) => at(22, ADDRESS6) || at(22, LINK_LOCAL) && stays,
        Some([0x08, 0x06]) => at(22, MAC) && at(28, ADDRESS4),
        _ => false,
    };
    at(6, MAC) && source
}

/// Every byte of every packet, changed in several ways: whatever passes is still the pod's own.
#[test]
fn no_change_of_a_byte_lets_another_source_pass() {
    let mut programs = guarded(&pod());
    let all = admitted().into_iter().map(|(_, packet)| packet);
    let packets: Vec<_> =
        all.chain(refused().into_iter().map(|(_, packet, _)| packet)).map(|packet| bytes(&packet)).collect();
    let (mut passed, mut dropped) = (0, 0);
    for (packet, at) in packets.iter().flat_map(|packet| (0..packet.len()).map(move |at| (packet, at))) {
        for change in [0x01, 0x02, 0x80, 0xff] {
            let mut changed = packet.clone();
            changed[at] ^= change;
            // The kernel itself refuses to run some that contradict themselves.
            let Ok(ran) = programs.run("guard_ingress", &changed, Place::default()) else { continue };
            match ran.code {
                NEXT => assert!(names_the_pod(&changed), "{changed:02x?}"),
                code => assert_eq!(code, DROP),
            }
            let count = if ran.code == NEXT { &mut passed } else { &mut dropped };
            *count += 1;
        }
    }
    assert!(passed > 1_000 && dropped > 1_000, "{passed} {dropped}");
}
