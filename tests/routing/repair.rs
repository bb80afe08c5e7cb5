//! Others remove or change what the agent made; the agent mends it, touches nothing of theirs, and cleans up.

use std::fs;

use proxy_core::nodes::vtep_mac;
use sheave_tests::wait::wait_for;

use crate::rig::{LIMIT, NODES, Rig, Underlay, bridge, node_v4, shown};

#[test]
fn what_others_remove_or_change_is_repaired() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&[]);
    rig.await_all_reach_all();
    let routes = rig.routes(1);
    let damages = [
        "route del 10.244.2.0/24",
        "-6 route del fd00:10:244:2::/64",
        "route del 10.244.3.0/24",
        "route del unreachable 10.244.1.0/24 metric 4294967295",
        "neigh del 10.244.3.0 dev sheave.vxlan",
        "addr del 10.244.1.0/32 dev sheave.vxlan",
        "link set sheave.vxlan mtu 1280",
        "link set sheave.vxlan down",
        "link del sheave.vxlan",
        "route flush proto 158",
    ];
    for damage in damages {
        rig.node(1).ip(damage).unwrap();
        // What the test itself made is the plugin's, and not the agent's to repair.
        rig.node(1).ip("route replace 10.244.1.5/32 dev pod proto 158").unwrap();
        let is_whole = || {
            let device = shown(rig.node(1), &["link", "show", "sheave.vxlan"]);
            device.contains("mtu 1450") && device.contains(",UP") && rig.routes(1) == routes
        };
        wait_for(format!("after `{damage}`"), LIMIT, || Ok(is_whole().then_some(())))
            .unwrap_or_else(|error| panic!("{error}\n{}", rig.log(1)));
        rig.await_all_reach_all();
    }
    assert!(rig.log(1).contains("repaired"), "{}", rig.log(1));
}

/// Long before the next look at everything.
#[test]
fn forwarding_that_somebody_switches_off_is_switched_on_at_once_and_reported() {
    let mut rig = Rig::new(Underlay::Both);
    rig.launch(1, &[]);
    rig.wait_until_told(1);
    for (switch, name) in [
        ("ipv4/ip_forward", "net.ipv4.ip_forward"),
        ("ipv6/conf/all/forwarding", "net.ipv6.conf.all.forwarding"),
    ] {
        rig.node(1).sysctl(switch, "0").unwrap();
        let is_on = || {
            rig.node(1).run(|| fs::read_to_string(format!("/proc/sys/net/{switch}"))).unwrap().trim() == "1"
        };
        wait_for(format!("{switch} is on"), LIMIT, || Ok(is_on().then_some(())))
            .unwrap_or_else(|error| panic!("{error}\n{}", rig.log(1)));
        let line = format!("somebody had switched it off; switched on again, for pods switch=\"{name} = 1\"");
        wait_for("it is reported", LIMIT, || Ok(rig.log(1).contains(&line).then_some(()))).unwrap();
    }
}

#[test]
fn a_forwarding_entry_that_others_remove_comes_back() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&[]);
    rig.await_all_reach_all();
    let [first, rest @ ..] = vtep_mac("n3");
    let mac = rest.iter().fold(format!("{first:02x}"), |text, byte| format!("{text}:{byte:02x}"));
    bridge(rig.node(1), &format!("fdb del {mac} dev sheave.vxlan dst {}", node_v4(3)));
    rig.await_all_reach_all();
}

#[test]
fn a_route_of_another_program_stays_and_is_reported() {
    let mut rig = Rig::new(Underlay::Both);
    rig.node(1).ip(&format!("route add 10.244.2.0/24 via {} proto static", node_v4(2))).unwrap();
    rig.start(&[]);
    rig.await_all_reach_all();
    let line = || rig.log(1).contains("another program has a route to 10.244.2.0/24").then_some(());
    wait_for("it is reported", LIMIT, || Ok(line())).unwrap();
    assert!(shown(rig.node(1), &["route", "show", "10.244.2.0/24"]).contains("proto static"));
    rig.node(1).ip("route del 10.244.2.0/24").unwrap();
    rig.await_route(1, "10.244.2.0/24", Some("dev eth0"));
}

#[test]
fn a_clean_up_leaves_nothing_of_ours_and_everything_of_others() {
    let mut rig = Rig::new(Underlay::Both);
    rig.start(&["--routing", "vxlan"]);
    rig.node(1).ip("route add 203.0.113.0/24 dev eth0 proto static").unwrap();
    for number in 1..=NODES {
        rig.kill(number);
        rig.sheave(number, &["cleanup"]);
        assert!(rig.routes(number).is_empty(), "{:?}", rig.routes(number));
        assert!(shown(rig.node(number), &["link", "show", "sheave.vxlan"]).is_empty());
        assert!(rig.facts(number).is_none());
    }
    assert!(!shown(rig.node(1), &["route", "show", "203.0.113.0/24"]).is_empty());
    assert!(!shown(rig.node(1), &["route", "show", "10.244.1.5"]).is_empty(), "the plugin's");
}
