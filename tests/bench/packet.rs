//! Nanoseconds that the programs on devices take for one packet, by `BPF_PROG_TEST_RUN`.
//!
//! One run for each measurement, as a program that is repeated would see its own output; from each the time of an empty
//! program is taken off, measured in turn with it. Every verdict is checked. With one flow all is in the caches; with
//! 100,000 flows in random order hardly anything is: the truth lies between.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use proxy_common::{DeviceValue, EndpointValue, PacketSettings, SocketLb, device::NODE_DEFAULT};
use proxy_packet::simulation::Frame;
use proxy_userspace::dataplane::{Capacities, DataPlaneConfig, DeviceRole, Masquerade};
use sheave_tests::lab::{Lab, NODE_V4, NODE_V6, Pod};
use sheave_tests::objects::{elsewhere, publish, ready, service};
use sheave_tests::plane::{Host, Plane};

use crate::hooks::fill;
use crate::statistics::Samples;
use crate::timing::{self, SkBuff};

/// Measurements of each row.
const RUNS: usize = 20_000;
/// Rounds in which those are taken: what a row's spread is over.
const ROUNDS: usize = 5;
/// Flows of the rows with cold caches.
const FLOWS: usize = 100_000;
/// The budget for a packet that is not ours, in nanoseconds.
const MISS_BUDGET: f64 = 30.0;

const NEXT: i32 = -1;
const REDIRECT: i32 = 7;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// A program, the packets it gets in turn, and the verdict it must give.
struct Row {
    name: String,
    program: &'static str,
    at: SkBuff,
    packets: Vec<Vec<u8>>,
    verdict: i32,
}

/// Settings that decide what the programs ask of a packet that is not ours.
#[derive(Clone, Copy)]
struct Way {
    socket_lb: SocketLb,
    masquerade: bool,
}

/// The default first: with it everything else is measured.
const WAYS: [Way; 4] = [
    Way { socket_lb: SocketLb::All, masquerade: false },
    Way { socket_lb: SocketLb::All, masquerade: true },
    Way { socket_lb: SocketLb::Off, masquerade: false },
    Way { socket_lb: SocketLb::Off, masquerade: true },
];

impl Way {
    fn is_default(self) -> bool {
        self.socket_lb == SocketLb::All && !self.masquerade
    }

    fn options(self) -> &'static str {
        match (self.socket_lb == SocketLb::Off, self.masquerade) {
            (false, false) => "",
            (false, true) => ", --masquerade",
            (true, false) => ", --socket-lb=off",
            (true, true) => ", --socket-lb=off --masquerade",
        }
    }
}

/// Everything that is measured.
struct Bench {
    plane: Plane,
    lab: Lab,
    _host: Host,
    _backend: Pod,
    outside: u32,
    pod: u32,
    empty: OwnedFd,
}

pub(crate) fn run(services: usize) -> Result<()> {
    println!(
        "\n## packet\n\n{ROUNDS} rounds of {} runs; {services} other Services; flows of the second figure: {FLOWS}\n",
        RUNS / ROUNDS
    );
    println!(
        "| packet | program | ns, one flow: median (min, max of rounds) | ns, many flows |\n| --- | --- | ---: | ---: |"
    );
    let mut over = Vec::new();
    for way in WAYS {
        let bench = Bench::new(services, way)?;
        let rows = if way.is_default() { bench.rows()? } else { Vec::new() };
        for row in bench.misses(way) {
            let taken = bench.measure(&row)?;
            println!("| {} | {} | {} | - |", row.name, row.program, taken.spread());
            if taken.median() > MISS_BUDGET {
                over.push(row.name);
            }
        }
        for (one, many) in rows {
            let (warm, cold) =
                (bench.measure(&one)?, many.as_ref().map(|row| bench.measure(row)).transpose()?);
            let cold = cold.as_ref().map_or_else(|| "-".to_owned(), Samples::spread);
            println!("| {} | {} | {} | {cold} |", one.name, one.program, warm.spread());
        }
    }
    println!("\nBudget for a packet that is not ours: {MISS_BUDGET} ns; above it: {over:?}");
    Ok(())
}

impl Bench {
    fn new(services: usize, way: Way) -> Result<Self> {
        let (host, mut lab) = (Host::new()?, Lab::new()?);
        let backend = lab.pod("backend")?;
        lab.node.ip("link add outside type veth peer name router")?;
        lab.node.ip("link set outside up")?;
        lab.node.ip("link set router up")?;
        for (address, neighbour) in
            [("198.51.100.1/24", "198.51.100.2"), ("2001:db8:1::1/64", "2001:db8:1::2")]
        {
            lab.node.ip(&format!("address add {address} dev outside nodad"))?;
            lab.node.ip(&format!("neighbour add {neighbour} dev outside lladdr 02:00:00:00:00:09"))?;
            let family = if address.contains("::") { "-6 " } else { "" };
            lab.node.ip(&format!("{family}route add default via {neighbour}"))?;
        }
        // All flows of all rows, and room for places to be found as in a table that is not nearly full.
        let capacities = Capacities { flows: 1_048_576, ..Capacities::default() };
        let packet = PacketSettings { masquerade: way.masquerade.into(), ..PacketSettings::DEFAULT };
        let config = DataPlaneConfig { socket_lb: way.socket_lb, packet, ..host.config(capacities) };
        let mut plane = Plane::open_configured(&lab, &config)?;
        let pods = vec!["10.244.0.0/24".parse()?, "fd00:10:244::/64".parse()?];
        plane.data.set_masquerade(&Masquerade { pods, exempt: Vec::new() })?;
        let own = DeviceValue { source4: NODE_V4.into(), source6: NODE_V6.into(), ..DeviceValue::NONE };
        plane.data.set_device(NODE_DEFAULT, own)?;
        let outside = plane.attach_device(&lab.node, "outside", DeviceRole::Node, own)?;
        let pod = plane.attach_device(&lab.node, "pod1", DeviceRole::Pod, DeviceValue::NONE)?;
        fill(&mut plane, services)?;
        publish_all(&mut plane, backend.v4.into(), backend.v6.into())?;
        guard(&mut plane, pod, 0)?;
        guard(&mut plane, outside, u64::MAX)?;
        let empty = timing::empty_program()?;
        Ok(Self { plane, lab, _host: host, _backend: backend, outside, pod, empty })
    }

    /// Packets that are not ours, at each place: of somebody outside to somebody else.
    fn misses(&self, way: Way) -> Vec<Row> {
        let mut rows = Vec::new();
        for family in [Family::V4, Family::V6] {
            let mut row = |name: &str, program, device, arrived_at| {
                rows.push(Row {
                    name: format!("not ours, {name}, {family:?}{}", way.options()),
                    program,
                    at: SkBuff::at(device, arrived_at),
                    packets: vec![tcp(family.client(1), family.other(), ACK)],
                    verdict: NEXT,
                });
            };
            row("arrives", "node_ingress", self.outside, self.outside);
            row("leaves", "node_egress", self.outside, self.pod);
            row("from the host", "node_egress", self.outside, 0);
            row("from a pod", "pod_ingress", self.pod, self.pod);
            row("into a pod", "pod_egress", self.pod, self.outside);
        }
        rows
    }

    /// The other rows: each with one flow, and where that makes a difference with many.
    fn rows(&self) -> Result<Vec<(Row, Option<Row>)>> {
        let mut rows = Vec::new();
        for family in [Family::V4, Family::V6] {
            let row = |name: &str, program, packets, verdict| Row {
                name: format!("{name}, {family:?}"),
                program,
                at: SkBuff::at(if program == "pod_ingress" { self.pod } else { self.outside }, self.outside),
                packets,
                verdict,
            };
            let own = vec![tcp(family.pod(), family.other(), ACK)];
            let guarded = |name, program, device| Row {
                at: SkBuff::at(device, device),
                ..row(name, program, own.clone(), NEXT)
            };
            rows.push((guarded("of a pod", "guard_ingress", self.pod), None));
            rows.push((guarded("of a pod with a limit", "guard_ingress", self.outside), None));
            rows.push((guarded("to a pod with a limit", "guard_egress", self.outside), None));
            for (name, target, verdict) in
                [("local", family.near(), NEXT), ("remote", family.far(), REDIRECT)]
            {
                let new = (0..FLOWS + RUNS).map(|n| tcp(family.client(n), target, SYN)).collect::<Vec<_>>();
                let (flows, fresh) = new.split_at(FLOWS);
                let replies = self.establish(flows, verdict)?;
                let label = |what: &str| format!("{what}, {name} backend");
                let pair = |what: &str, program, packets: Vec<Vec<u8>>| {
                    let one = packets.iter().take(1).cloned().collect();
                    (
                        row(&label(what), program, one, verdict),
                        Some(row(&label(what), program, shuffled(&packets), verdict)),
                    )
                };
                let data = (0..FLOWS).map(|n| tcp(family.client(n), target, ACK)).collect();
                rows.push(pair("established", "node_ingress", data));
                let back = if verdict == NEXT { "node_egress" } else { "node_ingress" };
                rows.push(pair("reply", back, replies));
                rows.push((row(&label("new"), "node_ingress", fresh.to_vec(), verdict), None));
            }
        }
        Ok(rows)
    }

    /// Opens flows; returns a packet of each one's backend.
    fn establish(&self, syns: &[Vec<u8>], verdict: i32) -> Result<Vec<Vec<u8>>> {
        let at = SkBuff::at(self.outside, self.outside);
        let program = self.plane.data.device_program("node_ingress")?;
        self.lab.node.run(|| {
            let mut sent = Vec::new();
            let open = |syn: &Vec<u8>| {
                timing::run(program, syn, &at, verdict, Some(&mut sent)).context("a new flow")?;
                answer(&sent)
            };
            syns.iter().map(open).collect()
        })
    }

    fn measure(&self, row: &Row) -> Result<Samples> {
        let program = self.plane.data.device_program(row.program)?;
        self.lab.node.run(|| {
            let mut rounds = Vec::new();
            let mut packets = row.packets.iter().cycle();
            for _ in 0..ROUNDS {
                let mut runs = Vec::new();
                for _ in 0..RUNS / ROUNDS {
                    let packet = packets.next().context("a row without a packet")?;
                    let nothing = timing::run(self.empty.as_fd(), packet, &row.at, 0, None)?;
                    let taken = timing::run(program, packet, &row.at, row.verdict, None)
                        .with_context(|| row.name.clone())?;
                    runs.push(f64::from(taken) - f64::from(nothing));
                }
                rounds.push(Samples::new(runs).median());
            }
            Ok(Samples::new(rounds))
        })
    }
}

#[derive(Clone, Copy, Debug)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// A client, each with another address and port.
    fn client(self, number: usize) -> SocketAddr {
        let port = 32_768 + u16::try_from(number % 28_000).unwrap_or_default();
        let host = u16::try_from(number / 28_000).unwrap_or_default();
        match self {
            Self::V4 => SocketAddr::new(IpAddr::from([203, 0, 113, 10 + host.to_be_bytes()[1]]), port),
            Self::V6 => SocketAddr::new(IpAddr::from([0x2001, 0xdb8, 2, 0, 0, 0, 0, 10 + host]), port),
        }
    }

    fn pick(self, v4: &str, v6: &str) -> SocketAddr {
        let text = match self {
            Self::V4 => v4,
            Self::V6 => v6,
        };
        text.parse().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)))
    }

    fn pod(self) -> SocketAddr {
        self.pick("10.244.0.7:40000", "[fd00:10:244::7]:40000")
    }

    fn near(self) -> SocketAddr {
        self.pick("192.0.2.200:80", "[2001:db8:5::200]:80")
    }

    fn far(self) -> SocketAddr {
        self.pick("192.0.2.201:80", "[2001:db8:5::201]:80")
    }

    fn other(self) -> SocketAddr {
        self.pick("198.51.100.77:8443", "[2001:db8:1::77]:8443")
    }
}

/// The record of a pod that sends with the MAC address of all frames here, with a limit that nothing reaches.
fn guard(plane: &mut Plane, device: u32, rate: u64) -> Result<()> {
    let frame = tcp(Family::V4.pod(), Family::V4.other(), ACK);
    let record = EndpointValue {
        address4: Ipv4Addr::new(10, 244, 0, 7).into(),
        address6: Ipv6Addr::new(0xfd00, 0x10, 0x244, 0, 0, 0, 0, 7).into(),
        mac: frame.get(6..12).context("a frame without a sender")?.try_into()?,
        reserved: [0; 6],
        from_rate: rate,
        from_burst: 0,
        to_rate: rate,
        to_burst: 0,
        from_due: 0,
        to_due: 0,
    };
    Ok(plane.data.restore_endpoint(device, &record)?)
}

/// A Service with a backend here and one with many elsewhere: one backend can have only as many flows as there are
/// source ports.
fn publish_all(plane: &mut Plane, v4: IpAddr, v6: IpAddr) -> Result<()> {
    let near = service("near", &["10.96.0.10", "fd00:10:96::10"], 80, "TCP");
    let far = service("far", &["10.96.0.11", "fd00:10:96::11"], 80, "TCP");
    let addresses = (0..32_u8).flat_map(|n| {
        [IpAddr::from([10, 200, 0, n + 1]), IpAddr::from([0xfd00, 0x200, 0, 0, 0, 0, 0, u16::from(n) + 1])]
    });
    let remote: Vec<_> = addresses.map(|address| elsewhere(ready(address))).collect();
    plane.apply(publish(
        &with_external(near, &["192.0.2.200", "2001:db8:5::200"]),
        8080,
        &[ready(v4), ready(v6)],
    ))?;
    plane.apply(publish(&with_external(far, &["192.0.2.201", "2001:db8:5::201"]), 8080, &remote))?;
    Ok(())
}

fn with_external(
    mut service: proxy_core::model::ServiceObject,
    addresses: &[&str],
) -> proxy_core::model::ServiceObject {
    service.external_ips = addresses.iter().map(|address| (*address).to_owned()).collect();
    service
}

fn tcp(source: SocketAddr, destination: SocketAddr, flags: u8) -> Vec<u8> {
    Frame::tcp(source, destination, flags, (1, 1), &[]).build()
}

/// A packet of whoever got this one.
fn answer(packet: &[u8]) -> Result<Vec<u8>> {
    let is_v4 = packet.get(12) == Some(&8);
    let (source, destination, ports) = if is_v4 { (26, 30, 34) } else { (22, 38, 54) };
    let address = |at: usize| -> Result<IpAddr> {
        Ok(if is_v4 {
            IpAddr::from(<[u8; 4]>::try_from(packet.get(at..at + 4).context("short")?)?)
        } else {
            IpAddr::from(<[u8; 16]>::try_from(packet.get(at..at + 16).context("short")?)?)
        })
    };
    let port = |at: usize| -> Result<u16> {
        Ok(u16::from_be_bytes(<[u8; 2]>::try_from(packet.get(at..at + 2).context("short")?)?))
    };
    let from = SocketAddr::new(address(destination)?, port(ports + 2)?);
    let to = SocketAddr::new(address(source)?, port(ports)?);
    Ok(tcp(from, to, ACK))
}

/// In an order without a pattern, always the same one (a linear congruential walk over a prime beyond the length).
fn shuffled(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    const PRIME: usize = 100_003;
    let order = (0..PRIME).map(|n| n * 7_919 % PRIME).filter(|at| *at < packets.len());
    order.map(|at| packets[at].clone()).collect()
}
