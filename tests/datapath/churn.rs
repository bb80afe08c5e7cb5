//! Publishing: a reader sees the old set or the new set, never anything else.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use sheave_tests::client::{ask_tcp, ask_udp, udp_socket};
use sheave_tests::objects::publish;
use sheave_tests::wait::wait_for;

use crate::world::{TARGET, World, vip, vip_service, vip6};

/// How often the Service changes between two disjoint sets.
const FLIPS: usize = 10_000;
/// How many flips share one grace period: freed ids and ranges are reused over and over during the test.
const FLIPS_A_GRACE_PERIOD: usize = 25;
/// After how many questions a client makes sure that the kernel can follow with freeing its sockets.
const QUESTIONS_A_LOOK: usize = 1_000;
/// However slow the machine is, the test ends.
const LIMIT: Duration = Duration::from_secs(40);

/// What the clients saw.
#[derive(Default)]
struct Seen {
    connects: AtomicU64,
    failures: AtomicU64,
}

/// The pages that all UDP sockets of the machine may have before the kernel begins to limit them.
fn udp_pages_allowed() -> anyhow::Result<u64> {
    let limits = fs::read_to_string("/proc/sys/net/ipv4/udp_mem")?;
    Ok(limits.split_whitespace().next().context("no limit")?.parse()?)
}

/// The pages that all UDP sockets of the machine have.
fn udp_pages() -> anyhow::Result<u64> {
    let text = fs::read_to_string("/proc/thread-self/net/sockstat")?;
    let udp = text.lines().find_map(|line| line.strip_prefix("UDP: ")).context("no line for UDP")?;
    Ok(udp.rsplit(' ').next().context("no figure")?.parse()?)
}

/// Waits until the kernel has freed closed UDP sockets, if there are too many.
///
/// It frees a UDP socket an RCU grace period after it was closed, and as long the socket has a page of the memory that
/// all UDP sockets of the machine share. On a busy machine a grace period may take ten seconds: then a client that makes
/// a socket for each question has a million closed ones, the hard limit of `net.ipv4.udp_mem` is reached, and the kernel
/// drops the next answer to each client. It counts that only in the socket's own `drops`; any program that does the same
/// on the loopback device, without Sheave, loses answers in the same way.
fn let_closed_sockets_go(allowed: u64) {
    let is_room = || Ok((udp_pages()? < allowed).then_some(()));
    wait_for("closed UDP sockets are freed", LIMIT, is_room).unwrap();
}

fn hammer(
    stop: &AtomicBool,
    seen: &Seen,
    allowed: u64,
    ask: impl Fn() -> std::io::Result<String>,
) -> BTreeSet<String> {
    let mut backends = BTreeSet::new();
    for question in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if question % QUESTIONS_A_LOOK == 0 {
            let_closed_sockets_go(allowed);
        }
        match ask() {
            Ok(backend) => {
                backends.insert(backend);
            }
            Err(error) => {
                eprintln!("a connect failed: {error}");
                seen.failures.fetch_add(1, Ordering::Relaxed);
            }
        }
        seen.connects.fetch_add(1, Ordering::Relaxed);
    }
    backends
}

fn flip(world: &mut World, sets: &[&[&str]; 2], protocol: &str) -> usize {
    let start = Instant::now();
    let sets = sets.map(|names| world.endpoints(names));
    for flips in 0..FLIPS {
        if start.elapsed() > LIMIT {
            return flips;
        }
        let events = publish(&vip_service(protocol), TARGET, &sets[(flips + 1) % 2]);
        let plan = world.plane().plan(events);
        world.plane().write(&plan.ops).unwrap();
        if flips % FLIPS_A_GRACE_PERIOD == 0 {
            world.plane().settle().unwrap();
        }
    }
    FLIPS
}

fn churn(protocol: &str, ask: fn(SocketAddr) -> std::io::Result<String>) {
    let mut world = World::new();
    let first = world.endpoints(&["a"]);
    world.publish(&vip_service(protocol), &first);
    let (stop, seen) = (AtomicBool::new(false), Seen::default());
    let netns = &world.client.netns.try_clone().unwrap();
    let allowed = udp_pages_allowed().unwrap();
    let (flips, backends) = thread::scope(|scope| {
        let clients: Vec<_> = [vip(), vip6()]
            .map(|to| {
                let (stop, seen) = (&stop, &seen);
                scope.spawn(move || netns.run(|| hammer(stop, seen, allowed, || ask(to))))
            })
            .into();
        let flips = flip(&mut world, &[&["a"], &["b"]], protocol);
        stop.store(true, Ordering::Relaxed);
        let backends: BTreeSet<String> =
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        (flips, backends)
    });
    let connects = seen.connects.load(Ordering::Relaxed);
    println!("{protocol}: {flips} flips, {connects} connects");
    assert_eq!(seen.failures.load(Ordering::Relaxed), 0, "of {connects} connects during {flips} flips");
    assert_eq!(
        backends,
        BTreeSet::from(["a", "b"].map(String::from)),
        "only backends of the two sets, and both"
    );
    assert!(flips >= 2_000, "{flips} flips in {LIMIT:?}");
}

#[test]
fn no_connect_fails_or_strays_while_a_service_flips_between_disjoint_sets() {
    churn("TCP", |to| Ok(ask_tcp(to)?.0));
}

#[test]
fn no_datagram_fails_or_strays_while_a_service_flips_between_disjoint_sets() {
    churn("UDP", |to| Ok(ask_udp(&udp_socket(to)?, to)?.0));
}
