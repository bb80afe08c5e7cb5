//! The wiring on a real kernel.

use std::{
    fs,
    io::Read,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, State},
};

use super::{
    check, connect, disconnect,
    kernel::{Kernel, find},
    lab::{HOST, Lab, PATIENCE, Pod, assert_same, of_namespace, on_a_host},
    message,
    netlink::Rtnetlink,
    netns::Namespace,
    plan::{Step, Undo, plan},
    run::{Effects, run},
    *,
};
use crate::record::{Bandwidth, Rate};

/// A connection to `address`, from a namespace to one that already listens.
fn talk(server: impl FnOnce() -> TcpListener, client: impl FnOnce(SocketAddr) -> Vec<u8>) {
    let listener = server();
    let address = listener.local_addr().unwrap();
    let serve = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut &stream, b"hello").unwrap();
    });
    assert_eq!(client(address), b"hello");
    serve.join().unwrap();
}

fn ask(address: SocketAddr) -> Vec<u8> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// The host asks the pod at this address.
pub(super) fn answers(pod: &Pod, address: IpAddr) {
    talk(|| pod.run(|| TcpListener::bind((address, 0)).unwrap()), ask);
}

pub(super) fn both_ways(pod: &Pod, attachment: &Attachment) {
    attachment.addresses.iter().for_each(|address| answers(pod, *address));
    for host in HOST.map(|address| address.parse::<IpAddr>().unwrap()) {
        if attachment.addresses.iter().any(|address| address.is_ipv4() == host.is_ipv4()) {
            talk(|| TcpListener::bind((host, 0)).unwrap(), |address| pod.run(|| ask(address)));
        }
    }
}

/// A host and a pod, and what both look like.
fn compared(test: impl FnOnce(&Lab, &Pod) + Send) {
    on_a_host(|lab| {
        let pod = Pod::new();
        let before = (lab.traces(), pod.run(of_namespace));
        test(lab, &pod);
        assert_same(&lab.traces(), &before.0, "the host");
        assert_same(&pod.run(of_namespace), &before.1, "the pod");
    });
}

/// Fails instead of making one of the steps.
pub(super) struct FailsAt<'a> {
    pub(super) kernel: Kernel<'a>,
    pub(super) left: usize,
}

impl Effects for FailsAt<'_> {
    fn perform(&mut self, step: &Step) -> Result<Option<Undo>, WireError> {
        if self.left == 0 {
            return Err(WireError::Gone("the test's".into()));
        }
        self.left -= 1;
        self.kernel.perform(step)
    }

    fn undo(&mut self, undo: &Undo) -> Result<(), WireError> {
        self.kernel.undo(undo)
    }
}

pub(super) fn everything(pod: &Pod, name: &str) -> Attachment {
    let limit = Some(Rate { rate: 1_000_000_000, burst: 1_000_000 });
    let bandwidth = Bandwidth { ingress: limit, egress: limit };
    Attachment { bandwidth, socket_lb_off: true, ..pod.attachment(name) }
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_pod_of_both_families_is_reached_and_reaches_at_once() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = everything(&pod, "a");
        let wired = connect(&attachment, &lab.pins).unwrap();
        both_ways(&pod, &attachment);
        assert_eq!(check(&attachment, &lab.pins).unwrap(), Vec::<String>::new());
        assert!(wired.host_index > 1);
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_pod_of_one_family_is_wired_for_that_one() {
    on_a_host(|lab| {
        for family in [IpAddr::is_ipv4, IpAddr::is_ipv6] {
            let pod = Pod::new();
            let mut attachment = pod.attachment("one");
            attachment.addresses.retain(family);
            connect(&attachment, &lab.pins).unwrap();
            both_ways(&pod, &attachment);
            assert_eq!(check(&attachment, &lab.pins).unwrap(), Vec::<String>::new());
            disconnect(&attachment, Some(&lab.pins)).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_disconnected_pod_leaves_nothing_on_the_host_and_twice_is_fine() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = everything(&pod, "a");
        let before = lab.traces();
        connect(&attachment, &lab.pins).unwrap();
        assert_ne!(lab.traces(), before);
        for _ in 0..2 {
            disconnect(&attachment, Some(&lab.pins)).unwrap();
            assert_same(&lab.traces(), &before, "the host");
        }
        assert!(check(&attachment, &lab.pins).unwrap()[0].contains("does not exist on the host"));
    });
}

/// Sets the MTU of a device of this thread's namespace.
fn shrink(name: &str) {
    let mut socket = Rtnetlink::open().unwrap();
    let index = find(&mut socket, name).unwrap().unwrap().header.index;
    let mut request = message::link_state(index, true);
    if let RouteNetlinkMessage::SetLink(link) | RouteNetlinkMessage::NewLink(link) = &mut request {
        link.attributes.push(LinkAttribute::Mtu(1300));
    }
    socket.change(request, 0).unwrap();
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn the_mtu_may_be_changed_in_the_pod_and_not_on_the_host() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = pod.attachment("a");
        connect(&attachment, &lab.pins).unwrap();
        pod.run(|| shrink("eth0"));
        assert_eq!(check(&attachment, &lab.pins).unwrap(), Vec::<String>::new());
        shrink(&attachment.host_device);
        assert!(check(&attachment, &lab.pins).unwrap()[0].contains("1300 instead of 1450"));
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_failure_of_any_step_leaves_host_and_pod_as_they_were() {
    compared(|lab, pod| {
        let attachment = everything(pod, "a");
        let namespace = Namespace::open(&attachment.netns_path).unwrap().unwrap();
        let steps = plan(&attachment).unwrap();
        let before = (lab.traces(), pod.run(of_namespace));
        for left in 0..steps.len() {
            let mut effects = FailsAt { kernel: Kernel::open(&namespace, &lab.pins).unwrap(), left };
            let error = run(&steps, &mut effects).unwrap_err();
            assert!(matches!(error, WireError::Gone(_)), "{error}");
            let what = format!("failed at {:?}", steps[left]);
            assert_same(&lab.traces(), &before.0, &what);
            assert_same(&pod.run(of_namespace), &before.1, &what);
        }
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn killed_after_any_step_it_is_disconnected_without_a_trace_and_connected_again() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = everything(&pod, "a");
        let namespace = Namespace::open(&attachment.netns_path).unwrap().unwrap();
        let steps = plan(&attachment).unwrap();
        let before = lab.traces();
        for count in 0..=steps.len() {
            let part = |count: usize| {
                run(&steps[..count], &mut Kernel::open(&namespace, &lab.pins).unwrap()).unwrap();
            };
            part(count);
            disconnect(&attachment, Some(&lab.pins)).unwrap();
            assert_same(&lab.traces(), &before, &format!("after {count} steps"));
            part(count);
            connect(&attachment, &lab.pins).unwrap();
            assert_eq!(check(&attachment, &lab.pins).unwrap(), Vec::<String>::new());
            disconnect(&attachment, Some(&lab.pins)).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn an_interface_of_somebody_else_is_an_error_and_stays() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let first = pod.attachment("first");
        connect(&first, &lab.pins).unwrap();
        let before = (lab.traces(), pod.run(of_namespace));
        let second = pod.attachment("second");
        let error = connect(&second, &lab.pins).unwrap_err();
        assert!(matches!(&error, WireError::Exists { ifname } if ifname == "eth0"), "{error}");
        assert_same(&lab.traces(), &before.0, "the host");
        assert_same(&pod.run(of_namespace), &before.1, "the pod");
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_namespace_that_is_another_one_now_is_not_touched() {
    compared(|lab, pod| {
        let mut attachment = pod.attachment("a");
        attachment.netns.cookie += 1;
        assert!(matches!(connect(&attachment, &lab.pins), Err(WireError::OtherNamespace(_))));
        assert!(check(&attachment, &lab.pins).unwrap()[0].contains("another network namespace"));
        attachment.netns_path = "/nonexistent".into();
        assert!(matches!(connect(&attachment, &lab.pins), Err(WireError::Gone(_))));
        disconnect(&attachment, Some(&lab.pins)).unwrap();
        attachment.netns_path = "/proc/thread-self/ns/net".into();
        attachment.netns = identify(&attachment.netns_path).unwrap().unwrap();
        assert!(matches!(connect(&attachment, &lab.pins), Err(WireError::OwnNamespace(_))));
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn a_namespace_that_went_first_leaves_no_record() {
    on_a_host(|lab| {
        let before = lab.traces();
        let gone = Pod::new();
        let other = Pod::new();
        let attachment = everything(&gone, "gone");
        let stays = other.attachment("stays");
        connect(&attachment, &lab.pins).unwrap();
        drop(gone);
        let mut host = Rtnetlink::open().unwrap();
        let start = Instant::now();
        while find(&mut host, &attachment.host_device).unwrap().is_some() {
            assert!(start.elapsed() < PATIENCE, "the kernel does not remove the namespace");
            thread::sleep(Duration::from_millis(5));
        }
        connect(&stays, &lab.pins).unwrap();
        disconnect(&attachment, Some(&lab.pins)).unwrap();
        assert_eq!(check(&stays, &lab.pins).unwrap(), Vec::<String>::new());
        disconnect(&stays, Some(&lab.pins)).unwrap();
        assert_same(&lab.traces(), &before, "the host");
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn without_the_guard_there_is_no_pod() {
    compared(|lab, pod| {
        let attachment = pod.attachment("a");
        fs::remove_file(&lab.pins.guard_ingress).unwrap();
        let error = connect(&attachment, &lab.pins).unwrap_err();
        assert!(matches!(error, WireError::Pin { .. }), "{error}");
        assert!(error.to_string().contains("start the agent"), "{error}");
    });
}

pub(super) fn tc(words: &[&str]) -> String {
    let output = Command::new("tc").args(words).output().unwrap();
    assert!(output.status.success(), "tc {}: {output:?}", words.join(" "));
    String::from_utf8(output.stdout).unwrap()
}

/// How many of ours there are on each side.
pub(super) fn filters(attachment: &Attachment) -> [usize; 2] {
    let device = &attachment.host_device;
    ["ingress", "egress"].map(|side| tc(&["filter", "show", "dev", device, side]).matches("sheave:").count())
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn the_guard_is_a_filter_that_goes_with_the_device() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let before = lab.traces();
        let attachment = everything(&pod, "a");
        let wired = connect(&attachment, &lab.pins).unwrap();
        both_ways(&pod, &attachment);
        assert!(guard::is_recorded(&lab.pins, wired.host_index, &endpoint(&attachment)).unwrap());
        assert_eq!(filters(&attachment), [1, 1]);
        disconnect(&attachment, Some(&lab.pins)).unwrap();
        assert_same(&lab.traces(), &before, "the host");
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn what_the_guard_drops_does_not_come_out_of_the_pod() {
    on_a_host(|lab| {
        let host = UdpSocket::bind((HOST[0], 0)).unwrap();
        host.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        let target = host.local_addr().unwrap();
        for admits in [true, false] {
            lab.replace_guard(admits);
            let pod = Pod::new();
            let attachment = pod.attachment("a");
            connect(&attachment, &lab.pins).unwrap();
            pod.run(|| UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"out", target)).unwrap();
            assert_eq!(host.recv(&mut [0; 8]).is_ok(), admits);
            disconnect(&attachment, Some(&lab.pins)).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn what_was_damaged_is_said() {
    type Damage = fn(&Lab, &Pod, &Attachment, u32);
    let damages: [(&str, Damage); 6] = [
        ("does not know the pod's addresses", |lab, _, _, index| guard::forget(&lab.pins, index).unwrap()),
        ("no guard is attached", |_, _, attachment, _| {
            tc(&["filter", "del", "dev", &attachment.host_device, "ingress"]);
        }),
        ("sockets are translated", |lab, _, attachment, _| {
            guard::unexempt(&lab.pins, attachment.netns.cookie).unwrap();
        }),
        ("is down", |_, _, _, index| {
            Rtnetlink::open().unwrap().change(message::link_state(index, false), 0).unwrap();
        }),
        ("no default route", |_, pod, attachment, _| {
            pod.run(|| {
                let mut socket = Rtnetlink::open().unwrap();
                let link = find(&mut socket, &attachment.id.ifname).unwrap().unwrap();
                socket.change(message::link_state(link.header.index, false), 0).unwrap();
            });
        }),
        ("does not exist in the pod", |_, _, _, _| {}),
    ];
    on_a_host(|lab| {
        for (says, damage) in damages {
            let pod = Pod::new();
            let mut attachment = everything(&pod, "a");
            let wired = connect(&attachment, &lab.pins).unwrap();
            damage(lab, &pod, &attachment, wired.host_index);
            if says == "does not exist in the pod" {
                attachment.id.ifname = "net1".into();
            }
            let found = check(&attachment, &lab.pins).unwrap().join("; ");
            assert!(found.contains(says), "{says}: {found}");
            disconnect(&attachment, Some(&lab.pins)).unwrap();
        }
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn many_pods_at_once_are_wired_and_gone_again() {
    on_a_host(|lab| {
        let before = lab.traces();
        let pods: Vec<(Pod, Attachment)> = (0..50_u8).map(numbered).collect();
        let each = |work: fn(&Attachment, &Pins)| {
            thread::scope(|scope| {
                pods.iter().for_each(|(_, attachment)| {
                    scope.spawn(|| work(attachment, &lab.pins));
                });
            });
        };
        each(|attachment, pins| assert!(connect(attachment, pins).unwrap().host_index > 1));
        each(|attachment, pins| assert_eq!(check(attachment, pins).unwrap(), Vec::<String>::new()));
        each(|attachment, pins| disconnect(attachment, Some(pins)).unwrap());
        assert_same(&lab.traces(), &before, "the host");
    });
}

fn numbered(number: u8) -> (Pod, Attachment) {
    let pod = Pod::new();
    let mut attachment = everything(&pod, &format!("pod{number}"));
    attachment.addresses = vec![
        format!("10.244.2.{}", u32::from(number) + 2).parse().unwrap(),
        format!("fd00:10:244:2::{:x}", u32::from(number) + 2).parse().unwrap(),
    ];
    (pod, attachment)
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn an_address_that_a_forgotten_device_still_has_is_the_new_pods() {
    on_a_host(|lab| {
        let (old, new) = (Pod::new(), Pod::new());
        let (forgotten, attachment) = (old.attachment("old"), new.attachment("new"));
        assert_eq!(forgotten.addresses, attachment.addresses);
        connect(&forgotten, &lab.pins).unwrap();
        connect(&attachment, &lab.pins).unwrap();
        both_ways(&new, &attachment);
        assert!(check(&forgotten, &lab.pins).unwrap().join(";").contains("does not lead to"));
        disconnect(&forgotten, Some(&lab.pins)).unwrap();
        both_ways(&new, &attachment);
        assert_eq!(check(&attachment, &lab.pins).unwrap(), Vec::<String>::new());
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn the_devices_are_as_they_were_asked_for() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = Attachment { mtu: 1333, ..pod.attachment("a") };
        connect(&attachment, &lab.pins).unwrap();
        let look = |name: &str| find(&mut Rtnetlink::open().unwrap(), name).unwrap().unwrap();
        let host = look(&attachment.host_device);
        let eth0 = pod.run(|| look("eth0"));
        for (link, mac) in [(&host, attachment.host_mac), (&eth0, attachment.pod_mac)] {
            for wanted in [
                LinkAttribute::Address(mac.0.to_vec()),
                LinkAttribute::Mtu(1333),
                LinkAttribute::NumTxQueues(1),
                LinkAttribute::OperState(State::Up),
            ] {
                assert!(link.attributes.contains(&wanted), "{wanted:?}");
            }
        }
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn settings_are_made_whatever_the_namespaces_had_before() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let set = |key: &str, value: &str| fs::write(format!("/proc/sys/net/{key}"), value).unwrap();
        pod.run(|| set("ipv6/conf/all/disable_ipv6", "1"));
        pod.run(|| set("ipv4/conf/default/forwarding", "1"));
        set("ipv6/conf/default/disable_ipv6", "1");
        set("ipv4/conf/default/rp_filter", "1");
        set("ipv4/conf/default/forwarding", "0");
        let attachment = pod.attachment("a");
        connect(&attachment, &lab.pins).unwrap();
        both_ways(&pod, &attachment);
        let differs = |settings: Vec<setting::Setting>| setting::apply(&settings).unwrap();
        assert_eq!(differs(setting::of_host(&attachment)), []);
        assert_eq!(pod.run(|| differs(setting::of_pod(&attachment))), []);
        let has = |key: &str| fs::read_to_string(format!("/proc/sys/net/{key}")).unwrap().trim().to_owned();
        assert_eq!(pod.run(|| has("ipv4/conf/eth0/forwarding")), "0");
        let host = |key: &str| has(&key.replace("DEVICE", &attachment.host_device));
        assert_eq!(host("ipv6/conf/DEVICE/addr_gen_mode"), "1");
        assert_eq!(host("ipv4/conf/DEVICE/forwarding"), "1");
        assert_eq!(host("ipv4/conf/DEVICE/rp_filter"), "0");
        assert_eq!(host("ipv4/conf/DEVICE/send_redirects"), "0");
    });
}

#[test]
#[ignore = "needs root: makes namespaces"]
fn no_neighbour_is_ever_asked_for() {
    on_a_host(|lab| {
        let pod = Pod::new();
        let attachment = pod.attachment("a");
        connect(&attachment, &lab.pins).unwrap();
        both_ways(&pod, &attachment);
        let learned =
            || of_namespace().iter().any(|it| it.starts_with("NeighbourHeader") && !it.contains("Permanent"));
        assert!(!learned() && !pod.run(learned));
    });
}
