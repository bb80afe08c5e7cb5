//! Results in every version, alone and after other plugins.

use serde_json::json;

use super::*;
use crate::record::AttachmentId;

fn attachment(addresses: &[&str]) -> Attachment {
    let id = AttachmentId { container_id: "c1".into(), ifname: "eth0".into() };
    Attachment {
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        host_device: "shv000000000001".into(),
        host_mac: "0a:00:00:00:00:01".parse().unwrap(),
        pod_mac: "0e:00:00:00:00:01".parse().unwrap(),
        mtu: 1450,
        ..Attachment::of(id)
    }
}

fn document(version: Version, addresses: &[&str], dns: &Dns, previous: Option<&Value>) -> Value {
    let attachment = attachment(addresses);
    Added { attachment: &attachment, netns: Path::new("/run/netns/a"), dns }.document(version, previous)
}

const BOTH: [&str; 2] = ["10.244.1.5", "fd00::5"];

#[test]
fn the_newest_result_has_everything() {
    let expected = json!({
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "shv000000000001", "mac": "0a:00:00:00:00:01", "mtu": 1450},
            {"name": "eth0", "mac": "0e:00:00:00:00:01", "mtu": 1450, "sandbox": "/run/netns/a"},
        ],
        "ips": [
            {"address": "10.244.1.5/32", "gateway": "169.254.1.1", "interface": 1},
            {"address": "fd00::5/128", "gateway": "fe80::1", "interface": 1},
        ],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}, {"dst": "::/0", "gw": "fe80::1"}],
    });
    assert_eq!(document(Version::V1_1_0, &BOTH, &Dns::default(), None), expected);
}

#[test]
fn each_version_has_its_own_keys_and_no_others() {
    for version in Version::ALL {
        let result = document(version, &BOTH, &Dns::default(), None);
        assert_eq!(result["cniVersion"], version.text());
        let families = [&result["ips"][0]["version"], &result["ips"][1]["version"]];
        let said = if version < Version::V1_0_0 { [&json!("4"), &json!("6")] } else { [&Value::Null; 2] };
        assert_eq!(families, said, "{version}");
        let has_mtu = result["interfaces"][1].get("mtu").is_some();
        assert_eq!(has_mtu, version == Version::V1_1_0, "{version}");
    }
}

#[test]
fn a_pod_of_one_family_has_one_address_and_one_route() {
    for address in BOTH {
        let result = document(Version::V1_0_0, &[address], &Dns::default(), None);
        assert_eq!(result["ips"].as_array().unwrap().len(), 1);
        assert_eq!(result["routes"].as_array().unwrap().len(), 1);
    }
}

#[test]
fn only_routes_that_were_made_are_told() {
    let by_rule = vec![BOTH[1].parse().unwrap()];
    let attachment = Attachment { by_rule, ..attachment(&BOTH) };
    let (netns, dns) = (Path::new("/run/netns/a"), &Dns::default());
    let result = Added { attachment: &attachment, netns, dns }.document(Version::V1_1_0, None);
    assert_eq!(result["ips"].as_array().unwrap().len(), 2);
    assert_eq!(result["routes"], json!([{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}]));
}

#[test]
fn name_servers_are_told_only_where_there_are_some() {
    let dns = Dns { nameservers: vec!["10.96.0.10".into()], ..Dns::default() };
    let result = document(Version::V1_0_0, &BOTH, &dns, None);
    assert_eq!(result["dns"], json!({"nameservers": ["10.96.0.10"]}));
}

#[test]
fn what_earlier_plugins_said_comes_first_in_the_version_that_is_asked_for() {
    let previous = json!({
        "CNIVersion": "1.0.0", "vendor": true,
        "Interfaces": [{"name": "br0"}, {"name": "net1", "sandbox": "/x", "socketPath": "/s"}],
        "IPs": [{"address": "2001:db8::1/64", "interface": 1}],
        "dns": null,
    });
    let dns = Dns { domain: "example.org".into(), ..Dns::default() };
    let result = document(Version::V0_4_0, &BOTH[..1], &dns, Some(&previous));
    assert_eq!(result["cniVersion"], "0.4.0");
    assert_eq!(result["vendor"], true);
    assert_eq!(result["interfaces"].as_array().unwrap().len(), 4);
    assert_eq!(result["interfaces"][1], previous["Interfaces"][1]);
    assert_eq!(result["ips"][0], json!({"address": "2001:db8::1/64", "interface": 1, "version": "6"}));
    assert_eq!(result["ips"][1]["interface"], 3);
    assert_eq!(result["dns"], json!({"domain": "example.org"}));
    assert_eq!(result.as_object().unwrap().len(), 6, "keys are there twice: {result}");
}

#[test]
fn a_previous_result_that_is_none_is_passed_over() {
    for previous in [json!({}), json!({"interfaces": null, "ips": null, "routes": null}), json!(null)] {
        let result = document(Version::V1_1_0, &BOTH, &Dns::default(), Some(&previous));
        assert_eq!(result, document(Version::V1_1_0, &BOTH, &Dns::default(), None), "{previous}");
    }
}

#[test]
fn an_interface_of_the_host_is_not_the_containers() {
    let result = json!({"Interfaces": [{"Name": "eth0"}, {"name": "net1", "Sandbox": "/x"}, 5]});
    assert!(interface_in(&result, "eth0").is_none());
    assert!(interface_in(&result, "net1").is_some());
    assert!(interface_in(&json!([]), "eth0").is_none());
}
