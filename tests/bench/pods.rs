//! Pod to pod on one node: the network that the plugin makes, with the guard on it, against plain veth devices and routes.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;
use sheave_tests::cni::{Stage, Subject};
use sheave_tests::lab::Lab;
use sheave_tests::netns::Netns;
use sheave_tests::plane::{Host, Plane};

use crate::cni::guard;
use crate::rates::pin;
use crate::statistics::Samples;

/// Request and answer of one byte each on one connection.
const ROUND_TRIPS: usize = 20_000;
/// Connections with one byte each way.
const CONNECTIONS: usize = 3_000;
/// How long a stream goes on.
const STREAM: Duration = Duration::from_millis(400);
const BLOCK: usize = 64 * 1024;

/// Two pods.
struct Route {
    name: &'static str,
    from: Netns,
    to: Netns,
    address: IpAddr,
}

/// Does one kind of work with what listens there: how much in a second.
type Slice = fn(SocketAddr) -> Result<f64>;

pub(crate) fn run(plugin: &Path, rounds: usize) -> Result<()> {
    let (host, mut lab) = (Host::new()?, Lab::new()?);
    let (client, server) = (lab.pod("client")?, lab.pod("server")?);
    let mut stage = Stage::new(&Subject::sheave_at(plugin))?;
    let mut plane = Plane::on(&host, &stage.node)?;
    guard(&mut plane, &mut stage)?;
    let config = stage.config("1.0.0");
    let (ours, theirs) = (stage.pod()?, stage.pod()?);
    stage.add(&config, &ours)?;
    let address = first_address(&stage.add(&config, &theirs)?)?;
    let plain = |name| -> Result<Route> {
        let (from, to) = (client.netns.try_clone()?, server.netns.try_clone()?);
        // As wide as the plugin's: the MTU would decide otherwise.
        from.ip("link set eth0 mtu 1450")?;
        to.ip("link set eth0 mtu 1450")?;
        Ok(Route { name, from, to, address: server.v4.into() })
    };
    let paths = [
        plain("plain veth")?,
        plain("plain veth again")?,
        Route { name: "sheave-cni, guarded", from: ours.netns, to: theirs.netns, address },
    ];
    measure(&paths, rounds)
}

fn first_address(result: &Value) -> Result<IpAddr> {
    let text = result["ips"][0]["address"].as_str().context("no address")?;
    Ok(text.split('/').next().unwrap_or_default().parse::<Ipv4Addr>()?.into())
}

fn measure(paths: &[Route], rounds: usize) -> Result<()> {
    println!(
        "\npod to pod on one node, IPv4, {rounds} interleaved rounds, client on one CPU, server on the other\n"
    );
    println!(
        "| what | path | a second, median | ratio to plain: median (min, max) |\n| --- | --- | ---: | ---: |"
    );
    let kinds: [(&str, Slice, u16); 3] =
        [("TCP_RR", round_trips, 7001), ("TCP_CRR", connections, 7001), ("stream, MB", stream, 7002)];
    for path in paths {
        serve(path, 7001, answer)?;
        serve(path, 7002, swallow)?;
    }
    for (what, slice, port) in kinds {
        let mut rates = vec![Vec::new(); paths.len()];
        for round in 0..=rounds {
            for (path, samples) in paths.iter().zip(&mut rates) {
                let rate = path.from.run(|| slice(SocketAddr::new(path.address, port)))?;
                // The first round warms up.
                if round > 0 {
                    samples.push(rate);
                }
            }
        }
        for (path, samples) in paths.iter().zip(&rates) {
            let ratios = samples.iter().zip(&rates[0]).map(|(rate, base)| rate / base);
            let rate = Samples::new(samples.iter().copied());
            println!("| {what} | {} | {:.0} | {} |", path.name, rate.median(), Samples::new(ratios).spread());
        }
    }
    Ok(())
}

fn serve(path: &Route, port: u16, work: fn(TcpStream)) -> Result<()> {
    let address = SocketAddr::new(path.address, port);
    // A path that is measured twice is served once.
    let Ok(listener) = path.to.run(|| TcpListener::bind(address)) else { return Ok(()) };
    path.to.spawn(move || {
        let _ = pin(1);
        for stream in listener.incoming().flatten() {
            work(stream);
        }
    })?;
    Ok(())
}

/// A byte for a byte until the client closes.
fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut byte = [0; 1];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

fn swallow(mut stream: TcpStream) {
    let mut block = vec![0; BLOCK];
    while stream.read(&mut block).is_ok_and(|length| length > 0) {}
}

fn per_second(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

fn round_trips(to: SocketAddr) -> Result<f64> {
    pin(0)?;
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let start = Instant::now();
    for _ in 0..ROUND_TRIPS {
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0; 1])?;
    }
    Ok(per_second(ROUND_TRIPS, start))
}

fn connections(to: SocketAddr) -> Result<f64> {
    pin(0)?;
    let start = Instant::now();
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0; 1])?;
        // A reset leaves nothing behind; else the ports of the client would run out.
        setsockopt(&stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
    }
    Ok(per_second(CONNECTIONS, start))
}

/// Megabytes.
fn stream(to: SocketAddr) -> Result<f64> {
    pin(0)?;
    let mut stream = TcpStream::connect(to)?;
    let (block, start, mut bytes) = (vec![0; BLOCK], Instant::now(), 0);
    while start.elapsed() < STREAM {
        stream.write_all(&block)?;
        bytes += BLOCK;
    }
    Ok(per_second(bytes, start) / 1e6)
}
