//! What a runtime asks for besides: `runtimeConfig`, and the same in `args` and `CNI_ARGS`.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sheave_tests::cni::{IFNAME, Pod, Refusal, Stage, ask};

use crate::add::addresses_of;
use crate::suite::{Candidate, Case, unchanged};

/// A `runtimeConfig` that must be refused, its rule and the word that the refusal must have.
const WRONG: &[(&str, &str, &str)] = &[
    ("a MAC address that is none is refused", r#"{"mac": "0e:00:00"}"#, "mac"),
    ("a multicast MAC address is refused", r#"{"mac": "01:00:5e:00:00:01"}"#, "01:00:5e:00:00:01"),
    ("an address that is none is refused", r#"{"ips": ["10.244.0"]}"#, "10.244.0"),
    ("an address outside the ranges is refused", r#"{"ips": ["192.0.2.9/24"]}"#, "192.0.2.9"),
    ("the range's first address is refused", r#"{"ips": ["10.244.0.1/24"]}"#, "10.244.0.1"),
    (
        "a host port of 70000 is refused",
        r#"{"portMappings": [{"hostPort": 70000, "containerPort": 80, "protocol": "tcp"}]}"#,
        "70000",
    ),
    (
        "a container port of 0 is refused",
        r#"{"portMappings": [{"hostPort": 8080, "containerPort": 0, "protocol": "tcp"}]}"#,
        "containerPort",
    ),
    (
        "a host port of a protocol without ports is refused",
        r#"{"portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "icmp"}]}"#,
        "icmp",
    ),
    (
        "a host address that is none is refused",
        r#"{"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp", "hostIP": "here"}]}"#,
        "here",
    ),
    (
        "the same host port twice in one request is refused",
        r#"{"portMappings": [{"hostPort": 80, "containerPort": 80, "protocol": "tcp"},
                             {"hostPort": 80, "containerPort": 81, "protocol": "tcp"}]}"#,
        "80",
    ),
    (
        "a rate that is no number is refused",
        r#"{"bandwidth": {"ingressRate": "much", "ingressBurst": 1000000}}"#,
        "ingressRate",
    ),
];

/// A `runtimeConfig` that must be taken without a trace but its effect elsewhere.
const RIGHT: &[(&str, &str)] = &[
    (
        "aliases, a cgroup path and annotations are taken",
        r#"{"aliases": ["web"], "cgroupPath": "/kubepods/pod1",
        "io.kubernetes.cri.pod-annotations": {"a": "b"}}"#,
    ),
    (
        "containerd's limits are taken",
        r#"{"bandwidth": {"ingressRate": 1000000, "ingressBurst": 4294967295,
        "egressRate": 1000000, "egressBurst": 4294967295}}"#,
    ),
    ("a rate without a burst is taken", r#"{"bandwidth": {"egressRate": 1000000}}"#),
    ("limits of nothing are taken", r#"{"bandwidth": {}}"#),
    (
        "ports in capital letters and with any address are taken",
        r#"{"portMappings": [
        {"hostPort": 8080, "containerPort": 80, "protocol": "TCP", "hostIP": "0.0.0.0"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": "::"}]}"#,
    ),
    (
        "a container port without a host port is taken",
        r#"{"portMappings": [
        {"hostPort": 0, "containerPort": 80, "protocol": "tcp"}]}"#,
    ),
];

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let wrong = WRONG.iter().map(|&(rule, request, word)| {
        Case::new(rule, move |candidate| refused(candidate, &serde_json::from_str(request)?, word))
    });
    let right = RIGHT.iter().map(|&(rule, request)| {
        Case::new(rule, move |candidate| taken(candidate, serde_json::from_str(request)?))
    });
    let mut cases: Vec<Case> = wrong.chain(right).collect();
    cases.extend(crate::suite::cases(&[
        ("the MAC address asked for is the pod's", the_mac_asked_for),
        ("a MAC address in CNI_ARGS is the pod's", the_mac_of_the_arguments),
        ("the address asked for is the pod's", the_address_asked_for),
        ("an address that is held is refused, and its holder named", a_held_address),
        ("addresses come from the ranges asked for", the_ranges_asked_for),
        ("the DNS asked for is in the result", the_dns_asked_for),
        ("a host port that another pod has is refused with code 7", a_held_port),
        ("host ports of different addresses do not collide", ports_of_different_addresses),
        ("a host port is free again after DEL", a_freed_port),
        ("host ports without a running agent are refused with code 11", ports_without_an_agent),
    ]));
    cases
}

fn asking(config: &Value, request: Value) -> Value {
    let mut config = config.clone();
    config["runtimeConfig"] = request;
    config
}

fn refused(candidate: &Candidate, request: &Value, word: &str) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let refusal = refusal(&stage, &asking(&config, request.clone()), &pod)?;
    // The configuration is invalid; codes from 100 are a plugin's own.
    ensure!(refusal.code == 7 || refusal.code >= 100, "code {}: {}", refusal.code, refusal.text);
    ensure!(refusal.text.contains(word), "does not name {word}: {}", refusal.text);
    Ok(())
}

/// What ADD is refused with; nothing changes.
fn refusal(stage: &Stage, config: &Value, pod: &Pod) -> Result<Refusal> {
    let before = (stage.census()?, pod.census()?);
    let refusal = stage.run(&stage.call("ADD", config, pod))?.refusal()?;
    unchanged(stage, &before.0)?;
    pod.census()?.same_as(&before.1).context("the pod changed")?;
    Ok(refusal)
}

fn taken(candidate: &Candidate, request: Value) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let before = stage.census()?;
    let (pod, config) = (stage.pod()?, asking(&config, request));
    stage.add(&config, &pod)?;
    stage.del(&config, &pod)?;
    unchanged(&stage, &before)
}

fn has_mac(pod: &Pod, mac: &str) -> Result<()> {
    let devices = ask(&pod.netns, &["link", "show", "dev", IFNAME])?;
    ensure!(devices[0]["address"] == mac, "{}", devices[0]);
    Ok(())
}

fn the_mac_asked_for(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    stage.add(&asking(&config, json!({ "mac": "0E:00:00:00:00:2A" })), &pod)?;
    has_mac(&pod, "0e:00:00:00:00:2a")
}

fn the_mac_of_the_arguments(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let call = stage.call("ADD", &config, &pod).set("CNI_ARGS", "IgnoreUnknown=1;MAC=0e:00:00:00:00:2b");
    stage.run(&call)?.result()?;
    has_mac(&pod, "0e:00:00:00:00:2b")
}

fn the_address_asked_for(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let request = json!({ "ips": ["10.244.0.77/24", "fd00:10:244::77/64"] });
    let result = stage.add(&asking(&config, request), &pod)?;
    ensure!(addresses_of(&result)? == ["10.244.0.77", "fd00:10:244::77"], "{result}");
    Ok(())
}

fn a_held_address(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let holder = stage.pod()?;
    let config = asking(&config, json!({ "ips": ["10.244.0.77"] }));
    stage.add(&config, &holder)?;
    let refusal = refusal(&stage, &config, &stage.pod()?)?;
    ensure!(refusal.text.contains(&holder.container), "does not name the holder: {}", refusal.text);
    Ok(())
}

fn the_ranges_asked_for(candidate: &Candidate) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    if let Some(ipam) = config["ipam"].as_object_mut() {
        // The reference plugin takes the union.
        ipam.remove("ranges");
    }
    let request =
        json!({ "ipRanges": [[{ "subnet": "10.244.0.192/26" }], [{ "subnet": "fd00:10:244::ff00/120" }]] });
    let result = stage.add(&asking(&config, request), &stage.pod()?)?;
    let addresses = addresses_of(&result)?;
    let [v4, v6] = addresses.as_slice() else { anyhow::bail!("{addresses:?}") };
    let last: u8 = v4.rsplit('.').next().context("no IPv4 address")?.parse()?;
    ensure!(last > 192 && v6.starts_with("fd00:10:244::ff"), "{addresses:?}");
    Ok(())
}

fn the_dns_asked_for(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let request =
        json!({ "dns": { "servers": ["10.96.0.10"], "searches": ["demo.svc"], "options": ["ndots:5"] } });
    let result = stage.add(&asking(&config, request), &stage.pod()?)?;
    let dns = &result["dns"];
    ensure!(
        dns["nameservers"] == json!(["10.96.0.10"])
            && dns["search"] == json!(["demo.svc"])
            && dns["options"] == json!(["ndots:5"]),
        "{result}"
    );
    Ok(())
}

fn port(host_ip: &str) -> Value {
    json!({ "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": host_ip }] })
}

fn a_held_port(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let holder = stage.pod()?;
    stage.add(&asking(&config, port("")), &holder)?;
    for host_ip in ["", "127.0.0.1"] {
        let refusal = refusal(&stage, &asking(&config, port(host_ip)), &stage.pod()?)?;
        ensure!(refusal.code == 7, "code {}: {}", refusal.code, refusal.text);
        ensure!(refusal.text.contains("8080"), "does not name the port: {}", refusal.text);
        ensure!(refusal.text.contains(&holder.container), "does not name the holder: {}", refusal.text);
    }
    Ok(())
}

fn ports_of_different_addresses(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    for host_ip in ["127.0.0.1", "192.0.2.1", "::1"] {
        stage.add(&asking(&config, port(host_ip)), &stage.pod()?).with_context(|| host_ip.to_owned())?;
    }
    Ok(())
}

fn a_freed_port(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let (config, pod) = (asking(&config, port("")), stage.pod()?);
    stage.add(&config, &pod)?;
    stage.del(&config, &pod)?;
    stage.add(&config, &stage.pod()?)?;
    Ok(())
}

fn ports_without_an_agent(candidate: &Candidate) -> Result<()> {
    let (mut stage, config) = candidate.stage()?;
    stage.stop_agent();
    let refusal = refusal(&stage, &asking(&config, port("")), &stage.pod()?)?;
    ensure!(refusal.code == 11, "code {}: {}", refusal.code, refusal.text);
    Ok(())
}
