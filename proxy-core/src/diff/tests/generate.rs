//! States of a small cluster, from a seed.

use crate::{
    desired::{DesiredService, DesiredServicePort, Family, Frontend, ListKind, WhenEmpty},
    diff::tests::{
        build::{cluster_ip, external, name, port, service},
        world::Wanted,
    },
};

/// xorshift64*: reproducible, and good enough to choose cases.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `limit`.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = u32::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32).unwrap();
        bits as usize % limit
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn some_of(&mut self, all: u8, percent: usize) -> Vec<u8> {
        (1..=all).filter(|_| self.chance(percent)).collect()
    }
}

const SERVICES: usize = 5;

/// A cluster in which no two Services claim one frontend, but share addresses and backends.
pub(super) fn cluster(random: &mut Random) -> Wanted {
    let contested = random.below(SERVICES * 2);
    let mut wanted = Wanted::new();
    for index in 0..SERVICES {
        if random.chance(80) {
            wanted.insert(name(&format!("s{index}")), one_service(random, index, index == contested));
        }
    }
    wanted
}

/// The cluster with one or two Services changed.
pub(super) fn next(random: &mut Random, before: &Wanted) -> Wanted {
    if random.chance(20) {
        return cluster(random);
    }
    let mut wanted = before.clone();
    for _ in 0..=random.below(2) {
        let index = random.below(SERVICES);
        let contested = "192.0.2.9".parse::<std::net::IpAddr>().unwrap();
        let name = name(&format!("s{index}"));
        let taken = wanted
            .iter()
            .filter(|(other, _)| **other != name)
            .flat_map(|(_, service)| &service.ports)
            .flat_map(|port| &port.frontends)
            .any(|frontend| frontend.key.address == contested);
        let contests = !taken && random.chance(40);
        if random.chance(80) {
            wanted.insert(name, one_service(random, index, contests));
        } else {
            wanted.remove(&name);
        }
    }
    wanted
}

fn one_service(random: &mut Random, index: usize, contests: bool) -> DesiredService {
    let mut ports = Vec::new();
    for number in 0..=random.below(2) {
        for family in [Family::V4, Family::V6] {
            if random.chance(70) {
                ports.push(one_port(random, index, number, family, contests));
            }
        }
    }
    service(ports)
}

fn one_port(
    random: &mut Random,
    index: usize,
    number: usize,
    family: Family,
    contests: bool,
) -> DesiredServicePort {
    let (percent, keepers) = ([0, 20, 60][random.below(3)], random.chance(50));
    let cluster = random.some_of(6, percent);
    let local = if random.chance(30) { cluster.clone() } else { random.some_of(6, percent) };
    let mut keep = random.some_of(8, 20);
    keep.extend(cluster.iter().chain(&local));
    let keep = if keepers { keep } else { Vec::new() };
    let frontends = frontends(random, index, number, family, contests);
    let mut port = port(&format!("p{number}"), frontends, &cluster, &local, &keep);
    port.family = family;
    port.affinity_seconds = if random.chance(30) { 10 } else { 0 };
    port
}

fn frontends(
    random: &mut Random,
    index: usize,
    number: usize,
    family: Family,
    contests: bool,
) -> Vec<Frontend> {
    let address = |v4: &str, v6: &str| if family == Family::V4 { v4.to_owned() } else { v6.to_owned() };
    let own = address(&format!("10.96.0.{index}"), &format!("fd01::{index}"));
    let neighbour = (index + 1) % SERVICES;
    let neighbours = address(&format!("10.96.0.{neighbour}"), &format!("fd01::{neighbour}"));
    let node = address("192.0.2.1", "2001:db8::1");
    let unique = 10_000 + u16::try_from(index * 10 + number).unwrap();
    let mut frontends = vec![cluster_ip(&own, if number == 0 { 80 } else { 81 })];
    if random.chance(30) {
        frontends[0].list = ListKind::Local;
    }
    if random.chance(50) {
        let inside = Frontend { owns_address: false, ..cluster_ip(&node, unique) };
        frontends.extend([inside, external(&node, unique)]);
    }
    if random.chance(30) {
        frontends.push(Frontend { owns_address: false, ..cluster_ip(&neighbours, unique) });
    }
    if random.chance(40) {
        let mut balancer = external(&address("203.0.113.7", "2001:db8::7"), unique);
        let prefixes = random.some_of(4, 40);
        balancer.source_ranges = prefixes
            .iter()
            .map(|p| address(&format!("10.{p}.0.0/16"), &format!("fd0{p}::/16")).parse().unwrap())
            .collect();
        balancer.when_empty = if random.chance(50) { WhenEmpty::Reject } else { WhenEmpty::Drop };
        frontends.push(balancer);
    }
    if contests && number == 0 && family == Family::V4 {
        frontends.push(external("192.0.2.9", 443));
    }
    frontends.sort_by_key(|frontend| frontend.key);
    frontends
}
