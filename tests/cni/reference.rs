//! What the reference plugin `ptp` with `host-local` (1.1.1, as Debian has it) does not do.

/// The rules of the suite that it breaks, and why.
const MISSING: &[(&str, &[&str])] = &[
    ("It is older than 1.1.0.", &["1.1.0 is spoken"]),
    ("It leaves the loopback device to another plugin.", &["ADD brings the loopback device up"]),
    (
        "It gives the subnet's length, and waits for duplicate detection.",
        &["ADD returns /32 and /128", "no address waits for duplicate detection"],
    ),
    (
        "Both interfaces would get a route to the same gateway.",
        &[
            "one container can have two interfaces",
            "the second interface answers by itself and claims only routes that it has",
        ],
    ),
    (
        "It compares the MAC address, and looks only into the pod.",
        &[
            "CHECK bears with another MAC address",
            "CHECK finds the host's IPv6 route missing",
            "CHECK finds the host's end down",
            "CHECK finds the host's route missing",
            "CHECK in a version that nobody speaks has code 1 and names it",
            "CHECK without a result has code 7",
        ],
    ),
    (
        "It enters the path and deletes by name, whatever is there.",
        &[
            "DEL leaves an interface of the same name that is not its own alone",
            "DEL leaves the new container at the same path alone",
            "DEL of a path that is a folder releases everything",
            "DEL of a path that is a plain file releases everything",
            "DEL works when what is remembered was lost",
        ],
    ),
    (
        "Its errors have no version and, where it says 7 or 8, the code 999.",
        &[
            "an error names the version of the configuration",
            "the plugin's own namespace is refused, and nothing was done before",
        ],
    ),
    (
        "It stops at a configuration that was spoilt.",
        &["DEL with an ipam that is no object releases everything"],
    ),
    (
        "It lets the kernel judge names of interfaces.",
        &[
            "an interface called as the settings of all are has code 4",
            "an interface called as the settings of new ones are has code 4",
            "an interface name that the kernel would number has code 4",
        ],
    ),
    ("It splits at every equals sign.", &["a value in CNI_ARGS may hold an equals sign"]),
    ("It does not know who holds an address.", &["an address that is held is refused, and its holder named"]),
    (
        "It knows no previous result, nor the capabilities dns, mac, portMappings and bandwidth, which other plugins of a chain have.",
        &[
            "a MAC address in CNI_ARGS is the pod's",
            "a MAC address that is none is refused",
            "a container port of 0 is refused",
            "a host address that is none is refused",
            "a host port of 70000 is refused",
            "a host port of a protocol without ports is refused",
            "a host port that another pod has is refused with code 7",
            "a multicast MAC address is refused",
            "a rate that is no number is refused",
            "host ports without a running agent are refused with code 11",
            "the DNS asked for is in the result",
            "the MAC address asked for is the pod's",
            "the same host port twice in one request is refused",
            "what an earlier plugin made stays in the result",
        ],
    ),
];

/// The rules alone.
pub(crate) fn missing() -> Vec<&'static str> {
    MISSING.iter().flat_map(|(_, rules)| rules.iter().copied()).collect()
}
