//! Precedence, unknown keys and limits of the configuration.

use std::{collections::BTreeMap, ffi::OsString, io::Write as _, time::Duration};

use super::*;

fn layers(flags: &[(&str, &str)], environment: &[(&str, &str)]) -> Layers {
    let os = |text: &&str| OsString::from(*text);
    Layers {
        flags: flags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        environment: environment
            .iter()
            .map(|(name, value)| (os(name), os(value)))
            .collect::<BTreeMap<_, _>>(),
        file: None,
    }
}

fn file(suffix: &str, text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn origin_of(loaded: &Loaded, name: &str) -> Origin {
    loaded.resolved.iter().find(|entry| entry.setting.name == name).unwrap().origin
}

#[test]
fn a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default() {
    let file = file(".yaml", "ring-max: 100\nservices-max: 101\nbackends-max: 102\n");
    let mut layers = layers(
        &[("ring-max", "300"), ("node-name", "n")],
        &[("SHEAVE_RING_MAX", "200"), ("SHEAVE_SERVICES_MAX", "201"), ("NODE_NAME", "other")],
    );
    layers.file = Some(file.path().to_owned());
    let loaded = load(&layers).unwrap();
    let capacities = loaded.config.capacities;
    assert_eq!((capacities.ring, capacities.services, capacities.backends), (300, 201, 102));
    assert_eq!(capacities.affinity, proxy_common::names::DEFAULT_AFFINITY);
    assert_eq!(loaded.config.node_name, "n");
    let origins =
        ["ring-max", "services-max", "backends-max", "affinity-max"].map(|name| origin_of(&loaded, name));
    assert_eq!(origins, [Origin::Flag, Origin::Environment, Origin::File, Origin::Default]);
}

#[test]
fn yaml_and_toml_files_say_the_same() {
    let yaml = file(
        ".yaml",
        "# c\nnode-port-addresses: [192.0.2.0/24, '2001:db8::/32']\nwatch-timeout: 30\nlog-format: json\n",
    );
    let toml = file(
        ".toml",
        "node-port-addresses = ['192.0.2.0/24', '2001:db8::/32']\nwatch-timeout = 30\nlog-format = 'json'\n",
    );
    let loaded = [yaml, toml].map(|file| {
        let layers = Layers { file: Some(file.path().to_owned()), ..layers(&[("node-name", "n")], &[]) };
        load(&layers).unwrap().config
    });
    assert_eq!(loaded[0], loaded[1]);
    assert!(
        matches!(&loaded[0].node_port_addresses, NodePortAddresses::Within(networks) if networks.len() == 2)
    );
    assert_eq!(loaded[0].watch_timeout, Duration::from_secs(30));
    assert_eq!(loaded[0].log_format, LogFormat::Json);
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_nearest_valid_one() {
    for (suffix, text) in [(".yaml", "ringmax: 5\n"), (".toml", "ringmax = 5\n")] {
        let file = file(suffix, text);
        let error = load(&Layers { file: Some(file.path().to_owned()), ..Layers::default() })
            .unwrap_err()
            .to_string();
        assert!(error.contains("`ringmax`") && error.contains("did you mean `ring-max`?"), "{error}");
    }
    let error = load(&layers(&[], &[("SHEAVE_NODENAME", "n")])).unwrap_err().to_string();
    assert!(error.contains("`SHEAVE_NODENAME`") && error.contains("`SHEAVE_NODE_NAME`"), "{error}");
}

#[test]
fn variables_the_kubelet_makes_for_a_service_called_sheave_are_no_settings() {
    let links = [
        ("SHEAVE_SERVICE_HOST", "10.96.0.7"),
        ("SHEAVE_METRICS_SERVICE_PORT_HTTP", "80"),
        ("SHEAVE_PORT", "tcp://10.96.0.7:80"),
        ("SHEAVE_PORT_80_TCP", "tcp://10.96.0.7:80"),
        ("SHEAVE_PORT_80_TCP_ADDR", "10.96.0.7"),
        ("SHEAVE_PORT_80_TCP_PORT", "80"),
        ("SHEAVE_METRICS_SERVICE_PORT", "53"),
        ("SHEAVE_METRICS_PORT_53_UDP_PROTO", "udp"),
        ("SHEAVE_PORT_X_PORT_80_TCP_PORT", "80"),
        ("SHEAVE_SERVICE_PORTS_SERVICE_HOST", "10.96.0.8"),
    ];
    load(&layers(&[("node-name", "n")], &links)).unwrap();
}

#[test]
fn a_misspelt_setting_that_resembles_a_service_variable_is_an_error() {
    let wrong = [
        "SHEAVE_NODE_PORT_ADRESSES",
        "SHEAVE_NODE_PORT_80",
        "SHEAVE_NODE_PORT_80_TCP_ADRESSES",
        "SHEAVE_NODE_PORT_80_HTTP",
        "SHEAVE_SERVICE_HOSTS",
        "SHEAVE_SERVICE_PORTS",
    ];
    for name in wrong {
        let error = load(&layers(&[("node-name", "n")], &[(name, "10.0.0.0/8")])).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}`")), "{error}");
    }
}

#[test]
fn a_value_that_is_not_admitted_is_an_error_that_names_setting_and_origin() {
    let cases = [
        ("ring-max", "0"),
        ("watch-timeout", "291"),
        ("min-sync-interval", "-1"),
        ("health-address", "10256"),
        ("node-port-addresses", "192.0.2.0/33"),
        ("pin-dir", "bpf"),
        ("log-format", "xml"),
        ("log-level", "=="),
        ("log-level", "wran"),
        ("node-port-addresses", "some"),
        ("devices", "eth0,,eth1"),
        ("pod-devices", "a/b"),
        ("socket-lb", "on"),
        ("masquerade-all", "1"),
        ("cluster-cidr", "10.0.0.0/8,10.1.0.0/16"),
        ("cluster-cidr", "10.0.0.0/33"),
        ("masquerade", "on"),
        ("non-masquerade-cidrs", "10.0.0.0/8,fd00::/129"),
        ("snat-ports", "0-10"),
        ("udp-timeout", "0"),
        ("pod-network", "yes"),
        ("routing", "bgp"),
        ("pod-cidrs", "10.0.0.0/33"),
        ("pod-mtu", "1279"),
        ("vxlan-vni", "16777216"),
        ("vxlan-port", "0"),
        ("pod-pacing", "10001"),
        ("pod-pacing", "fq"),
    ];
    for (name, value) in cases {
        let error = load(&layers(&[("node-name", "n"), (name, value)], &[])).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}` (flag) is `{value}`")), "{error}");
    }
}

#[test]
fn ports_for_sources_that_may_be_node_ports_are_an_error_that_names_both_settings() {
    let overlapping = layers(&[("node-name", "n"), ("snat-ports", "20000-30000")], &[]);
    let error = load(&overlapping).unwrap_err().to_string();
    for part in ["`snat-ports` (flag), 20000-30000", "`node-port-range` (default), 30000-32767", "overlap"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn the_defaults_of_the_packet_path_are_those_of_the_contract() {
    let packet = load(&layers(&[("node-name", "n")], &[])).unwrap().config.packet;
    assert_eq!(packet.settings, proxy_common::PacketSettings::DEFAULT);
    assert_eq!(packet.socket_lb, proxy_common::SocketLb::All);
    assert_eq!(packet.pacing, None);
    assert_eq!(packet.selection, crate::devices::Selection::default());
}

#[test]
fn a_capacity_in_which_nothing_fits_is_an_error_that_names_the_setting_and_the_least() {
    for name in ["services-max", "ring-max", "backends-max", "affinity-max", "source-ranges-max", "flows-max"]
    {
        for value in ["0", "15"] {
            let error = load(&layers(&[("node-name", "n"), (name, value)], &[])).unwrap_err().to_string();
            let expected = format!("setting `{name}` (flag) is `{value}`: expected a number from 16 to");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}

#[test]
fn a_file_with_a_nested_value_or_broken_syntax_is_an_error_with_its_path() {
    for text in ["ring-max: {a: 1}\n", "ring-max: [\n"] {
        let file = file(".yaml", text);
        let error = load(&Layers { file: Some(file.path().to_owned()), ..Layers::default() })
            .unwrap_err()
            .to_string();
        assert!(error.contains(&file.path().display().to_string()), "{error}");
    }
}

#[test]
fn a_kubeconfig_or_api_servers_and_manifests_exclude_each_other() {
    let both = layers(&[("kubeconfig", "/k"), ("manifests", "/m"), ("node-name", "n")], &[]);
    assert!(matches!(load(&both), Err(ConfigError::Conflict { .. })));
    let servers = layers(&[("api-servers", "https://a:6443"), ("manifests", "/m"), ("node-name", "n")], &[]);
    assert!(matches!(load(&servers), Err(ConfigError::Conflict { first: "api-servers", .. })));
    let one = load(&layers(&[("manifests", "/m"), ("node-name", "n")], &[])).unwrap();
    assert_eq!(one.config.source, SourceConfig::Manifests("/m".into()));
}

/// A setting that does nothing is a lie: each one, changed, changes the configuration.
#[test]
fn every_setting_changes_the_configuration() {
    let base = load(&layers(&[("node-name", "n")], &[])).unwrap().config;
    for setting in SETTINGS {
        let value = match setting.value_name {
            _ if setting.name == "node-port-range" => "40000-40999",
            "FIRST-LAST" => "2000-2999",
            "PATTERN,..." => "x*",
            "PREFIX,..." => "10.0.0.0/8",
            "MODE" => "off",
            "ROUTING" => "none",
            "BYTES" => "1400",
            "BOOL" | "auto|BOOL" => "true",
            "N" | "SECONDS" | "MS" | "auto|MS" => "17",
            "ADDRESS:PORT" => "127.0.0.9:9",
            "LIST" => "192.0.2.0/24",
            "FORMAT" => "json",
            "FILTER" => "debug",
            _ => "/changed",
        };
        let mut flags = vec![("node-name", "n")];
        flags.retain(|(name, _)| *name != setting.name);
        flags.push((setting.name, value));
        assert_ne!(load(&layers(&flags, &[])).unwrap().config, base, "{}", setting.name);
    }
}

#[test]
fn pods_are_kept_from_the_tunnel_where_there_can_be_one_and_masqueraded_where_they_are_ours() {
    let packet = |flags: &[(&'static str, &'static str)]| {
        let flags = [&[("node-name", "n")], flags].concat();
        let settings = load(&layers(&flags, &[])).unwrap().config.packet.settings;
        (settings.tunnel_port, settings.masquerade)
    };
    let own = ("pod-network", "true");
    assert_eq!(packet(&[]), (0, 0));
    assert_eq!(packet(&[own]), (8472, 1));
    assert_eq!(packet(&[own, ("routing", "vxlan"), ("vxlan-port", "4789")]), (4789, 1));
    assert_eq!(packet(&[own, ("routing", "direct"), ("masquerade", "false")]), (0, 0));
    assert_eq!(packet(&[("masquerade", "true")]), (0, 1));
}
