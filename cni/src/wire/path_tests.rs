//! The packet path on the host's end, on a real kernel.

use super::{
    lab::{Pod, on_a_host},
    netlink::Rtnetlink,
    plan::Side,
    tests::{both_ways, filters, tc},
    *,
};

/// What is attached on each side, in the order in which it runs, with the kernel's ids of the programs.
fn attached(attachment: &Attachment) -> [Vec<String>; 2] {
    ["ingress", "egress"].map(|side| {
        let shown = tc(&["filter", "show", "dev", &attachment.host_device, side]);
        let ours = shown.lines().filter_map(|line| line.split_once("sheave:"));
        ours.map(|(_, rest)| rest.split(" tag").next().unwrap().to_owned()).collect()
    })
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn the_packet_path_is_behind_the_guard_as_soon_as_it_is_pinned_and_never_twice() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = pod.attachment("a");
        connect(&attachment, &lab.pins).unwrap();
        assert_eq!(filters(&attachment), [1, 0], "nothing is pinned yet");
        disconnect(&attachment, Some(&lab.pins)).unwrap();

        lab.pin_path();
        let wired = connect(&attachment, &lab.pins).unwrap();
        both_ways(&pod, &attachment);
        let before = attached(&attachment);
        let [ingress, egress] = &before;
        assert_eq!((ingress.len(), egress.len()), (2, 1), "{before:?}");
        assert!(
            ingress[0].starts_with("guard_ingress") && ingress[1].starts_with("pod_ingress"),
            "{before:?}"
        );
        assert!(egress[0].starts_with("pod_egress"), "{before:?}");

        // As if the agent had been faster, with programs that were not pinned yet when the pin was opened.
        lab.pin_path();
        let mut host = Rtnetlink::open().unwrap();
        for side in [Side::Ingress, Side::Egress] {
            path::attach(&mut host, &lab.pins, wired.host_index, side);
        }
        assert_eq!(attached(&attachment), before, "what is there stays");
    });
}
