//! DEL never fails for what is gone, and takes nothing that is somebody else's.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sheave_tests::cni::{Census, IFNAME, Pod, Stage, exchange};

use crate::add::addresses_of;
use crate::suite::{Candidate, Case, unchanged};

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    crate::suite::cases(&[
        ("DEL succeeds twice", twice),
        ("DEL succeeds for what was never added", never_added),
        ("DEL with an empty namespace releases everything", |candidate| {
            released(candidate, |stage, config, pod| call(stage, config, pod, Some("")))
        }),
        ("DEL without a namespace releases everything", |candidate| {
            released(candidate, |stage, config, pod| call(stage, config, pod, None))
        }),
        ("DEL of a path that vanished releases everything", |candidate| {
            released(candidate, |stage, config, pod| stage.del(config, &pod.end()?))
        }),
        ("DEL of a path that is a plain file releases everything", |candidate| {
            released(candidate, |stage, config, pod| {
                let pod = pod.end()?;
                fs::write(&pod.path, "")?;
                stage.del(config, &pod)
            })
        }),
        ("DEL of a path that is a folder releases everything", |candidate| {
            released(candidate, |stage, config, pod| {
                let pod = pod.end()?;
                fs::create_dir(&pod.path)?;
                stage.del(config, &pod)
            })
        }),
        ("DEL of an interface that is gone releases everything", |candidate| {
            released(candidate, |stage, config, pod| {
                pod.netns.ip("link delete eth0")?;
                stage.del(config, &pod)
            })
        }),
        ("DEL with the result of ADD releases everything", |candidate| {
            released(candidate, |stage, config, pod| stage.del(config, &pod))
        }),
        ("DEL with a result of null releases everything", |candidate| {
            released_with(candidate, "prevResult", &Value::Null)
        }),
        ("DEL with a damaged result releases everything", |candidate| {
            released_with(candidate, "prevResult", &json!({ "cniVersion": "9.9.9", "ips": 7 }))
        }),
        ("DEL after the configuration changed releases everything", |candidate| {
            released_with(candidate, "mtu", &json!(1280))
        }),
        ("DEL with an ipam that is no object releases everything", |candidate| {
            released_with(candidate, "ipam", &json!("host-local"))
        }),
        ("DEL after the interface was renamed releases everything", |candidate| {
            released(candidate, |stage, config, pod| {
                pod.netns.ip("link set eth0 down")?;
                pod.netns.ip("link set eth0 name other")?;
                stage.del(config, &pod)
            })
        }),
        ("DEL in another version than ADD releases everything", in_another_version),
        ("DEL leaves the new container at the same path alone", the_new_container_stays),
        ("DEL leaves an interface of the same name that is not its own alone", a_foreign_interface_stays),
        ("DEL of one pod leaves the others alone", the_others_stay),
        ("DEL works without a running agent, and after a reboot", without_an_agent),
        ("DEL works when what is remembered was lost", without_records),
    ])
}

fn call(stage: &Stage, config: &Value, pod: Pod, netns: Option<&str>) -> Result<()> {
    let call = stage.call("DEL", config, &pod);
    let call =
        netns.map_or_else(|| call.clone().unset("CNI_NETNS"), |path| call.clone().set("CNI_NETNS", path));
    // The runtime has closed the namespace by then.
    drop(pod.end()?);
    stage.run(&call)?.silence()
}

/// ADD, then what `end` does, then the node is as before.
fn released(candidate: &Candidate, end: impl Fn(&Stage, &Value, Pod) -> Result<()>) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    let before = stage.census()?;
    let pod = stage.pod()?;
    config["prevResult"] = stage.add(&config, &pod)?;
    end(&stage, &config, pod)?;
    unchanged(&stage, &before)
}

/// The same with one key of the configuration changed between ADD and DEL.
fn released_with(candidate: &Candidate, key: &str, value: &Value) -> Result<()> {
    released(candidate, |stage, config, pod| {
        let mut config = config.clone();
        config[key] = value.clone();
        stage.del(&config, &pod)
    })
}

fn twice(candidate: &Candidate) -> Result<()> {
    released(candidate, |stage, config, pod| {
        stage.del(config, &pod)?;
        ensure!(!pod.has(IFNAME)?, "{IFNAME} is still there");
        stage.del(config, &pod).context("the second time")?;
        stage.del(config, &pod.end()?).context("the third time, without the namespace")
    })
}

fn never_added(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let before = stage.census()?;
    stage.del(&config, &pod)?;
    stage.del(&config, &pod.end()?).context("without the namespace")?;
    unchanged(&stage, &before)
}

fn in_another_version(candidate: &Candidate) -> Result<()> {
    let stage = Stage::new(&candidate.subject)?;
    let (old, new) = (stage.config("0.3.1"), stage.config(candidate.newest()));
    let before = stage.census()?;
    for (first, last) in [(&old, &new), (&new, &old)] {
        let pod = stage.pod()?;
        let mut last = last.clone();
        last["prevResult"] = stage.add(first, &pod)?;
        stage.del(&last, &pod)?;
        ensure!(!pod.has(IFNAME)?, "{IFNAME} is still there");
        unchanged(&stage, &before)?;
    }
    Ok(())
}

fn the_new_container_stays(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let old = stage.pod()?;
    let mut late = config.clone();
    late["prevResult"] = stage.add(&config, &old)?;
    let new = old.succeed("successor")?;
    let result = stage.add(&config, &new)?;
    stage.del(&late, &old)?;
    ensure!(new.has(IFNAME)?, "the late DEL removed the new container's interface");
    exchange(&stage.node, &new.netns, addresses_of(&result)?[0].parse()?)
}

fn a_foreign_interface_stays(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    pod.netns.ip("link add eth0 type bridge")?;
    stage.del(&config, &pod)?;
    ensure!(pod.has(IFNAME)?, "DEL removed a bridge that it did not make");
    Ok(())
}

fn the_others_stay(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let (one, other) = (stage.pod()?, stage.pod()?);
    let result = stage.add(&config, &one)?;
    let before = (stage.census()?, one.census()?);
    stage.add(&config, &other)?;
    stage.del(&config, &other)?;
    unchanged(&stage, &before.0)?;
    one.census()?.same_as(&before.1)?;
    exchange(&stage.node, &one.netns, addresses_of(&result)?[0].parse()?)
}

fn without_an_agent(candidate: &Candidate) -> Result<()> {
    let (mut stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let empty = Census::take(&stage.node, &[], &[])?;
    stage.add(&config, &pod)?;
    stage.stop_agent();
    stage.del(&config, &pod)?;
    Census::take(&stage.node, &[], &[])?.same_as(&empty)?;
    // Everything below the run folder is gone after a reboot, the folder as well.
    fs::remove_dir_all(stage.state())?;
    stage.del(&config, &pod.end()?).context("after a reboot")?;
    fs::create_dir_all(stage.state())?;
    Ok(())
}

fn without_records(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let empty = Census::take(&stage.node, &[], &[])?;
    stage.add(&config, &pod)?;
    fs::remove_dir_all(stage.state())?;
    fs::create_dir_all(stage.state())?;
    let call = stage.call("DEL", &config, &pod).set("CNI_NETNS", "");
    stage.run(&call)?.silence()?;
    ensure!(!pod.has(IFNAME)?, "{IFNAME} is still there");
    Census::take(&stage.node, &[], &[])?.same_as(&empty)
}
