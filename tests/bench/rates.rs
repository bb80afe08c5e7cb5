//! Connect + request + close through a Service, as a ratio to the same work at the backend's own address.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Instant;

use anyhow::Result;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use sheave_tests::lab::{Lab, Pod};
use sheave_tests::objects::{publish, ready, service};
use sheave_tests::plane::{Host, Plane};

use crate::hooks::fill;
use crate::statistics::Samples;

/// Connections in one slice of a round.
const CONNECTIONS: usize = 4_000;
const TARGET: u16 = 8080;

pub(crate) fn run(services: usize, rounds: usize) -> Result<()> {
    println!(
        "\n## rates\n\nconnect + 1 byte + answer + close, {CONNECTIONS} a slice, {rounds} interleaved rounds,"
    );
    println!("client on one CPU, server on the other; `direct again` is the noise of the method itself\n");
    println!(
        "| Services | path | connections/s, median | ratio to direct: median (min, max) |\n| ---: | --- | ---: | ---: |"
    );
    for others in [0, services] {
        rows(others, rounds)?;
    }
    Ok(())
}

fn rows(others: usize, rounds: usize) -> Result<()> {
    let (host, mut lab) = (Host::new()?, Lab::new()?);
    let (client, backend) = (lab.pod("client")?, lab.pod("backend")?);
    let mut plane = Plane::open(&host, &lab)?;
    fill(&mut plane, others)?;
    let endpoints = [ready(backend.v4), ready(backend.v6)];
    plane.apply(publish(
        &service("web", &["10.96.0.10", "fd00:10:96::10"], 80, "TCP"),
        TARGET,
        &endpoints,
    ))?;
    let (direct, direct6) =
        (SocketAddr::new(backend.v4.into(), TARGET), SocketAddr::new(backend.v6.into(), TARGET));
    serve(&backend, direct)?;
    serve(&backend, direct6)?;
    let paths = [
        ("direct, IPv4", direct, direct),
        ("direct again, IPv4", direct, direct),
        ("Service, IPv4", "10.96.0.10:80".parse()?, direct),
        ("direct, IPv6", direct6, direct6),
        ("Service, IPv6", "[fd00:10:96::10]:80".parse()?, direct6),
    ];
    let mut rates = vec![Vec::new(); paths.len()];
    for round in 0..=rounds {
        for (path, samples) in paths.iter().zip(&mut rates) {
            let rate = client.netns.run(|| slice(path.1))?;
            // The first round warms up.
            if round > 0 {
                samples.push(rate);
            }
        }
    }
    for (index, (name, _, base)) in paths.iter().enumerate() {
        let reference = if *base == direct { 0 } else { 3 };
        let ratios = rates[index].iter().zip(&rates[reference]).map(|(rate, base)| rate / base);
        let rate = Samples::new(rates[index].iter().copied());
        println!("| {} | {name} | {:.0} | {} |", others + 1, rate.median(), Samples::new(ratios).spread());
    }
    Ok(())
}

/// Connections per second.
fn slice(to: SocketAddr) -> Result<f64> {
    pin(0)?;
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(b"?")?;
        // The server closes first, so that TIME_WAIT stays on its side and the client never runs out of ports.
        stream.read_to_end(&mut Vec::with_capacity(8))?;
    }
    Ok(CONNECTIONS as f64 / start.elapsed().as_secs_f64())
}

fn serve(pod: &Pod, address: SocketAddr) -> Result<()> {
    let listener = pod.netns.run(|| TcpListener::bind(address))?;
    pod.netns.spawn(move || {
        let _ = pin(1);
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 8]);
            let _ = stream.write_all(b"!");
        }
    })?;
    Ok(())
}

/// Keeps the calling thread on one CPU, where there are two.
pub(crate) fn pin(cpu: usize) -> Result<()> {
    if std::thread::available_parallelism()?.get() > 1 {
        let mut set = CpuSet::new();
        set.set(cpu)?;
        sched_setaffinity(Pid::from_raw(0), &set)?;
    }
    Ok(())
}
