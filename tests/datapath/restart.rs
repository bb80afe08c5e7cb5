//! The agent ends and another takes over: links, maps, flows and ids stay.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use proxy_core::model::Source;
use proxy_userspace::dataplane::{Capacities, LbMaps as _, LinkAction, cleanup, inspect};
use sheave_tests::client::{ask_tcp, ask_udp, udp_socket};
use sheave_tests::objects::{publish, sticky};
use sheave_tests::plane::Plane;

use crate::world::{TARGET, World, vip, vip_service};

fn reopen(world: &mut World) {
    world.reopen(|host, lab| Plane::open(host, lab).unwrap());
}

#[test]
fn a_restart_with_unchanged_input_writes_nothing() {
    let mut world = World::with_service("TCP");
    let endpoints = world.endpoints(&["a", "b", "c"]);
    reopen(&mut world);
    for event in publish(&vip_service("TCP"), TARGET, &endpoints) {
        world.plane().engine.handle(event);
    }
    let wanted = world.peek().engine.all();
    let plan = world.plane().planner.plan_full(&wanted);
    assert_eq!(plan.ops, [], "nothing changed");
    assert!(
        !world.peek().engine.is_complete(&[Source::Services]),
        "the engine knows that it was never listed"
    );
}

#[test]
fn programs_are_replaced_in_place() {
    let mut world = World::with_service("TCP");
    assert!(
        world.peek().links.iter().all(|(_, action)| *action == LinkAction::Created),
        "{:?}",
        world.peek().links
    );
    reopen(&mut world);
    assert_eq!(world.peek().links.len(), 8);
    assert!(
        world.peek().links.iter().all(|(_, action)| *action == LinkAction::Updated),
        "{:?}",
        world.peek().links
    );
    assert!(world.in_pod(|| ask_tcp(vip())).is_ok());
}

#[test]
fn clients_notice_nothing_of_twenty_restarts() {
    let mut world = World::with_service("TCP");
    let stop = AtomicBool::new(false);
    let netns = &world.client.netns.try_clone().unwrap();
    let connects = thread::scope(|scope| {
        let stop = &stop;
        let client = scope.spawn(move || {
            netns.run(|| {
                let mut connects = 0;
                while !stop.load(Ordering::Relaxed) {
                    ask_tcp(vip()).unwrap();
                    connects += 1;
                }
                connects
            })
        });
        for _ in 0..20 {
            reopen(&mut world);
        }
        stop.store(true, Ordering::Relaxed);
        client.join().unwrap()
    });
    assert!(connects > 100, "{connects} connects");
}

#[test]
fn unconnected_udp_flows_and_affinity_outlive_the_agent() {
    let mut world = World::new();
    let endpoints = world.endpoints(&["a", "b", "c"]);
    world.publish(&sticky(vip_service("TCP"), 3600), &endpoints);
    let mut udp = vip_service("UDP");
    udp.name.name = "web-udp".into();
    world.publish(&udp, &endpoints);
    let socket = world.in_pod(|| udp_socket(vip()).unwrap());
    let flow = ask_udp(&socket, vip()).unwrap();
    let affinity = world.in_pod(|| ask_tcp(vip())).unwrap();
    reopen(&mut world);
    for _ in 0..20 {
        assert_eq!(ask_udp(&socket, vip()).unwrap(), flow);
        assert_eq!(world.in_pod(|| ask_tcp(vip())).unwrap(), affinity);
    }
}

/// Other capacities are other maps: the new agent fills them before the programs change over, and sockets keep what
/// they know.
#[test]
fn a_changed_capacity_is_taken_over_without_losing_flows() {
    let mut world = World::with_service("UDP");
    let endpoints = world.endpoints(&["a", "b", "c"]);
    let socket = world.in_pod(|| udp_socket(vip()).unwrap());
    let flow = ask_udp(&socket, vip()).unwrap();
    let smaller = Capacities { services: 1_000, ring: 10_000, backends: 5_000, ..Capacities::default() };
    world.reopen(|host, lab| {
        Plane::open_filled(host, lab, smaller, publish(&vip_service("UDP"), TARGET, &endpoints)).unwrap()
    });
    assert_eq!(ask_udp(&socket, vip()).unwrap().1, flow.1);
    assert_eq!(world.plane().data.maps().dump().unwrap().ring.len(), 10_000);
    assert!(world.in_pod(|| ask_udp(&udp_socket(vip()).unwrap(), vip())).is_ok());
}

#[test]
fn cleanup_removes_every_link_map_and_pin() {
    let mut world = World::with_service("TCP");
    let pins = world.host.bpffs.pins();
    assert!(world.in_pod(|| ask_tcp(vip())).is_ok());
    let inspection = inspect(&pins).unwrap();
    assert_eq!(inspection.dump().unwrap().backends4.len(), 3);
    drop(inspection);
    world.close();
    let report = cleanup(&pins).unwrap();
    assert_eq!(report.errors, Vec::<String>::new());
    assert!(!pins.exists());
    // The kernel takes the programs of a link that is gone off their hooks a little later.
    sheave_tests::wait::wait_for("no program translates", Duration::from_secs(10), || {
        Ok(world.on_node(|| ask_tcp(vip())).err())
    })
    .map(|error| assert_eq!(error.raw_os_error(), Some(101), "the node has no route: ENETUNREACH"))
    .unwrap();
    assert_eq!(cleanup(&pins).unwrap().errors, Vec::<String>::new(), "twice is fine");
}
