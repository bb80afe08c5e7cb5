//! Whatever comes on standard input: one answer, no panic, nothing left over.

use proptest::prelude::*;
use serde_json::Map;

use super::*;

const KEYS: [&str; 34] = [
    "ipam",
    "type",
    "runDir",
    "mtu",
    "dns",
    "nameservers",
    "domain",
    "search",
    "options",
    "servers",
    "args",
    "cni",
    "mac",
    "ips",
    "runtimeConfig",
    "RuntimeConfig",
    "portMappings",
    "hostPort",
    "containerPort",
    "protocol",
    "hostIP",
    "bandwidth",
    "ingressRate",
    "egressBurst",
    "ipRanges",
    "subnet",
    "gateway",
    "prevResult",
    "interfaces",
    "name",
    "sandbox",
    "address",
    "cni.dev/valid-attachments",
    "io.kubernetes.cri.pod-annotations",
];
const TEXTS: [&str; 16] = [
    "",
    "eth0",
    "host-local",
    "10.244.1.5",
    "10.244.1.5/24",
    "fd00:10:244:1::5",
    "10.244.1.0/26",
    "fd00::/64",
    "tcp",
    "SCTP",
    "::",
    "off",
    "0a:00:00:00:00:01",
    "/run/x",
    "1.1.0",
    "0.4.0",
];

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        prop_oneof![0..=90_000_i64, any::<i64>()].prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(&TEXTS[..]).prop_map(Value::from),
        ".*".prop_map(Value::from),
    ]
}

fn object(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let key = prop::sample::select(&KEYS[..]).prop_map(str::to_owned);
    prop::collection::btree_map(key, value, 0..8)
        .prop_map(|it| Value::from(it.into_iter().collect::<Map<_, _>>()))
}

fn value() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(4, 64, 8, |inner| {
        prop_oneof![object(inner.clone()), prop::collection::vec(inner, 0..4).prop_map(Value::from)]
    })
}

fn verb() -> impl Strategy<Value = Verb> {
    prop::sample::select(&[Verb::Add, Verb::Check, Verb::Del, Verb::Gc, Verb::Status, Verb::Version][..])
}

fn valid(verb: Verb, outcome: &Outcome) {
    let Some(document) = &outcome.document else {
        assert!(outcome.success && !matches!(verb, Verb::Add | Verb::Version), "{verb} said nothing");
        return;
    };
    assert!(document["cniVersion"].is_string(), "{document}");
    let is_error = document.get("code").is_some();
    assert_eq!(is_error, !outcome.success, "{document}");
    if is_error {
        assert!(
            document["code"].as_u64().unwrap() > 0 && !document["msg"].as_str().unwrap().is_empty(),
            "{document}"
        );
        assert!(!document.to_string().contains("broke down"), "{document}");
    }
}

proptest! {
    #[test]
    fn any_configuration_has_one_answer_and_del_leaves_nothing(
        more in object(value()),
        verbs in prop::collection::vec(verb(), 1..5),
        args in "(;|MAC=|IP=|=|[a-z0-9:.,]{0,5}){0,6}",
    ) {
        let world = Doubles::ready();
        with_plugin(&world);
        let config = config(more);
        for verb in verbs {
            let call = Call { args: args.clone(), ..call(verb, "/run/netns/a") };
            let outcome = answer(Ok(call), config.to_string().as_bytes(), |_| world.clone());
            valid(verb, &outcome);
        }
        // By another configuration that is right: the first may name a plugin that is not there.
        silent(&run_in(&world, Verb::Del, "", &delegating()));
        prop_assert_eq!(world.left_over(), Vec::<String>::new());
    }

    #[test]
    fn any_bytes_have_one_answer(stdin in prop::collection::vec(any::<u8>(), 0..64), verb in verb()) {
        let world = Doubles::ready();
        valid(verb, &answer(Ok(call(verb, "/run/netns/a")), &stdin, |_| world.clone()));
        prop_assert_eq!(world.left_over(), Vec::<String>::new());
    }
}
