//! What ADD makes and what it says of it.

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};
use sheave_tests::cni::{IFNAME, Pod, Stage, ask, exchange};
use sheave_tests::lab::{NODE_V4, NODE_V6};

use crate::suite::{Candidate, Case, unchanged};

/// Keys that came with 1.1.0: of an interface, and of a route.
const NEW_KEYS: [&[&str]; 2] =
    [&["mtu", "socketPath", "pciID"], &["mtu", "advmss", "priority", "table", "scope"]];

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let versions: [&'static str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];
    let results = versions.map(|version| {
        let rule = format!("the result of {version} has its form and tells the truth");
        Case::new(&rule, move |candidate| a_result_tells_the_truth(candidate, version)).since(version)
    });
    let mut cases: Vec<Case> = results.into();
    cases.extend(crate::suite::cases(&[
        ("ADD gives an address of each family and a default route for each", both_families),
        ("ADD returns /32 and /128", whole_lengths),
        ("ADD brings the loopback device up", the_loopback_device_is_up),
        ("a pod and its node can talk as soon as ADD returns", a_pod_talks_to_its_node),
        ("two pods can talk as soon as ADD returns", two_pods_talk),
        ("no address waits for duplicate detection", no_address_is_tentative),
        ("the MTU of the configuration is that of both ends", the_mtu_is_that_of_both_ends),
        ("ADD to an interface that exists is refused and changes nothing", an_interface_that_exists),
        ("ADD of the same attachment again is refused and changes nothing", the_same_again),
        ("one container can have two interfaces", two_interfaces),
        ("the second interface answers by itself and claims only routes that it has", a_second_interface),
        ("ADD takes no address that is held", no_address_is_held_twice),
        ("an address that is free again is used as late as possible", late_reuse),
        ("without a free address ADD fails, undoes all and names the range", no_address_left),
        ("after an address became free ADD works again", an_address_became_free),
        ("CNI_ARGS may hold what nobody knows", |candidate| {
            arguments(
                candidate,
                "K8S_POD_UID=1-2;IgnoreUnknown=1;K8S_POD_NAMESPACE=demo;WHAT=a;K8S_POD_NAME=web-0;\
                 K8S_POD_INFRA_CONTAINER_ID=c1",
            )
        }),
        ("a value in CNI_ARGS may hold an equals sign", |candidate| {
            arguments(candidate, "IgnoreUnknown=1;WHAT=a=b")
        }),
        ("a failed ADD leaves the pod as it was", a_failed_add_undoes_the_pod),
    ]));
    cases
}

fn a_result_tells_the_truth(candidate: &Candidate, version: &str) -> Result<()> {
    let stage = Stage::new(&candidate.subject)?;
    let config = stage.config(version);
    let pod = stage.pod()?;
    let before = stage.census()?;
    let result = stage.add(&config, &pod)?;
    ensure!(result["cniVersion"] == json!(version), "cniVersion {}", result["cniVersion"]);
    interfaces(&result, &stage, &pod, version)?;
    addresses(&result, &pod, version)?;
    for route in list(&result, "routes")? {
        ensure!(route["dst"].is_string(), "a route without destination: {route}");
        without_new_keys(route, NEW_KEYS[1], version)?;
    }
    let mut checked = config;
    checked["prevResult"] = result;
    if version != "0.3.0" && version != "0.3.1" {
        stage.run(&stage.call("CHECK", &checked, &pod))?.silence().context("CHECK right after ADD")?;
    }
    stage.del(&checked, &pod)?;
    ensure!(!pod.has(IFNAME)?, "{IFNAME} is still there");
    unchanged(&stage, &before)
}

fn list<'a>(result: &'a Value, key: &str) -> Result<&'a Vec<Value>> {
    result[key].as_array().with_context(|| format!("no {key} in {result}"))
}

fn interfaces(result: &Value, stage: &Stage, pod: &Pod, version: &str) -> Result<()> {
    let interfaces = list(result, "interfaces")?;
    let sandbox = json!(pod.path);
    let inside: Vec<&Value> = interfaces.iter().filter(|it| it["sandbox"] == sandbox).collect();
    ensure!(inside.len() == 1 && inside[0]["name"] == IFNAME, "in the pod: {inside:?}");
    ensure!(interfaces.len() == 2, "interfaces {interfaces:?}");
    for interface in interfaces {
        let is_inside = interface["sandbox"] == sandbox;
        ensure!(is_inside || interface.get("sandbox").is_none(), "an empty sandbox: {interface}");
        let netns = if is_inside { &pod.netns } else { &stage.node };
        let device =
            &ask(netns, &["link", "show", "dev", interface["name"].as_str().unwrap_or_default()])?[0];
        ensure!(device["address"] == interface["mac"], "{interface} is {device}");
        without_new_keys(interface, NEW_KEYS[0], version)?;
        ensure!(version != "1.1.0" || interface["mtu"] == device["mtu"], "MTU: {interface} is {device}");
    }
    Ok(())
}

fn addresses(result: &Value, pod: &Pod, version: &str) -> Result<()> {
    let device = &ask(&pod.netns, &["address", "show", "dev", IFNAME])?[0];
    let has =
        |address: &str| {
            device["addr_info"].as_array().into_iter().flatten().any(|it| {
                format!("{}/{}", it["local"].as_str().unwrap_or_default(), it["prefixlen"]) == address
            })
        };
    for ip in list(result, "ips")? {
        let address = ip["address"].as_str().context("no address")?;
        ensure!(has(address), "{address} is not on {device}");
        let index = ip["interface"].as_u64().context("no interface")?;
        let interface = &result["interfaces"][usize::try_from(index)?];
        ensure!(interface["name"] == IFNAME, "{address} belongs to {interface}");
        let family = if address.contains(':') { "6" } else { "4" };
        let wanted = if version.starts_with('0') { json!(family) } else { Value::Null };
        ensure!(ip["version"] == wanted, "version of {ip} in {version}");
    }
    Ok(())
}

fn without_new_keys(object: &Value, keys: &[&str], version: &str) -> Result<()> {
    let found = keys.iter().find(|key| version != "1.1.0" && object.get(*key).is_some());
    found.map_or(Ok(()), |key| bail!("{key} in a result of {version}: {object}"))
}

/// The addresses of a result without their lengths.
pub(crate) fn addresses_of(result: &Value) -> Result<Vec<String>> {
    let cut = |ip: &Value| ip["address"].as_str().and_then(|it| it.split('/').next()).map(str::to_owned);
    list(result, "ips")?.iter().map(|ip| cut(ip).context("no address")).collect()
}

fn both_families(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let result = stage.add(&config, &pod)?;
    let (v6, v4): (Vec<_>, Vec<_>) = addresses_of(&result)?.into_iter().partition(|it| it.contains(':'));
    ensure!(v4.len() == 1 && v6.len() == 1, "{v4:?} {v6:?}");
    for (family, destination) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        let routes = ask(&pod.netns, &[family, "route", "show", "default"])?;
        ensure!(routes.len() == 1 && routes[0]["dev"] == IFNAME, "{family}: {routes:?}");
        let told = list(&result, "routes")?.iter().any(|route| route["dst"] == destination);
        ensure!(told, "the result has no route to {destination}: {result}");
    }
    Ok(())
}

fn whole_lengths(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let result = stage.add(&config, &stage.pod()?)?;
    let whole =
        |ip: &Value| ip["address"].as_str().is_some_and(|it| it.ends_with("/32") || it.ends_with("/128"));
    ensure!(list(&result, "ips")?.iter().all(whole), "{result}");
    Ok(())
}

fn the_loopback_device_is_up(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    stage.add(&config, &pod)?;
    exchange(&pod.netns, &pod.netns, [127, 0, 0, 1].into())
}

fn a_pod_talks_to_its_node(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let result = stage.add(&config, &pod)?;
    for node in [NODE_V4.into(), NODE_V6.into()] {
        exchange(&pod.netns, &stage.node, node).context("from the pod")?;
    }
    for address in addresses_of(&result)? {
        exchange(&stage.node, &pod.netns, address.parse()?).context("to the pod")?;
    }
    Ok(())
}

fn two_pods_talk(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let (one, other) = (stage.pod()?, stage.pod()?);
    stage.add(&config, &one)?;
    let result = stage.add(&config, &other)?;
    addresses_of(&result)?.iter().try_for_each(|address| exchange(&one.netns, &other.netns, address.parse()?))
}

fn no_address_is_tentative(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    stage.add(&config, &pod)?;
    let device = &ask(&pod.netns, &["address", "show", "dev", IFNAME])?[0];
    let global = device["addr_info"].as_array().into_iter().flatten().filter(|it| it["scope"] == "global");
    for address in global {
        ensure!(address.get("tentative").is_none(), "{address}");
        ensure!(address["family"] == "inet" || address["nodad"] == true, "not marked `nodad`: {address}");
    }
    Ok(())
}

fn the_mtu_is_that_of_both_ends(candidate: &Candidate) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    config["mtu"] = json!(1377);
    let pod = stage.pod()?;
    let result = stage.add(&config, &pod)?;
    let host = list(&result, "interfaces")?.iter().find(|it| it.get("sandbox").is_none());
    let host = host.and_then(|it| it["name"].as_str()).context("no interface on the host")?;
    for (netns, device) in [(&pod.netns, IFNAME), (&stage.node, host)] {
        let devices = ask(netns, &["link", "show", "dev", device])?;
        ensure!(devices[0]["mtu"] == 1377, "{}", devices[0]);
    }
    Ok(())
}

fn an_interface_that_exists(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    pod.netns.ip("link add eth0 type bridge")?;
    let before = (stage.census()?, pod.census()?);
    let refusal = stage.run(&stage.call("ADD", &config, &pod))?.refusal()?;
    ensure!(refusal.text.contains(IFNAME), "does not name {IFNAME}: {}", refusal.text);
    unchanged(&stage, &before.0)?;
    pod.census()?.same_as(&before.1)
}

fn the_same_again(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let result = stage.add(&config, &pod)?;
    let before = (stage.census()?, pod.census()?);
    stage.run(&stage.call("ADD", &config, &pod))?.refusal()?;
    stage.census()?.same_as(&before.0).context("the node changed")?;
    pod.census()?.same_as(&before.1).context("the pod changed")?;
    let address = addresses_of(&result)?[0].parse()?;
    exchange(&stage.node, &pod.netns, address)
}

fn two_interfaces(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let before = stage.census()?;
    let first = stage.add(&config, &pod)?;
    let second = stage.call("ADD", &config, &pod).set("CNI_IFNAME", "net1");
    let second = stage.run(&second)?.result().context("the second interface")?;
    ensure!(addresses_of(&first)? != addresses_of(&second)?, "the same addresses twice");
    stage.run(&stage.call("DEL", &config, &pod).set("CNI_IFNAME", "net1"))?.silence()?;
    ensure!(pod.has(IFNAME)? && !pod.has("net1")?, "DEL of net1 removed the wrong one");
    exchange(&stage.node, &pod.netns, addresses_of(&first)?[0].parse()?)?;
    stage.del(&config, &pod)?;
    unchanged(&stage, &before)
}

fn a_second_interface(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    stage.add(&config, &pod)?;
    let second = stage.call("ADD", &config, &pod).set("CNI_IFNAME", "net1");
    let second = stage.run(&second)?.result().context("the second interface")?;
    for (family, destination) in [("-4", "0.0.0.0/0"), ("-6", "::/0")] {
        let routes = ask(&pod.netns, &[family, "route", "show", "default"])?;
        let has = routes.iter().any(|route| route["dev"] == "net1");
        let told = second["routes"].as_array().into_iter().flatten().any(|it| it["dst"] == destination);
        ensure!(has == told, "{destination} is told: {told}, the pod has it: {has}");
    }
    for address in addresses_of(&second)? {
        let to = if address.contains(':') { NODE_V6.to_string() } else { NODE_V4.to_string() };
        let family = if address.contains(':') { "-6" } else { "-4" };
        let way = ask(&pod.netns, &[family, "route", "get", &to, "from", &address])?;
        ensure!(way[0]["dev"] == "net1", "{address} answers by {way:?}");
        exchange(&stage.node, &pod.netns, address.parse()?)?;
    }
    Ok(())
}

/// A node whose range has six addresses that a pod can have, less the first.
fn small(candidate: &Candidate) -> Result<(Stage, Value)> {
    let stage = Stage::ranged(&candidate.subject, &["10.244.7.0/29"])?;
    let config = stage.config(candidate.newest());
    Ok((stage, config))
}

fn fill(stage: &Stage, config: &Value) -> Result<Vec<(Pod, String)>> {
    let one = |_| {
        let pod = stage.pod()?;
        let address = addresses_of(&stage.add(config, &pod)?)?.remove(0);
        Ok((pod, address))
    };
    (0..5).map(one).collect()
}

fn no_address_is_held_twice(candidate: &Candidate) -> Result<()> {
    let (stage, config) = small(candidate)?;
    let pods = fill(&stage, &config)?;
    let mut addresses: Vec<&String> = pods.iter().map(|(_, address)| address).collect();
    addresses.sort();
    addresses.dedup();
    ensure!(addresses.len() == pods.len(), "{addresses:?}");
    let never = ["10.244.7.0", "10.244.7.1", "10.244.7.7"];
    ensure!(!addresses.iter().any(|it| never.contains(&it.as_str())), "{addresses:?}");
    Ok(())
}

fn late_reuse(candidate: &Candidate) -> Result<()> {
    let (stage, config) = small(candidate)?;
    let mut seen = Vec::new();
    for _ in 0..5 {
        let pod = stage.pod()?;
        seen.push(addresses_of(&stage.add(&config, &pod)?)?.remove(0));
        stage.del(&config, &pod)?;
    }
    let mut different = seen.clone();
    different.sort();
    different.dedup();
    ensure!(different.len() == seen.len(), "used again at once: {seen:?}");
    Ok(())
}

fn no_address_left(candidate: &Candidate) -> Result<()> {
    let (stage, config) = small(candidate)?;
    let _pods = fill(&stage, &config)?;
    let pod = stage.pod()?;
    let before = (stage.census()?, pod.census()?);
    let refusal = stage.run(&stage.call("ADD", &config, &pod))?.refusal()?;
    unchanged(&stage, &before.0)?;
    pod.census()?.same_as(&before.1).context("the pod changed")?;
    ensure!(refusal.code == 11 || refusal.code >= 100, "code {}", refusal.code);
    ensure!(refusal.text.contains("10.244.7."), "does not name the range: {}", refusal.text);
    Ok(())
}

fn an_address_became_free(candidate: &Candidate) -> Result<()> {
    let (stage, config) = small(candidate)?;
    let pods = fill(&stage, &config)?;
    let pod = stage.pod()?;
    stage.run(&stage.call("ADD", &config, &pod))?.refusal()?;
    let (gone, address) = &pods[2];
    stage.del(&config, gone)?;
    let result = stage.add(&config, &pod)?;
    ensure!(addresses_of(&result)? == [address.clone()], "{result}");
    exchange(&stage.node, &pod.netns, address.parse()?)
}

fn arguments(candidate: &Candidate, arguments: &str) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    stage.run(&stage.call("ADD", &config, &pod).set("CNI_ARGS", arguments))?.result()?;
    stage.run(&stage.call("DEL", &config, &pod).set("CNI_ARGS", arguments))?.silence()
}

fn a_failed_add_undoes_the_pod(candidate: &Candidate) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    // Larger than any veth device takes.
    config["mtu"] = json!(70_000);
    let pod = stage.pod()?;
    let before = (stage.census()?, pod.census()?);
    stage.run(&stage.call("ADD", &config, &pod))?.refusal()?;
    unchanged(&stage, &before.0)?;
    pod.census()?.same_as(&before.1).context("the pod changed")
}
