//! A plugin as a member of somebody's list of plugins, and one that leaves addresses to another.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sheave_tests::cni::{IFNAME, Kind, Stage, exchange};

use crate::add::addresses_of;
use crate::suite::{Candidate, Case, unchanged};

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    crate::suite::cases(&[
        ("what an earlier plugin made stays in the result", an_earlier_result),
        ("addresses of a delegated plugin are the pod's, and are given back", delegated),
        ("a delegated plugin's address is given back when ADD fails", delegated_and_failed),
        ("a delegated plugin that is missing is named", a_missing_delegate),
        ("DEL gives a delegated address back when the namespace is gone", delegated_and_vanished),
    ])
}

fn an_earlier_result(candidate: &Candidate) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    let pod = stage.pod()?;
    config["prevResult"] = json!({
        "cniVersion": candidate.newest(),
        "interfaces": [{ "name": "earlier0", "mac": "0e:00:00:00:00:09" }],
        "ips": [{ "address": "198.51.100.9/24", "interface": 0 }],
        "routes": [{ "dst": "198.51.100.0/24" }],
        "dns": { "nameservers": ["198.51.100.53"] },
    });
    let result = stage.add(&config, &pod)?;
    let interfaces = result["interfaces"].as_array().context("no interfaces")?;
    let names: Vec<&str> = interfaces.iter().filter_map(|it| it["name"].as_str()).collect();
    ensure!(names.contains(&"earlier0") && names.contains(&IFNAME), "interfaces {names:?}");
    ensure!(addresses_of(&result)?.contains(&"198.51.100.9".to_owned()), "{result}");
    ensure!(result["dns"]["nameservers"] == json!(["198.51.100.53"]), "{result}");
    for ip in result["ips"].as_array().context("no ips")? {
        let owner = usize::try_from(ip["interface"].as_u64().context("no interface")?)?;
        let wanted = if ip["address"] == "198.51.100.9/24" { "earlier0" } else { IFNAME };
        ensure!(interfaces[owner]["name"] == wanted, "{ip} belongs to {}", interfaces[owner]);
    }
    Ok(())
}

/// The configuration with the reference IPAM plugin, and the folder where that keeps addresses.
fn with_host_local(stage: &Stage, config: &Value) -> Result<(Value, std::path::PathBuf)> {
    let folder = stage.state().join("delegate");
    fs::create_dir(&folder)?;
    let mut config = config.clone();
    config["ipam"] = json!({
        "type": "host-local",
        "dataDir": folder,
        "ranges": [[{ "subnet": "10.99.0.0/24" }]],
        "routes": [{ "dst": "0.0.0.0/0" }],
    });
    if stage.subject.kind == Kind::Sheave {
        // The reference plugins speak nothing newer.
        config["cniVersion"] = json!("1.0.0");
    }
    Ok((config, folder.join("pods")))
}

fn held(folder: &std::path::Path) -> usize {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("10.99.")).count()
}

fn delegated(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let (config, folder) = with_host_local(&stage, &config)?;
    let pod = stage.pod()?;
    let result = stage.add(&config, &pod)?;
    let address = addresses_of(&result)?.into_iter().next().context("no address")?;
    ensure!(address.starts_with("10.99.0.") && held(&folder) == 1, "{address}, {} held", held(&folder));
    exchange(&stage.node, &pod.netns, address.parse()?)?;
    let mut checked = config.clone();
    checked["prevResult"] = result;
    stage.run(&stage.call("CHECK", &checked, &pod))?.silence().context("CHECK")?;
    stage.del(&config, &pod)?;
    ensure!(held(&folder) == 0, "{} held after DEL", held(&folder));
    Ok(())
}

fn delegated_and_failed(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let (config, folder) = with_host_local(&stage, &config)?;
    let pod = stage.pod()?;
    pod.netns.ip("link add eth0 type bridge")?;
    stage.run(&stage.call("ADD", &config, &pod))?.refusal()?;
    ensure!(held(&folder) == 0, "{} held after a failed ADD", held(&folder));
    Ok(())
}

fn a_missing_delegate(candidate: &Candidate) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    config["ipam"] = json!({ "type": "there-is-no-such-plugin" });
    let before = stage.census()?;
    let refusal = stage.run(&stage.call("ADD", &config, &stage.pod()?))?.refusal()?;
    ensure!(refusal.text.contains("there-is-no-such-plugin"), "{}", refusal.text);
    unchanged(&stage, &before)
}

fn delegated_and_vanished(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let (config, folder) = with_host_local(&stage, &config)?;
    let pod = stage.pod()?;
    stage.add(&config, &pod)?;
    stage.del(&config, &pod.end()?)?;
    ensure!(held(&folder) == 0, "{} held after DEL", held(&folder));
    Ok(())
}
