//! What is made again of the wiring, on a real kernel.

use std::process::Command;

use super::{
    lab::{Pod, on_a_host},
    tests::{both_ways, everything},
    *,
};

fn ip(words: &[&str]) {
    assert!(Command::new("ip").args(words).status().unwrap().success(), "ip {}", words.join(" "));
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn what_somebody_takes_away_from_the_hosts_end_is_made_again() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = everything(&pod, "a");
        connect(&attachment, &lab.pins).unwrap();
        assert_eq!(repair(&attachment, &lab.pins).unwrap(), Vec::<String>::new());
        let device = attachment.host_device.as_str();
        // Both families' routes go with it, and are not there when it is up again.
        ip(&["link", "set", device, "down"]);
        ip(&["neighbour", "flush", "dev", device, "nud", "permanent"]);
        let missing = repair(&attachment, &lab.pins).unwrap();
        assert!(missing.iter().any(|it| it.contains("is down")), "{missing:?}");
        assert!(missing.iter().any(|it| it.contains("route to")), "{missing:?}");
        both_ways(&pod, &attachment);
        assert_eq!(check(&attachment, &lab.pins).unwrap(), Vec::<String>::new());
        disconnect(&attachment, Some(&lab.pins)).unwrap();
        assert_eq!(repair(&attachment, &lab.pins).unwrap(), Vec::<String>::new(), "what is gone stays gone");
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_family_that_cannot_be_mended_does_not_cost_the_other() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = everything(&pod, "a");
        connect(&attachment, &lab.pins).unwrap();
        let device = attachment.host_device.as_str();
        // Its route goes with it and is refused from now on.
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{device}/disable_ipv6"), "1").unwrap();
        assert!(repair(&attachment, &lab.pins).is_err());
        let four = attachment.addresses.iter().find(|it| it.is_ipv4()).unwrap().to_string();
        let shown = Command::new("ip").args(["route", "show", &four]).output().unwrap();
        assert!(String::from_utf8(shown.stdout).unwrap().contains(device), "the route of IPv4 is there");
        let missing = check(&attachment, &lab.pins).unwrap();
        assert!(!missing.iter().any(|it| it.contains("is down")), "{missing:?}");
        disconnect(&attachment, Some(&lab.pins)).unwrap();
    });
}
