//! The table of settings: every name, default and help text is written here once.
//!
//! Must not know where a value comes from or what type it has.

use proxy_common::{PacketSettings, names};

/// One setting. The flag is `--NAME`, the key in the configuration file `NAME`, the variable
/// `SHEAVE_NAME` with capitals and underscores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Name in kebab case.
    pub name: &'static str,
    /// What stands for the value in the help text.
    pub value_name: &'static str,
    /// Further variables that are looked at after `SHEAVE_NAME`.
    pub also_env: &'static [&'static str],
    /// Value when nobody sets it.
    pub default: Default,
    /// One sentence for people.
    pub help: &'static str,
}

/// The value of a setting that nobody sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Default {
    /// This text.
    Text(&'static str),
    /// This number.
    Number(u32),
    /// None; the help text says what that means.
    Absent,
}

impl Default {
    /// The value as text.
    pub fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.to_owned()),
            Self::Number(number) => Some(number.to_string()),
            Self::Absent => None,
        }
    }
}

const fn text(
    name: &'static str,
    value_name: &'static str,
    default: &'static str,
    help: &'static str,
) -> Setting {
    Setting { name, value_name, also_env: &[], default: Default::Text(default), help }
}

const fn number(name: &'static str, value_name: &'static str, default: u32, help: &'static str) -> Setting {
    Setting { name, value_name, also_env: &[], default: Default::Number(default), help }
}

const fn absent(name: &'static str, value_name: &'static str, help: &'static str) -> Setting {
    Setting { name, value_name, also_env: &[], default: Default::Absent, help }
}

/// Where pins live unless said otherwise.
pub const DEFAULT_PIN_DIR: &str = "/sys/fs/bpf/sheave";
/// Where the control socket and the lock live unless said otherwise.
pub const DEFAULT_RUN_DIR: &str = "/run/sheave";

const PACKET: PacketSettings = PacketSettings::DEFAULT;

/// All settings, in the order in which they are printed.
pub const SETTINGS: &[Setting] = &[
    absent(
        "kubeconfig",
        "PATH",
        "Watch the API server this kubeconfig names [default: that of $KUBECONFIG, else ~/.kube/config, else the pod's service account]",
    ),
    absent(
        "api-servers",
        "URL,...",
        "Addresses of the API server to use instead of the configured one; after a failure the next is tried",
    ),
    absent("manifests", "DIR", "Watch a folder of manifests instead of an API server"),
    Setting {
        also_env: &["NODE_NAME"],
        ..absent(
            "node-name",
            "NAME",
            "This node's name in the cluster [default: the host name in lower case]",
        )
    },
    absent(
        "cgroup",
        "PATH",
        "Cgroup (version 2) whose sockets are served [default: the root of the cgroup2 mount]",
    ),
    text("pin-dir", "DIR", DEFAULT_PIN_DIR, "Folder on a bpf file system for the pins of maps and links"),
    text("run-dir", "DIR", DEFAULT_RUN_DIR, "Folder for the control socket and the lock"),
    number(
        "services-max",
        "N",
        names::DEFAULT_SERVICES,
        "Capacity of the service maps, in records per family",
    ),
    number("ring-max", "N", names::DEFAULT_RING, "Capacity of the ring, in backend ids"),
    number(
        "backends-max",
        "N",
        names::DEFAULT_BACKENDS,
        "Capacity of the backend maps, in backends per family",
    ),
    number("affinity-max", "N", names::DEFAULT_AFFINITY, "Capacity of the session affinity map, in clients"),
    number(
        "source-ranges-max",
        "N",
        names::DEFAULT_SOURCE_RANGES,
        "Capacity of the source range map, in prefixes",
    ),
    number(
        "flows-max",
        "N",
        names::DEFAULT_FLOWS,
        "Capacity of the connection table of the packet path, in flows per family",
    ),
    text(
        "node-port-addresses",
        "LIST",
        "all",
        "Node addresses that serve NodePorts: `all`, `primary` or prefixes with commas between",
    ),
    text(
        "node-port-range",
        "FIRST-LAST",
        "30000-32767",
        "Ports that the API server gives to Services of type NodePort",
    ),
    absent(
        "devices",
        "PATTERN,...",
        "Devices that lead out of the node, `*` for any text [default: those with a default route or an address]",
    ),
    text(
        "pod-devices",
        "PATTERN,...",
        "auto",
        "Devices that lead into pods; auto: pairs whose other end is in another network namespace",
    ),
    text(
        "socket-lb",
        "MODE",
        "all",
        "Whose sockets are translated when they connect or send, `all`, the `host`'s or none (`off`); the others' packets are",
    ),
    text(
        "masquerade-all",
        "BOOL",
        "false",
        "Whether every translated packet gets the node's address as its source",
    ),
    text(
        "pod-shortcut",
        "BOOL",
        "false",
        "Whether what arrives for a pod goes straight into it, past the host's netfilter and its other programs",
    ),
    absent(
        "cluster-cidr",
        "PREFIX,...",
        "The pods' addresses, at most one prefix of each family: their packets to ClusterIPs keep their source",
    ),
    text(
        "masquerade",
        "auto|BOOL",
        "auto",
        "Whether what pods send out of the cluster gets the node's address as its source, `true` or `false`; auto: with `pod-network`",
    ),
    absent(
        "non-masquerade-cidrs",
        "PREFIX,...",
        "Destinations outside of the cluster that see the pods' own addresses",
    ),
    text(
        "snat-ports",
        "FIRST-LAST",
        "12000-29999",
        "Ports for packets that get the node's address as their source",
    ),
    text(
        "pod-pacing",
        "auto|MS",
        "auto",
        "How long a packet beyond a pod's limit may be delayed instead of dropped, 0 to 10000; auto: 200 if the devices of the default routes have the queue fq",
    ),
    number(
        "tcp-syn-timeout",
        "SECONDS",
        PACKET.tcp_new_s,
        "After which a TCP handshake without progress is forgotten",
    ),
    number(
        "tcp-established-timeout",
        "SECONDS",
        PACKET.tcp_established_s,
        "After which an idle TCP connection is forgotten",
    ),
    number(
        "tcp-close-wait-timeout",
        "SECONDS",
        PACKET.tcp_half_closed_s,
        "After which an idle TCP connection is forgotten that one side has ended",
    ),
    number(
        "udp-timeout",
        "SECONDS",
        PACKET.datagram_new_s,
        "After which a UDP flow without an answer is forgotten",
    ),
    number("udp-stream-timeout", "SECONDS", PACKET.datagram_s, "After which an idle UDP flow is forgotten"),
    text(
        "pod-network",
        "BOOL",
        "false",
        "Whether pods of this node get their network from `sheave-cni`: routes to other nodes are kept, facts for it written",
    ),
    text(
        "routing",
        "ROUTING",
        "auto",
        "How packets get to pods of other nodes: `direct` (no router between), `vxlan`, `auto` (whichever fits) or `none` (somebody else sees to it)",
    ),
    absent(
        "pod-cidrs",
        "PREFIX,...",
        "Prefixes that pods of this node get addresses from [default: those of its Node object]",
    ),
    text("pod-mtu", "BYTES", "auto", "MTU for pods, 1280 to 65535; auto: what the ways to other nodes leave"),
    number("vxlan-vni", "N", 1, "Network identifier of the tunnel between nodes, 1 to 16777215"),
    number("vxlan-port", "N", 8472, "UDP port of the tunnel between nodes"),
    text(
        "service-proxy-name",
        "NAME",
        "",
        "Serve the Services whose label service.kubernetes.io/service-proxy-name has this value; empty: those without",
    ),
    number(
        "watch-timeout",
        "SECONDS",
        45,
        "How long one watch request lasts, 5 to 290; a silent connection is found dead after it",
    ),
    number(
        "min-sync-interval",
        "MS",
        50,
        "A change is written at once; further ones within this time are written together, 0 to 10000",
    ),
    number(
        "audit-interval",
        "SECONDS",
        600,
        "How often the maps are read back and repaired, with 10 % jitter; 0: never",
    ),
    text("health-address", "ADDRESS:PORT", "0.0.0.0:10256", "Where /livez, /readyz and /healthz are served"),
    text("metrics-address", "ADDRESS:PORT", "127.0.0.1:10249", "Where /metrics is served"),
    text(
        "log-level",
        "FILTER",
        "info",
        "error, warn, info, debug or trace, or a filter such as `info,proxy_userspace::watch=debug`",
    ),
    text("log-format", "FORMAT", "text", "Format of the log: text or json"),
];

/// Name of the variable that sets `name`.
pub(super) fn variable(name: &str) -> String {
    format!("SHEAVE_{}", name.to_uppercase().replace('-', "_"))
}

/// The one of `candidates` nearest to `given`, by edit distance.
pub(super) fn nearest<'a>(given: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    candidates.min_by_key(|candidate| edit_distance(given, candidate))
}

/// Levenshtein distance: insertions, deletions and replacements of one character cost 1.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (row, from) in a.chars().enumerate() {
        let mut left = row + 1;
        let mut current = vec![left];
        for (to, corner) in b.iter().zip(above.windows(2)) {
            let [diagonal, over] = corner else { continue };
            left = (diagonal + usize::from(from != *to)).min(over + 1).min(left + 1);
            current.push(left);
        }
        above = current;
    }
    above.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_single_character_edits() {
        let cases = [
            ("", "", 0),
            ("abc", "abc", 0),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("ring-mx", "ring-max", 1),
        ];
        for (a, b, distance) in cases {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
            assert_eq!(edit_distance(b, a), distance, "{b} {a}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
