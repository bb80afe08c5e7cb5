//! Pods with several interfaces, on a real kernel.

use std::process::Command;

use super::{
    kernel::Kernel,
    lab::{Pod, assert_same, of_namespace, on_a_host},
    netns::Namespace,
    plan::plan,
    run::run,
    tests::{FailsAt, answers, both_ways, everything},
    *,
};

fn ip(words: &str) {
    assert!(Command::new("ip").args(words.split(' ')).status().unwrap().success(), "ip {words}");
}

/// The interface `net1` of the pod.
fn second(pod: &Pod) -> Attachment {
    let mut second = everything(pod, "a");
    second.id.ifname = "net1".into();
    second.host_device = second.id.host_device();
    second.addresses = vec!["10.244.3.9".parse().unwrap(), "fd00:10:244:3::9".parse().unwrap()];
    second
}

/// Wires, and remembers what came of it as the store does.
fn wired(attachment: Attachment, pins: &Pins) -> Attachment {
    let by_rule = connect(&attachment, pins).unwrap().by_rule;
    Attachment { by_rule, ..attachment }
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_second_interface_is_reached_and_answers_by_itself_and_the_first_goes_on() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let first = wired(everything(&pod, "a"), &lab.pins);
        let before = (lab.traces(), pod.run(of_namespace));
        let second = wired(Attachment { socket_lb_off: false, ..second(&pod) }, &lab.pins);
        assert_eq!((first.by_rule.len(), &second.by_rule), (0, &second.addresses));
        // As the guard does it: what comes by an interface that is not its address's is dropped.
        for key in ["all", first.host_device.as_str(), second.host_device.as_str()] {
            std::fs::write(format!("/proc/sys/net/ipv4/conf/{key}/rp_filter"), "1").unwrap();
        }
        for attachment in [&first, &second] {
            both_ways(&pod, attachment);
            assert_eq!(check(attachment, &lab.pins).unwrap(), Vec::<String>::new());
        }
        disconnect(&second, Some(&lab.pins)).unwrap();
        both_ways(&pod, &first);
        assert_eq!(check(&first, &lab.pins).unwrap(), Vec::<String>::new());
        assert_same(&lab.traces(), &before.0, "the host");
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn beside_the_default_route_of_somebody_else_it_has_its_own() {
    on_a_host(|lab| {
        let pod = Pod::new();
        pod.run(|| {
            ip("link add eth0 type bridge");
            ip("addr add 198.51.100.2/24 dev eth0");
            ip("link set eth0 up");
            ip("route add default via 198.51.100.1 metric 77");
        });
        let second = wired(second(&pod), &lab.pins);
        assert_eq!(second.by_rule, second.addresses[..1], "of IPv6 the pod had none");
        both_ways_from_outside(&pod, &second);
        assert_eq!(check(&second, &lab.pins).unwrap(), Vec::<String>::new());
    });
}

/// Only answers: what the pod begins leaves by somebody else's route.
fn both_ways_from_outside(pod: &Pod, attachment: &Attachment) {
    let only_v6 = Attachment { addresses: attachment.addresses[1..].to_vec(), ..attachment.clone() };
    both_ways(pod, &only_v6);
    answers(pod, attachment.addresses[0]);
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_check_misses_the_rule_and_the_table_of_a_second_interface() {
    on_a_host(|lab| {
        for (damage, says) in [
            ("rule del priority 15800", "no rule"),
            ("-6 rule del priority 15800", "no rule"),
            ("", "in table"),
        ] {
            let pod = Pod::new();
            let first = wired(everything(&pod, "a"), &lab.pins);
            let second = wired(second(&pod), &lab.pins);
            pod.run(|| if damage.is_empty() { ip("route flush table 158003") } else { ip(damage) });
            let found = check(&second, &lab.pins).unwrap().join("; ");
            assert!(found.contains(says), "{damage}: {found}");
            assert_eq!(check(&first, &lab.pins).unwrap(), Vec::<String>::new());
            for attachment in [&first, &second] {
                disconnect(attachment, Some(&lab.pins)).unwrap();
            }
        }
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_second_interface_that_fails_leaves_no_rule() {
    on_a_host(|lab| {
        let pod = Pod::new();
        connect(&everything(&pod, "a"), &lab.pins).unwrap();
        let before = (lab.traces(), pod.run(of_namespace));
        let second = second(&pod);
        let namespace = Namespace::open(&second.netns_path).unwrap().unwrap();
        let steps = plan(&second).unwrap();
        let kernel = Kernel::open(&namespace, &lab.pins).unwrap();
        assert!(run(&steps, &mut FailsAt { kernel, left: steps.len() - 1 }).is_err());
        assert_same(&lab.traces(), &before.0, "the host");
        assert_same(&pod.run(of_namespace), &before.1, "the pod");
    });
}
