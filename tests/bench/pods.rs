//! Pod to pod, on one node and across two: the network of the plugin and the agent against plain devices and routes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use nix::libc::linger;
use nix::sys::socket::{setsockopt, sockopt};

use crate::rates::pin;
use crate::site::{Place, Programs, Site, Way};
use crate::statistics::Samples;

/// How long each kind of work goes on in a round: the busier the machine, the less is done, not the longer it takes.
const SLICE: Duration = Duration::from_millis(150);
/// How many at once.
const STREAMS: usize = 4;
const BLOCK: usize = 64 * 1024;
/// Where pods answer, and where they swallow.
const ANSWERING: u16 = 7001;
const SWALLOWING: u16 = 7002;

/// From a pod to another.
#[derive(Clone, Copy)]
struct Route<'a> {
    name: &'static str,
    from: &'a Place,
    to: &'a Place,
}

impl<'a> Route<'a> {
    fn new(name: &'static str, site: &'a Site, to: usize) -> Self {
        Self { name, from: &site.pods[0], to: &site.pods[to] }
    }
}

/// Does one kind of work with what listens there: how much in a second.
type Slice = fn(SocketAddr) -> Result<f64>;

const KINDS: [(&str, Slice, u16); 4] = [
    ("TCP_RR", round_trips, ANSWERING),
    ("TCP_CRR", connections, ANSWERING),
    ("one stream, MB", one_stream, SWALLOWING),
    ("four streams, MB", streams, SWALLOWING),
];

pub(crate) fn run(programs: &Programs<'_>, beside: Option<&Programs<'_>>, rounds: usize) -> Result<()> {
    let (direct, vxlan) = (sites(programs, beside, Way::Direct)?, sites(programs, beside, Way::Vxlan)?);
    println!(
        "\n## pods\n\npod to pod, IPv4, agents running, segmentation offload on, {rounds} interleaved rounds, clients on one \
         CPU, servers on the other\n"
    );
    println!(
        "| where | what | path | a second, median | ratio to plain: median (min, max) |\n| --- | --- | --- | ---: | ---: |"
    );
    measure("one node", &direct, 1, rounds)?;
    measure("two nodes, direct", &direct, 2, rounds)?;
    measure("two nodes, VXLAN", &vxlan, 2, rounds)
}

/// The plain one first, then the defaults, a setting that is faster, and another build.
fn sites(
    programs: &Programs<'_>,
    beside: Option<&Programs<'_>>,
    way: Way,
) -> Result<Vec<(&'static str, Site)>> {
    let shortcut = Programs { settings: &["--pod-shortcut", "true"], ..*programs };
    let mut sites = vec![
        ("plain", Site::plain(way)?),
        ("sheave", Site::sheave(programs, way)?),
        ("sheave, shortcut", Site::sheave(&shortcut, way)?),
    ];
    if let Some(beside) = beside {
        sites.push(("sheave beside", Site::sheave(beside, way)?));
    }
    for (_, site) in &sites {
        serve(&site.pods[1])?;
        serve(&site.pods[2])?;
    }
    Ok(sites)
}

/// From the first pod of each site to the one of this index.
fn measure(place: &str, sites: &[(&'static str, Site)], to: usize, rounds: usize) -> Result<()> {
    let mut paths: Vec<_> = sites.iter().map(|(name, site)| Route::new(name, site, to)).collect();
    paths.insert(1, Route { name: "plain again", ..paths[0] });
    for (what, slice, port) in KINDS {
        let mut rates = vec![Vec::new(); paths.len()];
        for round in 0..=rounds {
            for (path, samples) in paths.iter().zip(&mut rates) {
                let target = SocketAddr::new(path.to.address.into(), port);
                let rate = path.from.netns.run(|| slice(target))?;
                // The first round warms up.
                if round > 0 {
                    samples.push(rate);
                }
            }
        }
        for (path, samples) in paths.iter().zip(&rates) {
            let ratios = samples.iter().zip(&rates[0]).map(|(rate, base)| rate / base);
            let (rate, ratios) = (Samples::new(samples.iter().copied()), Samples::new(ratios));
            println!("| {place} | {what} | {} | {:.0} | {} |", path.name, rate.median(), ratios.spread());
        }
    }
    Ok(())
}

/// Has a pod answer and swallow.
fn serve(pod: &Place) -> Result<()> {
    for (port, work) in [(ANSWERING, answer as fn(TcpStream)), (SWALLOWING, swallow_beside)] {
        let address = SocketAddr::new(pod.address.into(), port);
        let listener = pod.netns.run(|| TcpListener::bind(address))?;
        pod.netns.spawn(move || {
            let _ = pin(1);
            for stream in listener.incoming().flatten() {
                work(stream);
            }
        })?;
    }
    Ok(())
}

/// A byte for a byte until the client closes.
fn answer(mut stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let mut byte = [0; 1];
    while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
}

/// On a thread of its own, as there are several.
fn swallow_beside(mut stream: TcpStream) {
    thread::spawn(move || {
        let mut block = vec![0; BLOCK];
        while stream.read(&mut block).is_ok_and(|length| length > 0) {}
    });
}

fn per_second(count: usize, start: Instant) -> f64 {
    count as f64 / start.elapsed().as_secs_f64()
}

/// One byte each way on one connection.
fn round_trips(to: SocketAddr) -> Result<f64> {
    pin(0)?;
    let mut stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < SLICE {
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0; 1])?;
        count += 1;
    }
    Ok(per_second(count, start))
}

/// A connection for one byte each way.
fn connections(to: SocketAddr) -> Result<f64> {
    pin(0)?;
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < SLICE {
        let mut stream = TcpStream::connect(to)?;
        stream.write_all(b"?")?;
        stream.read_exact(&mut [0; 1])?;
        // A reset leaves nothing behind; else the ports of the client would run out.
        setsockopt(&stream, sockopt::Linger, &linger { l_onoff: 1, l_linger: 0 })?;
        count += 1;
    }
    Ok(per_second(count, start))
}

/// Megabytes.
fn one_stream(to: SocketAddr) -> Result<f64> {
    pin(0)?;
    let start = Instant::now();
    Ok(per_second(send(to, start)?, start) / 1e6)
}

/// Megabytes of all together.
fn streams(to: SocketAddr) -> Result<f64> {
    pin(0)?;
    let start = Instant::now();
    let bytes = thread::scope(|scope| {
        // Threads are where the one is that starts them: in this namespace, on this CPU.
        let threads: Vec<_> = (0..STREAMS).map(|_| scope.spawn(|| send(to, start))).collect();
        let sent = threads.into_iter().map(|it| it.join().map_err(|_| anyhow!("a thread panicked"))?);
        sent.sum::<Result<usize>>()
    })?;
    Ok(per_second(bytes, start) / 1e6)
}

/// How many bytes.
fn send(to: SocketAddr, start: Instant) -> Result<usize> {
    let mut stream = TcpStream::connect(to)?;
    let (block, mut bytes) = (vec![0; BLOCK], 0);
    while start.elapsed() < SLICE {
        stream.write_all(&block)?;
        bytes += BLOCK;
    }
    Ok(bytes)
}
