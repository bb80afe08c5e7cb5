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
