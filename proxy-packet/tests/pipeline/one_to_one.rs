//! Translation is one to one: whatever a backend answers comes back to the one who asked, from whom it asked.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::select;
use proxy_packet::simulation::{Family, checksums_valid};

use crate::generate::scene::{CLIENTS, End, PORTS, Scene, Settings, any_scene};
use crate::generate::seen::Seen;
use crate::generate::traffic::socket;
use crate::network::{ACK, PAYLOAD, SYN, answer, ask, converse};

/// A client's end, and the number of a Service that it asks.
fn question() -> impl Strategy<Value = (End, usize)> {
    ((select(&CLIENTS[..]), select(&PORTS[..])), 0_usize..3)
}

/// Client, frontend and protocol of each question.
fn asked(scene: &Scene, questions: &[(End, usize)]) -> Vec<(End, End, u8)> {
    let services = scene.services.len().max(1);
    let of = |(client, number): &(End, usize)| {
        let service = scene.services.get(number % services)?;
        Some((*client, service.frontend, service.protocol))
    };
    questions.iter().filter_map(of).collect()
}

/// A state without flows, for the families and numbers of source ports.
fn quiet() -> impl Strategy<Value = Scene> {
    any_scene(Just(4_096)).prop_map(|scene| {
        let settings = Settings { host_by_packet: false, ..scene.settings };
        Scene { settings, flows: Vec::new(), ..scene }
    })
}

/// What a client may expect: the whole answer, from whom it asked.
fn restored(scene: &Scene, ends: (End, End), reply: Option<&Seen>) -> bool {
    reply.is_some_and(|reply| {
        let (from, to) = (socket(scene.ip, ends.1), socket(scene.ip, ends.0));
        (reply.source, reply.destination) == (from, to) && reply.rest.ends_with(&PAYLOAD)
    })
}

proptest! {
    #![proptest_config(crate::config())]

    #[test]
    fn every_reply_leads_back_to_its_own_client(
        scene in quiet(), questions in prop::collection::vec(question(), 1..40),
    ) {
        let mut world = scene.world();
        let mut flows: HashMap<(SocketAddr, SocketAddr, u8), (End, End)> = HashMap::new();
        let mut requests = Vec::new();
        for (client, frontend, protocol) in asked(&scene, &questions) {
            let ends = (client, frontend);
            let Some((request, reply)) = converse(&mut world, &scene, ends, protocol) else { continue };
            prop_assert_eq!(checksums_valid(&world.bytes), Ok(()));
            let key = (request.destination, request.source, protocol);
            let owner = *flows.entry(key).or_insert(ends);
            prop_assert_eq!(owner, ends, "{:?} is two flows'", key);
            prop_assert!(restored(&scene, ends, reply.as_ref()), "{:?} is answered by {:?}", ends, reply);
            requests.push((request, ends));
        }
        // Later, when all flows are there.
        for (request, ends) in requests {
            let reply = answer(&mut world, &request, ACK);
            prop_assert!(restored(&scene, ends, reply.as_ref()), "{:?} is answered by {:?}", ends, reply);
        }
    }

    #[test]
    fn a_flow_keeps_its_backend_and_its_source(
        scene in quiet(), questions in prop::collection::vec(question(), 1..20), again in 1_usize..4,
    ) {
        let mut world = scene.world();
        let mut known: HashMap<(End, End, u8), (SocketAddr, SocketAddr)> = HashMap::new();
        for _ in 0..again {
            for (client, frontend, protocol) in asked(&scene, &questions) {
                let Some((request, _)) = converse(&mut world, &scene, (client, frontend), protocol) else { continue };
                let way = (request.source, request.destination);
                let before = *known.entry((client, frontend, protocol)).or_insert(way);
                prop_assert_eq!(before, way);
            }
            world.clock_ns += 1_000_000_000;
        }
    }

    /// A table that is lost as a whole (the agent's pins are gone): connections find their backend again, or end.
    #[test]
    fn a_lost_connection_finds_its_backend_or_nobody(
        scene in quiet(), questions in prop::collection::vec(question(), 1..20),
    ) {
        let mut world = scene.world();
        let mut open = HashMap::new();
        for (client, frontend, protocol) in asked(&scene, &questions) {
            if protocol != 6 {
                continue;
            }
            if let Some(request) = ask(&mut world, &scene, (client, frontend), 6, SYN) {
                open.insert((client, frontend), request);
            }
        }
        world.four = Family { flows: BTreeMap::new(), flow_keys: BTreeMap::new(), ..world.four };
        world.six = Family { flows: BTreeMap::new(), flow_keys: BTreeMap::new(), ..world.six };
        for (ends, before) in open {
            if let Some(after) = ask(&mut world, &scene, ends, 6, ACK) {
                prop_assert_eq!(after.destination, before.destination, "{:?}", ends);
            }
        }
    }
}
