//! Every wish of ADD, and what is refused.

use serde::Serialize;
use serde_json::{Value, json};

use super::*;
use crate::{
    config::Document,
    record::{Protocol, Rate},
    spec::{Error, Verb},
};

fn options(more: Value, args: &str) -> Result<Options, Error> {
    let mut config = json!({"cniVersion": "1.1.0", "name": "pods"});
    let Value::Object(more) = more else { panic!("{more}") };
    config.as_object_mut().unwrap().extend(more);
    let network = Network::read(Document::parse(config.to_string().as_bytes())?, Verb::Add)?;
    Ok(Options::read(&network, args)?)
}

fn runtime(key: &str, value: impl Serialize) -> Result<Options, Error> {
    options(json!({"runtimeConfig": {key: json!(value)}}), "")
}

fn code(result: Result<Options, Error>) -> u32 {
    result.unwrap_err().code
}

#[test]
fn nothing_asked_for_is_nothing() {
    assert_eq!(options(json!({}), "").unwrap(), Options::default());
    let empty = json!({"mtu": 0, "dns": {}, "args": null, "runtimeConfig": {"portMappings": [], "mac": "",
        "ips": [], "ipRanges": null, "bandwidth": {}, "deviceID": "", "io.kubernetes.cri.pod-annotations": {}}});
    assert_eq!(options(empty, "").unwrap(), Options::default());
}

#[test]
fn an_mtu_must_carry_ipv6() {
    let mtu = |value| options(json!({"mtu": value}), "");
    assert_eq!(mtu(json!(1280)).unwrap().mtu, Some(1280));
    for wrong in [json!(1279), json!(65536), json!(-1), json!(1e10), json!("1500"), json!(4_294_968_796_u64)]
    {
        assert_eq!(code(mtu(wrong.clone())), 7, "{wrong}");
    }
}

#[test]
fn ports_have_a_protocol_and_perhaps_an_address() {
    let list = json!([
        {"hostPort": 80, "containerPort": 8080},
        {"HostPort": 81, "containerPort": 81, "protocol": "UDP", "hostIP": "::"},
        {"hostPort": 82, "containerPort": 82, "protocol": "sctp", "hostIP": "::1"},
        {"hostPort": 83, "containerPort": 83, "protocol": "", "hostIP": "::ffff:192.0.2.1"},
        {"hostPort": 0, "containerPort": 84},
        {"containerPort": 85},
        {"hostPort": 80, "containerPort": 8080, "protocol": "tcp", "hostIP": "0.0.0.0"},
    ]);
    let ports = runtime("PortMappings", list).unwrap().ports;
    let expected = [
        (80, 8080, Protocol::Tcp, None),
        (81, 81, Protocol::Udp, None),
        (82, 82, Protocol::Sctp, Some("::1")),
        (83, 83, Protocol::Tcp, Some("192.0.2.1")),
    ];
    let expected = expected.map(|(host_port, container_port, protocol, host_ip)| PortMapping {
        host_port,
        container_port,
        protocol,
        host_ip: host_ip.map(|text| text.parse().unwrap()),
    });
    assert_eq!(ports, expected);
}

#[test]
fn ports_that_make_no_sense_are_refused() {
    for wrong in [
        json!({}),
        json!([5]),
        json!([{"hostPort": 80}]),
        json!([{"hostPort": 80, "containerPort": 0}]),
        json!([{"hostPort": 65536, "containerPort": 1}]),
        json!([{"hostPort": -1, "containerPort": 1}]),
        json!([{"hostPort": 80, "containerPort": 1, "protocol": "icmp"}]),
        json!([{"hostPort": 80, "containerPort": 1, "hostIP": "localhost"}]),
        json!([{"hostPort": 80, "containerPort": 1}, {"hostPort": 80, "containerPort": 2, "hostIP": "127.0.0.1"}]),
    ] {
        assert_eq!(code(runtime("portMappings", wrong.clone())), 7, "{wrong}");
    }
    let error = runtime("portMappings", json!([{"hostPort": 1, "containerPort": 70000}])).unwrap_err();
    assert_eq!(
        error.msg,
        "network configuration, runtimeConfig.portMappings[0].containerPort: 70000 is not a port from 1 to 65535"
    );
}

#[test]
fn a_rate_without_a_burst_gets_one() {
    let limits =
        runtime("bandWidth", json!({"ingressRate": 8, "egressRate": 1_000_000_000, "egressBurst": 42}));
    let limits = limits.unwrap().bandwidth;
    assert_eq!(limits.ingress, Some(Rate { rate: 8, burst: 8 * 128 * 1024 }));
    assert_eq!(limits.egress, Some(Rate { rate: 1_000_000_000, burst: 42 }));
    let big =
        runtime("bandwidth", json!({"ingressRate": 1_000_000_000, "egressBurst": 5})).unwrap().bandwidth;
    assert_eq!((big.ingress.unwrap().burst, big.egress), (250_000_000, None));
    let timeout_of_tcp = big.ingress.unwrap().rate / 5;
    assert!(big.ingress.unwrap().burst > timeout_of_tcp);
    assert_eq!(code(runtime("bandwidth", json!({"ingressRate": -1}))), 7);
}

#[test]
fn the_runtime_goes_before_hand_made_arguments() {
    let macs = ["0a:00:00:00:00:01", "0a:00:00:00:00:02", "0a:00:00:00:00:03"];
    let all =
        json!({"runtimeConfig": {"mac": macs[0]}, "args": {"cni": {"mac": macs[1], "ips": ["10.0.0.2"]}}});
    let args = format!("MAC={};IP=10.0.0.3,fd00::3/64", macs[2]);
    let first = options(all, &args).unwrap();
    assert_eq!((first.mac, first.fixed), (Some(macs[0].parse().unwrap()), vec!["10.0.0.2".parse().unwrap()]));
    let second = options(json!({"args": {"cni": {"mac": macs[1]}}}), &args).unwrap();
    assert_eq!(second.mac, Some(macs[1].parse().unwrap()));
    assert_eq!(second.fixed, ["10.0.0.3", "fd00::3"].map(|text| text.parse::<IpAddr>().unwrap()));
    assert_eq!(options(json!({}), &args).unwrap().mac, Some(macs[2].parse().unwrap()));
}

#[test]
fn an_ethernet_address_must_be_one_of_a_device() {
    for wrong in ["x", "00:00:00:00:00:00", "01:00:5e:00:00:01", "ff:ff:ff:ff:ff:ff"] {
        assert_eq!(code(runtime("mac", json!(wrong))), 7, "{wrong}");
        assert_eq!(code(options(json!({}), &format!("MAC={wrong}"))), 7, "{wrong}");
    }
}

#[test]
fn a_pod_has_one_fixed_address_of_each_family() {
    let fixed = runtime("ips", json!(["10.0.0.5/24", "fd00::5"])).unwrap().fixed;
    assert_eq!(fixed, ["10.0.0.5", "fd00::5"].map(|text| text.parse::<IpAddr>().unwrap()));
    for wrong in
        [json!(["10.0.0.5", "10.0.0.6"]), json!(["fd00::1", "fd00::2"]), json!(["x"]), json!("10.0.0.5")]
    {
        assert_eq!(code(runtime("ips", wrong.clone())), 7, "{wrong}");
    }
    assert_eq!(code(options(json!({}), "IP=10.0.0.1,10.0.0.2")), 7);
}

#[test]
fn ranges_are_prefixes_and_their_gateways_are_not_given() {
    let sets = json!([[{"subnet": "10.0.0.0/26", "gateway": "10.0.0.3"}, {"subnet": "10.0.1.0/24"}],
        [{"subnet": "fd00::/64"}]]);
    let wishes = runtime("ipRanges", sets).unwrap();
    assert_eq!(wishes.ranges.len(), 3);
    assert_eq!(wishes.reserved, ["10.0.0.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(code(runtime("ipRanges", json!([[{"subnet": "10.0.0.0/24", "rangeStart": "10.0.0.9"}]]))), 2);
    for wrong in [json!([{"subnet": "10.0.0.0/24"}]), json!([[{}]]), json!([[{"subnet": "x"}]])] {
        assert_eq!(code(runtime("ipRanges", wrong.clone())), 7, "{wrong}");
    }
}

#[test]
fn name_servers_of_the_runtime_replace_those_that_are_written() {
    let written = json!({"nameservers": ["192.0.2.1"], "domain": "a", "search": ["b"], "options": ["c"]});
    let alone = options(json!({"dns": written}), "").unwrap().dns;
    assert_eq!(json!(alone), written);
    let asked = json!({"servers": ["192.0.2.2"], "searches": ["d"]});
    let both = options(json!({"dns": written, "runtimeConfig": {"dns": asked}}), "").unwrap().dns;
    let expected = json!({"nameservers": ["192.0.2.2"], "domain": "a", "search": ["d"], "options": ["c"]});
    assert_eq!(json!(both), expected);
}

#[test]
fn the_annotation_turns_socket_translation_off() {
    let annotated = |value: Value| runtime(ANNOTATIONS, json!({"other": "x", SOCKET_LB: value}));
    assert!(annotated(json!("off")).unwrap().socket_lb_off);
    assert!(!annotated(json!("on")).unwrap().socket_lb_off);
    assert!(!annotated(json!(null)).unwrap().socket_lb_off);
    for wrong in [json!("maybe"), json!(false)] {
        assert_eq!(code(annotated(wrong)), 7);
    }
}

#[test]
fn what_is_only_told_is_passed_over_and_devices_are_refused() {
    let told = json!({"runtimeConfig": {"aliases": ["web"], "cgroupPath": "/x", "vendor": [1]}});
    assert_eq!(options(told, "").unwrap(), Options::default());
    for device in ["deviceID", "infinibandGUID"] {
        assert_eq!(code(runtime(device, json!("0000:00:1f.6"))), 2, "{device}");
    }
}

#[test]
fn arguments_name_the_pod() {
    let pod = options(json!({}), "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u").unwrap().pod;
    assert_eq!((pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str()), ("shop", "web-0", "u"));
    assert_eq!(code(options(json!({}), "K8S_POD_NAME")), 4);
}
