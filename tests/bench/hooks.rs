//! Nanoseconds that one run of a program takes, as the kernel counts them (`run_time_ns / run_cnt`).
//!
//! sock_addr programs have no BPF_PROG_TEST_RUN: real system calls drive them. The kernel's own statistics cost time too
//! and are part of the figure; a program that does nothing much (getpeername without state) shows how much.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result};
use proxy_userspace::dataplane::enable_run_statistics;
use sheave_tests::lab::Lab;
use sheave_tests::objects::{publish, ready, service, sticky};
use sheave_tests::plane::{Host, Plane};

use crate::statistics::Samples;

const CALLS: usize = 20_000;
const ROUNDS: usize = 7;
const TARGET: u16 = 9;

/// One row: what is done, and the program that is looked at.
type Row = (&'static str, &'static str, fn(&Sockets) -> Result<()>);

const ROWS: [Row; 8] = [
    ("connect, no Service's address", "connect4", |sockets| sockets.connect(sockets.other)),
    ("connect, Service", "connect4", |sockets| sockets.connect(sockets.plain)),
    ("connect, Service with affinity", "connect4", |sockets| sockets.connect(sockets.sticky)),
    ("connect, Service, IPv6", "connect6", |sockets| sockets.connect6(sockets.plain6)),
    ("sendmsg, no Service's address", "sendmsg4", |sockets| sockets.send(sockets.other)),
    ("sendmsg, Service, flow known", "sendmsg4", |sockets| sockets.send(sockets.plain)),
    ("getpeername, translated", "getpeername4", |sockets| sockets.peer(sockets.plain)),
    ("getpeername, not translated", "getpeername4", |sockets| sockets.peer(sockets.other)),
];

struct Sockets {
    udp: UdpSocket,
    udp6: UdpSocket,
    plain: SocketAddr,
    plain6: SocketAddr,
    sticky: SocketAddr,
    other: SocketAddr,
}

impl Sockets {
    fn connect(&self, to: SocketAddr) -> Result<()> {
        (0..CALLS).try_for_each(|_| Ok(self.udp.connect(to)?))
    }

    fn connect6(&self, to: SocketAddr) -> Result<()> {
        (0..CALLS).try_for_each(|_| Ok(self.udp6.connect(to)?))
    }

    fn send(&self, to: SocketAddr) -> Result<()> {
        (0..CALLS).try_for_each(|_| {
            self.udp.send_to(b"x", to)?;
            Ok(())
        })
    }

    fn peer(&self, to: SocketAddr) -> Result<()> {
        self.udp.connect(to)?;
        (0..CALLS).try_for_each(|_| {
            self.udp.peer_addr()?;
            Ok(())
        })
    }
}

pub(crate) fn run(services: usize) -> Result<()> {
    println!(
        "\n## hooks\n\n{CALLS} calls a round, {ROUNDS} rounds; {services} other Services with one endpoint each\n"
    );
    println!("| call | program | ns per run: median (min, max) |\n| --- | --- | ---: |");
    let (host, mut lab) = (Host::new()?, Lab::new()?);
    let (client, backend) = (lab.pod("client")?, lab.pod("backend")?);
    let mut plane = Plane::open(&host, &lab)?;
    fill(&mut plane, services)?;
    let endpoints = [ready(backend.v4), ready(backend.v6)];
    let plain = service("plain", &["10.96.0.10", "fd00:10:96::10"], 80, "UDP");
    plane.apply(publish(&plain, TARGET, &endpoints))?;
    plane.apply(publish(
        &sticky(service("sticky", &["10.96.0.11"], 80, "UDP"), 10_800),
        TARGET,
        &endpoints,
    ))?;
    let _statistics = enable_run_statistics()?;
    for (call, program, work) in ROWS {
        let mut samples = Vec::new();
        for _ in 0..ROUNDS {
            let before = totals(&plane)?;
            client.netns.run(|| work(&sockets(backend.v4.into())?))?;
            let after = totals(&plane)?;
            let (runs, time) = (after[program].0 - before[program].0, after[program].1 - before[program].1);
            samples.push(time as f64 / runs as f64);
        }
        println!("| {call} | {program} | {} |", Samples::new(samples).spread());
    }
    Ok(())
}

/// Many Services, so that the tables are as large as a cluster's.
pub(crate) fn fill(plane: &mut Plane, services: usize) -> Result<()> {
    let events = (0..services)
        .flat_map(|n| {
            let n = u32::try_from(n).unwrap_or_default();
            let vip = IpAddr::from((u32::from_be_bytes([10, 97, 0, 0]) + n).to_be_bytes());
            let endpoint = IpAddr::from((u32::from_be_bytes([10, 128, 0, 0]) + n).to_be_bytes());
            publish(&service(&format!("fill-{n}"), &[&vip.to_string()], 80, "TCP"), 8080, &[ready(endpoint)])
        })
        .collect();
    plane.apply(events)?;
    Ok(())
}

fn sockets(backend: IpAddr) -> Result<Sockets> {
    Ok(Sockets {
        udp: UdpSocket::bind("0.0.0.0:0")?,
        udp6: UdpSocket::bind("[::]:0")?,
        plain: "10.96.0.10:80".parse()?,
        plain6: "[fd00:10:96::10]:80".parse()?,
        sticky: "10.96.0.11:80".parse()?,
        other: SocketAddr::new(backend, TARGET),
    })
}

/// Runs and nanoseconds of each program so far.
fn totals(plane: &Plane) -> Result<BTreeMap<String, (u64, u128)>> {
    let programs = plane.data.programs().context("program statistics")?;
    Ok(programs
        .into_iter()
        .map(|program| (program.name, (program.run_count, program.run_time.as_nanos())))
        .collect())
}
