//! The verbs that are about no single pod: VERSION, STATUS and GC.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sheave_tests::cni::{Call, Pod, Stage, exchange};

use crate::add::addresses_of;
use crate::suite::{Candidate, Case, Named, unchanged};

const VALID: &str = "cni.dev/valid-attachments";

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases = crate::suite::cases(&[
        ("VERSION is answered with nothing set but the verb", version_with_nothing_set),
        ("VERSION is answered as libcni asks", version_as_libcni_asks),
        ("VERSION is answered before any agent has run", version_without_anything),
        ("0.3.0, 0.3.1, 0.4.0 and 1.0.0 are spoken", old_versions),
        ("1.1.0 is spoken", |candidate| {
            ensure!(candidate.speaks("1.1.0"), "it is not");
            Ok(())
        }),
    ]);
    let newer: [Named<'_>; 17] = [
        ("STATUS says nothing while everything works", status_is_silent),
        ("STATUS needs neither container, namespace nor path", status_needs_nothing),
        ("STATUS without a running agent has code 50", status_without_an_agent),
        ("STATUS says nothing while the agent restarts", status_while_the_agent_restarts),
        ("STATUS before the agent has run has code 50 and says what to do", status_without_facts),
        ("STATUS repeats what keeps pods from being served, with code 50", status_with_an_obstacle),
        ("ADD before the agent has run has code 11", add_without_facts),
        ("ADD while pods cannot be served has code 11 and says why", add_with_an_obstacle),
        ("GC without a list frees nothing", |candidate| collected(candidate, &[], None)),
        ("GC with an empty list frees what is dead and nothing else", |candidate| {
            collected(candidate, &[(VALID, json!([]))], Some(()))
        }),
        ("GC with a list of null frees what is dead and nothing else", |candidate| {
            collected(candidate, &[(VALID, Value::Null)], Some(()))
        }),
        ("GC knows the list under its old name", |candidate| {
            collected(candidate, &[("cni.dev/attachments", json!([]))], Some(()))
        }),
        ("GC frees nothing that is in the list", everything_is_valid),
        ("GC leaves alone what was made a moment ago", the_young_stay),
        ("STATUS with a pin missing has code 51", status_without_a_pin),
        ("GC with nothing to do succeeds", nothing_to_collect),
        ("GC of what is dead makes room for others", room_again),
    ];
    cases.extend(crate::suite::cases(&newer).into_iter().map(|case| case.since("1.1.0")));
    cases
}

fn version(candidate: &Candidate, change: impl Fn(Call) -> Call) -> Result<Value> {
    let (stage, _) = candidate.stage()?;
    let call = Call::new("VERSION", &json!({ "cniVersion": "0.4.0" }));
    stage.run(&change(call))?.result()
}

fn version_with_nothing_set(candidate: &Candidate) -> Result<()> {
    let answer = version(candidate, |call| call)?;
    ensure!(answer["cniVersion"].is_string() && answer["supportedVersions"].is_array(), "{answer}");
    Ok(())
}

fn version_as_libcni_asks(candidate: &Candidate) -> Result<()> {
    let dummy = |call: Call| {
        ["CNI_NETNS", "CNI_IFNAME", "CNI_PATH"].iter().fold(call, |call, name| call.set(name, "dummy"))
    };
    let answer = version(candidate, dummy)?;
    ensure!(answer == version(candidate, |call| call)?, "{answer}");
    Ok(())
}

fn version_without_anything(candidate: &Candidate) -> Result<()> {
    let (mut stage, _) = candidate.stage()?;
    stage.stop_agent();
    fs::remove_dir_all(stage.state())?;
    let answer = stage.run(&Call::new("VERSION", &json!({ "cniVersion": "1.0.0" })))?.result()?;
    ensure!(answer["supportedVersions"].is_array(), "{answer}");
    Ok(())
}

fn old_versions(candidate: &Candidate) -> Result<()> {
    let missing: Vec<_> = ["0.3.0", "0.3.1", "0.4.0", "1.0.0"]
        .into_iter()
        .filter(|version| !candidate.speaks(version))
        .collect();
    ensure!(missing.is_empty(), "not spoken: {missing:?}");
    Ok(())
}

fn status_is_silent(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let before = stage.census()?;
    let answer = stage.run(&stage.bare("STATUS", &config))?;
    answer.silence()?;
    ensure!(answer.log.is_empty(), "a log line every five seconds: {}", answer.log);
    unchanged(&stage, &before)
}

fn status_needs_nothing(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let empty = ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_ARGS"];
    let call = empty.iter().fold(stage.bare("STATUS", &config), |call, name| call.set(name, ""));
    stage.run(&call.unset("CNI_PATH"))?.silence()
}

fn status_without_an_agent(candidate: &Candidate) -> Result<()> {
    let (mut stage, config) = candidate.stage()?;
    stage.stop_agent();
    status_is(&stage, &config, "agent")
}

fn status_while_the_agent_restarts(candidate: &Candidate) -> Result<()> {
    let (mut stage, config) = candidate.stage()?;
    stage.interrupt_agent();
    stage.run(&stage.bare("STATUS", &config))?.silence()?;
    stage.add(&config, &stage.pod()?)?;
    fs::remove_file(&stage.facts(None)?.pins.guard_ingress)?;
    let refusal = stage.run(&stage.bare("STATUS", &config))?.refusal()?;
    ensure!(refusal.code == 51, "code {}: {}", refusal.code, refusal.text);
    Ok(())
}

fn status_without_facts(candidate: &Candidate) -> Result<()> {
    let (mut stage, config) = candidate.stage()?;
    stage.stop_agent();
    fs::remove_dir_all(stage.state())?;
    status_is(&stage, &config, "agent")
}

fn status_with_an_obstacle(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    stage.facts(Some("node-a has no podCIDR yet"))?.write(&stage.state())?;
    status_is(&stage, &config, "no podCIDR yet")
}

fn status_is(stage: &Stage, config: &Value, word: &str) -> Result<()> {
    let refusal = stage.run(&stage.bare("STATUS", config))?.refusal()?;
    ensure!(refusal.code == 50, "code {}: {}", refusal.code, refusal.text);
    ensure!(refusal.text.contains(word), "does not say `{word}`: {}", refusal.text);
    Ok(())
}

fn add_without_facts(candidate: &Candidate) -> Result<()> {
    let (mut stage, config) = candidate.stage()?;
    stage.stop_agent();
    fs::remove_dir_all(stage.state().join("cni"))?;
    refused_for_now(&stage, &config, "agent")
}

fn add_with_an_obstacle(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    stage.facts(Some("node-a has no podCIDR yet"))?.write(&stage.state())?;
    refused_for_now(&stage, &config, "no podCIDR yet")
}

fn refused_for_now(stage: &Stage, config: &Value, word: &str) -> Result<()> {
    let pod = stage.pod()?;
    let before = (stage.census()?, pod.census()?);
    let refusal = stage.run(&stage.call("ADD", config, &pod))?.refusal()?;
    ensure!(refusal.code == 11, "code {}: {}", refusal.code, refusal.text);
    ensure!(refusal.text.contains(word), "does not say `{word}`: {}", refusal.text);
    unchanged(stage, &before.0)?;
    pod.census()?.same_as(&before.1)
}

/// One pod alive, one whose namespace is gone: GC with these keys, which frees the second or nothing.
fn collected(candidate: &Candidate, keys: &[(&str, Value)], frees: Option<()>) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    let alive = stage.pod()?;
    let result = stage.add(&config, &alive)?;
    let one = stage.census()?;
    let dead = stage.pod()?;
    let second = stage.add(&config, &dead)?;
    drop(dead.end()?);
    let addresses = addresses_of(&second)?;
    for (key, value) in keys {
        config[*key] = value.clone();
    }
    collect(&stage, &config)?;
    match frees {
        Some(()) => unchanged(&stage, &one)?,
        None => ensure!(stage.census()?.same_as(&one).is_err(), "{addresses:?} was freed"),
    }
    exchange(&stage.node, &alive.netns, addresses_of(&result)?[0].parse()?).context("the pod that lives")
}

/// GC, an hour after everything was made.
fn collect(stage: &Stage, config: &Value) -> Result<()> {
    stage.age()?;
    stage.run(&stage.bare("GC", config))?.silence()
}

fn valid(pods: &[&Pod]) -> Value {
    pods.iter().map(|pod| json!({ "containerID": pod.container, "ifname": "eth0" })).collect()
}

fn everything_is_valid(candidate: &Candidate) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    let (one, other) = (stage.pod()?, stage.pod()?);
    let result = stage.add(&config, &one)?;
    let second = stage.add(&config, &other)?;
    config[VALID] = valid(&[&one, &other]);
    // That of the other is gone, but its runtime has not asked for its removal yet.
    let names = addresses_of(&second)?;
    drop(other.end()?);
    collect(&stage, &config)?;
    let third = stage.add(&config, &stage.pod()?)?;
    ensure!(addresses_of(&third)? != names, "{names:?} was freed");
    exchange(&stage.node, &one.netns, addresses_of(&result)?[0].parse()?)
}

fn nothing_to_collect(candidate: &Candidate) -> Result<()> {
    let (mut stage, mut config) = candidate.stage()?;
    config[VALID] = json!([]);
    stage.run(&stage.bare("GC", &config))?.silence()?;
    stage.stop_agent();
    stage.run(&stage.bare("GC", &config))?.silence().context("without an agent")
}

fn the_young_stay(candidate: &Candidate) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    let pod = stage.pod()?;
    let address = addresses_of(&stage.add(&config, &pod)?)?;
    drop(pod.end()?);
    config[VALID] = json!([]);
    stage.run(&stage.bare("GC", &config))?.silence()?;
    let held = stage.state().join("cni/attachments").read_dir()?.count();
    ensure!(held == 1, "{address:?} was freed at once");
    Ok(())
}

fn status_without_a_pin(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let facts = stage.facts(None)?;
    fs::remove_file(&facts.pins.guard_ingress)?;
    let refusal = stage.run(&stage.bare("STATUS", &config))?.refusal()?;
    ensure!(refusal.code == 51, "code {}: {}", refusal.code, refusal.text);
    ensure!(refusal.text.contains("guard_ingress"), "does not name the pin: {}", refusal.text);
    Ok(())
}

fn room_again(candidate: &Candidate) -> Result<()> {
    let stage = Stage::ranged(&candidate.subject, &["10.244.7.0/29"])?;
    let mut config = stage.config(candidate.newest());
    for _ in 0..5 {
        let pod = stage.pod()?;
        stage.add(&config, &pod)?;
        drop(pod.end()?);
    }
    let pod = stage.pod()?;
    stage.run(&stage.call("ADD", &config, &pod))?.refusal()?;
    config[VALID] = json!([]);
    collect(&stage, &config)?;
    stage.add(&config, &pod)?;
    Ok(())
}
