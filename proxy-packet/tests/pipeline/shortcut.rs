//! Straight into a pod goes what a router would only pass on: everything else is left to the host's stack, as it came.

use proxy_common::{Address as _, MasqueradeKey, MasqueradeKind};
use proxy_packet::Verdict;
use proxy_packet::simulation::{Frame, Simulation, checksums_valid};

use crate::generate::hooks::{self, Hook};
use crate::generate::traffic::{echo, segment};
use crate::generate::world::{Device, Ip, node, v4, v6};
use crate::network::{ACK, SYN};

/// What is done to the node before the packet comes.
type Change = fn(&mut Simulation);

/// A node with one pod of the plugin behind each of two devices.
fn world() -> Simulation {
    let mut world = node();
    (world.settings.masquerade, world.settings.shortcut) = (1, 1);
    for (address, bits) in [(v4("local").to_mapped(), 96 + 24), (v6("local"), 64)] {
        world.masquerade.push((MasqueradeKey { address }, bits, MasqueradeKind::Pod));
    }
    world.confine_pods();
    world.endpoints.extend([Device::Pod0, Device::Pod1].map(Device::index));
    world
}

fn from(ip: Ip, source: &'static str) -> Frame {
    segment(ip, ((source, 40_000), ("local", 8_080)), 6, (ACK, (7, 8)), 9)
}

fn arrive(world: &mut Simulation, bytes: &[u8]) -> Verdict {
    world.put(Device::Eth0.index(), bytes.to_vec());
    hooks::run(world, Hook::NodeIngress).verdict
}

#[test]
fn what_nobody_translates_enters_the_pod_one_hop_older() {
    for ip in Ip::BOTH {
        for (source, protocol) in [("remote", 6), ("remote", 17), ("client", 132)] {
            let packet = segment(ip, ((source, 40_000), ("local", 8_080)), protocol, (SYN, (7, 0)), 9);
            let mut world = world();
            assert_eq!(
                arrive(&mut world, &packet.clone().hop_limit(9).build()),
                Verdict::Enter,
                "{packet:?}"
            );
            assert_eq!(world.bytes, packet.hop_limit(8).build());
            assert_eq!(checksums_valid(&world.bytes), Ok(()));
        }
    }
}

#[test]
fn what_the_stack_would_do_more_with_is_left_to_it() {
    for ip in Ip::BOTH {
        let whole = from(ip, "remote");
        let (first, later) =
            segment(ip, (("remote", 40_000), ("local", 8_080)), 17, (0, (0, 0)), 90).fragments(7, 40);
        let cases = [
            ("the last hop", whole.clone().hop_limit(1).build()),
            (
                "options",
                if ip == Ip::V4 { whole.clone().options(&[1; 4]) } else { whole.clone().atomic(7) }.build(),
            ),
            ("a first fragment", first),
            ("a later fragment", later),
            ("a tag", whole.tag(0x8100).build()),
            ("an echo", echo(ip, (("remote", 9), ("local", 0)), false, 9).build()),
            ("from a group", from(ip, "group").build()),
            ("from nowhere", from(ip, "nothing").build()),
            ("from loopback", from(ip, "loopback").build()),
            ("to this node", segment(ip, (("remote", 40_000), ("node", 80)), 6, (ACK, (7, 8)), 9).build()),
        ];
        for (what, bytes) in cases {
            let mut world = world();
            assert_eq!((arrive(&mut world, &bytes), &world.bytes), (Verdict::Pass, &bytes), "{ip:?}, {what}");
        }
    }
}

#[test]
fn where_somebody_stands_before_the_pod_the_stack_leads_there() {
    let cases: [(&str, Change); 4] = [
        ("it is not asked for", |world| world.settings.shortcut = 0),
        ("the plugin has not wired the pod, or it has a limit", |world| world.endpoints.clear()),
        ("the pod may have asked through a Service", |world| {
            let every = (0..4_096).map(|element| proxy_common::Bit { element, mask: 0 });
            let all = every
                .flat_map(|bit| (0..64).map(move |number| proxy_common::Bit { mask: 1 << number, ..bit }));
            world.flow_filter.extend(all);
        }),
        ("the packet does not fit", |world| {
            world.four.routes.iter_mut().for_each(|path| path.mtu = 48);
            world.six.routes.iter_mut().for_each(|path| path.mtu = 68);
        }),
    ];
    for ip in Ip::BOTH {
        for (what, change) in cases {
            let (mut world, bytes) = (world(), from(ip, "remote").build());
            change(&mut world);
            assert_eq!((arrive(&mut world, &bytes), &world.bytes), (Verdict::Pass, &bytes), "{ip:?}, {what}");
        }
    }
}
