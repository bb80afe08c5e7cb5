//! CHECK finds what is broken, and bears with what others may change.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sheave_tests::cni::{Pod, Stage};

use crate::suite::{Candidate, Case};

/// What is done to the node or the pod between ADD and CHECK: `ip` words for one of the two.
struct Damage {
    rule: &'static str,
    in_pod: bool,
    /// `%host`, `%mac`, `%v4` and `%v6` stand for the host's device and the pod's addresses.
    words: &'static [&'static str],
    is_found: bool,
}

const fn damage(rule: &'static str, in_pod: bool, words: &'static [&'static str], is_found: bool) -> Damage {
    Damage { rule, in_pod, words, is_found }
}

const TABLE: &[Damage] = &[
    damage("CHECK finds nothing wrong right after ADD", true, &[], false),
    damage("CHECK finds an interface that is gone", true, &["link delete eth0"], true),
    damage("CHECK finds an interface that is down", true, &["link set eth0 down"], true),
    damage("CHECK finds the host's end gone", false, &["link delete %host"], true),
    damage("CHECK finds the host's end down", false, &["link set %host down"], true),
    damage("CHECK finds an IPv4 address missing", true, &["address flush dev eth0 scope global"], true),
    damage("CHECK finds the host's route missing", false, &["route flush %v4"], true),
    damage("CHECK finds the host's IPv6 route missing", false, &["-6 route flush %v6"], true),
    damage("CHECK bears with another MAC address", true, &["link set eth0 address 0e:00:00:00:00:77"], false),
    damage("CHECK bears with a route more", true, &["route add 192.0.2.77 dev eth0"], false),
    damage("CHECK bears with an address more", true, &["address add 192.0.2.78/32 dev eth0"], false),
    damage("CHECK bears with another device", true, &["link add other type bridge"], false),
];

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let damages = TABLE.iter().map(|row| Case::new(row.rule, move |candidate| row.tried(candidate)));
    let mut cases: Vec<Case> = damages.collect();
    cases.extend(crate::suite::cases(&[
        ("CHECK finds another interface in its result than in the pod", another_result),
        ("CHECK needs no running agent", without_an_agent),
    ]));
    cases
}

impl Damage {
    fn tried(&self, candidate: &Candidate) -> Result<()> {
        let (stage, config) = candidate.stage()?;
        let pod = stage.pod()?;
        let checked = added(&stage, &config, &pod)?;
        let netns = if self.in_pod { &pod.netns } else { &stage.node };
        for words in self.words {
            netns.ip(&filled(words, &checked["prevResult"])?)?;
        }
        let before = (stage.census()?, pod.census()?);
        let answer = stage.run(&stage.call("CHECK", &checked, &pod))?;
        if self.is_found {
            let refusal = answer.refusal().context("it was not found")?;
            ensure!(refusal.code >= 100, "code {} is the specification's: {}", refusal.code, refusal.text);
        } else {
            answer.silence()?;
        }
        stage.census()?.same_as(&before.0).context("CHECK changed the node")?;
        pod.census()?.same_as(&before.1).context("CHECK changed the pod")
    }
}

/// The configuration for CHECK of a pod that was just added.
fn added(stage: &Stage, config: &Value, pod: &Pod) -> Result<Value> {
    let mut config = config.clone();
    config["prevResult"] = stage.add(&config, pod)?;
    Ok(config)
}

fn filled(words: &str, result: &Value) -> Result<String> {
    let interfaces = result["interfaces"].as_array().context("no interfaces")?;
    let host = interfaces.iter().find(|it| it.get("sandbox").is_none()).context("no host device")?;
    let mut words = words.replace("%host", host["name"].as_str().context("no name")?);
    for address in crate::add::addresses_of(result)? {
        words = words.replace(if address.contains(':') { "%v6" } else { "%v4" }, &address);
    }
    Ok(words)
}

fn another_result(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let mut checked = added(&stage, &config, &pod)?;
    for ip in checked["prevResult"]["ips"].as_array_mut().context("no ips")? {
        if ip["address"].as_str().is_some_and(|it| it.contains('.')) {
            ip["address"] = json!("10.244.0.200/32");
        }
    }
    stage.run(&stage.call("CHECK", &checked, &pod))?.refusal()?;
    Ok(())
}

fn without_an_agent(candidate: &Candidate) -> Result<()> {
    let (mut stage, config) = candidate.stage()?;
    let pod = stage.pod()?;
    let checked = added(&stage, &config, &pod)?;
    stage.stop_agent();
    stage.run(&stage.call("CHECK", &checked, &pod))?.silence()
}
