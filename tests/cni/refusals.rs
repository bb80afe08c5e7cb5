//! What a plugin must refuse: environment, input and configuration, and with which code. Nothing may have changed then.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sheave_tests::cni::{Call, Stage, ask};

use crate::suite::{Candidate, Case};

/// A table row.
struct Row {
    rule: &'static str,
    verbs: &'static [&'static str],
    change: Change,
    codes: &'static [u64],
    mentions: &'static [&'static str],
}

/// What is wrong with the call.
#[derive(Clone, Copy)]
enum Change {
    Variables(&'static [(&'static str, Option<&'static str>)]),
    Input(&'static str),
    Key(&'static str, Option<&'static str>),
    OwnNamespace,
}

const WITH_POD: &[&str] = &["ADD", "CHECK", "DEL"];
const ALL: &[&str] = &["ADD", "CHECK", "DEL", "GC", "STATUS"];

const ROWS: &[Row] = &[
    row("a verb that nobody knows has code 4", &["BREW"], Change::Variables(&[]), &[4], &["CNI_COMMAND"]),
    row("verbs are capital letters", &["add"], Change::Variables(&[]), &[4], &["CNI_COMMAND"]),
    row(
        "a missing container id has code 4",
        WITH_POD,
        Change::Variables(&[("CNI_CONTAINERID", None)]),
        &[4],
        &["CNI_CONTAINERID"],
    ),
    row(
        "an empty container id is a missing one",
        WITH_POD,
        Change::Variables(&[("CNI_CONTAINERID", Some(""))]),
        &[4],
        &["CNI_CONTAINERID"],
    ),
    row(
        "a missing interface name has code 4",
        WITH_POD,
        Change::Variables(&[("CNI_IFNAME", None)]),
        &[4],
        &["CNI_IFNAME"],
    ),
    row(
        "a missing namespace has code 4",
        &["ADD", "CHECK"],
        Change::Variables(&[("CNI_NETNS", None)]),
        &[4],
        &["CNI_NETNS"],
    ),
    row(
        "an empty namespace is a missing one",
        &["ADD", "CHECK"],
        Change::Variables(&[("CNI_NETNS", Some(""))]),
        &[4],
        &["CNI_NETNS"],
    ),
    row(
        "several missing variables are one error that names them all",
        &["ADD", "CHECK"],
        Change::Variables(&[("CNI_CONTAINERID", None), ("CNI_NETNS", None), ("CNI_IFNAME", Some(""))]),
        &[4],
        &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"],
    ),
    row("no input has code 6", ALL, Change::Input(""), &[6], &[]),
    row("input that is no JSON has code 6", ALL, Change::Input("{\"name\": "), &[6], &[]),
    row("input that is no object has code 6", ALL, Change::Input("[1, 2]"), &[6], &[]),
    row("a number as version has code 6 or 7", ALL, Change::Key("cniVersion", Some("1")), &[6, 7], &[]),
    row("a configuration without a name has code 7", ALL, Change::Key("name", None), &[7], &["name"]),
    row("an empty name is a missing one", ALL, Change::Key("name", Some("\"\"")), &[7], &["name"]),
    row("a name with a slash has code 7", ALL, Change::Key("name", Some("\"a/b\"")), &[7], &["name"]),
    row(
        "a version that nobody speaks has code 1 and is named",
        &["ADD", "DEL", "GC", "STATUS"],
        Change::Key("cniVersion", Some("\"7.7.7\"")),
        &[1],
        &["7.7.7", "1.0.0"],
    ),
    row(
        "CHECK in a version that nobody speaks has code 1 and names it",
        &["CHECK"],
        Change::Key("cniVersion", Some("\"7.7.7\"")),
        &[1],
        &["7.7.7", "1.0.0"],
    ),
    row(
        "a version with a prefix that somebody speaks has code 1",
        ALL,
        Change::Key("cniVersion", Some("\"1.0\"")),
        &[1],
        &[],
    ),
    row("CHECK before 0.4.0 has code 1", &["CHECK"], Change::Key("cniVersion", Some("\"0.3.1\"")), &[1], &[]),
    row(
        "CHECK without a result has code 7",
        &["CHECK"],
        Change::Key("prevResult", None),
        &[7],
        &["prevResult"],
    ),
    row(
        "the plugin's own namespace is refused, and nothing was done before",
        &["ADD"],
        Change::OwnNamespace,
        &[4, 8, 999],
        &[],
    ),
    row(
        "ADD to a path that does not exist is refused",
        &["ADD"],
        Change::Variables(&[("CNI_NETNS", Some("/nonexistent/namespace"))]),
        &[3, 4, 5, 8, 999],
        &["/nonexistent/namespace"],
    ),
    row(
        "ADD to a path that is no namespace is refused",
        &["ADD"],
        Change::Variables(&[("CNI_NETNS", Some("/etc/hostname"))]),
        &[3, 4, 5, 8, 999],
        &["/etc/hostname"],
    ),
];

const NEWER: &[Row] = &[
    row("GC before 1.1.0 has code 1", &["GC"], Change::Key("cniVersion", Some("\"1.0.0\"")), &[1], &[]),
    row(
        "STATUS before 1.1.0 has code 1",
        &["STATUS"],
        Change::Key("cniVersion", Some("\"1.0.0\"")),
        &[1],
        &[],
    ),
    row(
        "a list of valid attachments that is none has code 6 or 7",
        &["GC"],
        Change::Key("cni.dev/valid-attachments", Some("{\"a\": 1}")),
        &[6, 7],
        &["cni.dev/valid-attachments"],
    ),
];

/// Words that a variable may not have: rule, variable, word.
const WORDS: &[(&str, &str, &str)] = &[
    ("a container id with a slash has code 4", "CNI_CONTAINERID", "a/b"),
    ("a container id with a space has code 4", "CNI_CONTAINERID", "a b"),
    ("a container id that begins with a dot has code 4", "CNI_CONTAINERID", ".a"),
    ("a container id that begins with a dash has code 4", "CNI_CONTAINERID", "-a"),
    ("an interface name of 16 letters has code 4", "CNI_IFNAME", "abcdefghijklmnop"),
    ("an interface called . has code 4", "CNI_IFNAME", "."),
    ("an interface called .. has code 4", "CNI_IFNAME", ".."),
    ("an interface name with a slash has code 4", "CNI_IFNAME", "eth/0"),
    ("an interface name with a colon has code 4", "CNI_IFNAME", "eth:0"),
    ("an interface name with a space has code 4", "CNI_IFNAME", "eth 0"),
    ("an interface name that the kernel would number has code 4", "CNI_IFNAME", "eth0%d"),
    ("an interface called as the settings of all are has code 4", "CNI_IFNAME", "all"),
    ("an interface called as the settings of new ones are has code 4", "CNI_IFNAME", "default"),
];

const fn row(
    rule: &'static str,
    verbs: &'static [&'static str],
    change: Change,
    codes: &'static [u64],
    mentions: &'static [&'static str],
) -> Row {
    Row { rule, verbs, change, codes, mentions }
}

/// The cases.
pub(crate) fn cases() -> Vec<Case> {
    let rows = ROWS.iter().map(Row::case).chain(NEWER.iter().map(|row| row.case().since("1.1.0")));
    let words = WORDS.iter().map(|&(rule, name, word)| {
        Case::new(rule, move |candidate| {
            let change = |_: &Stage, call: Call, _: Value| Ok(call.set(name, word));
            each(candidate, WITH_POD, &change, &[4], &[])
        })
    });
    let mut cases: Vec<Case> = rows.chain(words).collect();
    cases.extend(crate::suite::cases(&[
        ("a configuration without a version is one of 0.1.0", a_configuration_without_a_version),
        ("an error names the version of the configuration", an_error_names_the_version),
        ("without a verb a plugin says on standard error what it is, and exits with 0", without_a_verb),
        ("keys are known in any case, and unknown keys are ignored", keys_in_any_case),
    ]));
    cases
}

impl Row {
    fn case(&'static self) -> Case {
        Case::new(self.rule, move |candidate| {
            let change = |stage: &Stage, call: Call, config: Value| self.change.apply(stage, call, config);
            each(candidate, self.verbs, &change, self.codes, self.mentions)
        })
    }
}

impl Change {
    fn apply(self, stage: &Stage, mut call: Call, mut config: Value) -> Result<Call> {
        match self {
            Self::Variables(list) => {
                for (name, value) in list {
                    call =
                        value.map_or_else(|| call.clone().unset(name), |value| call.clone().set(name, value));
                }
                Ok(call)
            }
            Self::Input(text) => Ok(call.input(text)),
            Self::Key(name, None) => {
                config.as_object_mut().context("no object")?.remove(name);
                Ok(call.input(config.to_string()))
            }
            Self::Key(name, Some(value)) => {
                config[name] = serde_json::from_str(value)?;
                Ok(call.input(config.to_string()))
            }
            Self::OwnNamespace => Ok(call.set("CNI_NETNS", stage.node.path())),
        }
    }
}

type Changed<'a> = &'a dyn Fn(&Stage, Call, Value) -> Result<Call>;

fn each(
    candidate: &Candidate,
    verbs: &[&str],
    change: Changed<'_>,
    codes: &[u64],
    mentions: &[&str],
) -> Result<()> {
    let spoken = |verb: &&&str| candidate.speaks("1.1.0") || !["GC", "STATUS"].contains(*verb);
    verbs.iter().filter(spoken).try_for_each(|verb| {
        refused(candidate, verb, change, codes, mentions).with_context(|| (*verb).to_owned())
    })
}

fn refused(
    candidate: &Candidate,
    verb: &str,
    change: Changed<'_>,
    codes: &[u64],
    mentions: &[&str],
) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    let pod = stage.pod()?;
    if verb == "CHECK" {
        config["prevResult"] = some_result(candidate.newest());
    }
    let call = match verb {
        "GC" | "STATUS" => stage.bare(verb, &config),
        _ => stage.call(verb, &config, &pod),
    };
    let before = (stage.census()?, pod.census()?);
    let refusal = stage.run(&change(&stage, call, config)?)?.refusal()?;
    ensure!(codes.contains(&refusal.code), "code {} instead of {codes:?}: {}", refusal.code, refusal.text);
    for word in mentions {
        ensure!(refusal.text.contains(word), "does not name {word}: {}", refusal.text);
    }
    stage.census()?.same_as(&before.0).context("the node changed")?;
    pod.census()?.same_as(&before.1).context("the pod changed")
}

fn some_result(version: &str) -> Value {
    json!({
        "cniVersion": version,
        "interfaces": [{ "name": "eth0", "mac": "0e:00:00:00:00:01", "sandbox": "/nonexistent" }],
        "ips": [{ "address": "10.244.0.9/32", "interface": 0 }],
    })
}

fn a_configuration_without_a_version(candidate: &Candidate) -> Result<()> {
    let (stage, mut config) = candidate.stage()?;
    config.as_object_mut().context("no object")?.remove("cniVersion");
    let pod = stage.pod()?;
    let answer = stage.run(&stage.call("ADD", &config, &pod))?;
    if candidate.speaks("0.1.0") {
        let result = answer.result()?;
        ensure!(result.get("ip4").is_some(), "no result of 0.1.0: {result}");
        return stage.del(&config, &pod);
    }
    let refusal = answer.refusal()?;
    ensure!(refusal.code == 1 && refusal.text.contains("0.1.0"), "{refusal:?}");
    Ok(())
}

fn an_error_names_the_version(candidate: &Candidate) -> Result<()> {
    for version in ["0.4.0", "1.0.0"] {
        let stage = Stage::new(&candidate.subject)?;
        let config = stage.config(version);
        let call = stage.call("ADD", &config, &stage.pod()?).set("CNI_NETNS", "/nonexistent/namespace");
        let refusal = stage.run(&call)?.refusal()?;
        ensure!(refusal.document["cniVersion"] == json!(version), "{}", refusal.document);
    }
    Ok(())
}

fn without_a_verb(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let answer = stage.run(&stage.bare("", &config).unset("CNI_COMMAND"))?;
    answer.silence()?;
    ensure!(answer.log.contains("1.0.0"), "does not say which versions it speaks: {}", answer.log);
    Ok(())
}

fn keys_in_any_case(candidate: &Candidate) -> Result<()> {
    let (stage, config) = candidate.stage()?;
    let mut other = json!({ "somethingNew": { "of": ["nobody"] }, "MTU": 1300 });
    for (key, value) in config.as_object().context("no object")? {
        other[format!("{}{}", key[..1].to_uppercase(), &key[1..])] = value.clone();
    }
    let pod = stage.pod()?;
    stage.add(&other, &pod)?;
    let devices = ask(&pod.netns, &["link", "show", "dev", "eth0"])?;
    ensure!(devices[0]["mtu"] == 1300, "{devices:?}");
    stage.del(&other, &pod)
}
