//! Properties of the writes: every prefix of them, restarts, faults, and full maps.

mod agent;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proxy_core::{
    desired::{Backend, Family, FrontendKind, ServicePortName, Settings},
    diff::{Capacities, Planner, RealisedDump},
    model::{Event, ObjectName, PortObject, ServiceObject},
};

use self::agent::{Agent, by_key};
use crate::{
    config,
    decisions::world_after,
    generate::{NODE, history, settings},
    kernel::{Kernel, Key},
    reference::{World, expected},
};

/// Room for little.
fn tiny() -> impl Strategy<Value = Capacities> {
    (4_u32..44, 2_u32..26, 2_u32..10, 0_u32..4).prop_map(|(services, ring, backends, source_ranges)| {
        Capacities { services, ring, backends, source_ranges }
    })
}

/// Room for everything that can be wanted at once, twice over.
const AMPLE: Capacities = Capacities { services: 400, ring: 1200, backends: 120, source_ranges: 120 };

/// What happens after an event, one choice for each event.
#[derive(Clone, Copy, Debug)]
enum Interlude {
    /// More events come before anything is planned.
    Nothing,
    /// The change is written and grace periods pass, but for this many.
    Sync(usize),
    /// The write of this number fails; the rest is dropped.
    Fault(usize),
    /// The agent dies before the write of this number and starts again.
    Crash(usize),
    /// The maps are read back while nothing is wrong.
    Audit,
}

fn calm() -> impl Strategy<Value = Vec<Interlude>> {
    let one = prop_oneof![
        2 => Just(Interlude::Nothing),
        6 => (0_usize..3).prop_map(Interlude::Sync),
    ];
    prop::collection::vec(one, 14)
}

fn faulty() -> impl Strategy<Value = Vec<Interlude>> {
    let one = prop_oneof![
        2 => Just(Interlude::Nothing),
        3 => (0_usize..3).prop_map(Interlude::Sync),
        4 => (0_usize..40).prop_map(Interlude::Fault),
        1 => Just(Interlude::Audit),
    ];
    prop::collection::vec(one, 14)
}

fn stormy() -> impl Strategy<Value = Vec<Interlude>> {
    let one = prop_oneof![
        2 => Just(Interlude::Nothing),
        3 => (0_usize..3).prop_map(Interlude::Sync),
        3 => (0_usize..40).prop_map(Interlude::Fault),
        2 => (0_usize..40).prop_map(Interlude::Crash),
        1 => Just(Interlude::Audit),
    ];
    prop::collection::vec(one, 14)
}

fn live(agent: &mut Agent, events: &[Event], interludes: &[Interlude]) {
    for (event, interlude) in events.iter().zip(interludes) {
        agent.hear(event);
        match *interlude {
            Interlude::Nothing => {}
            Interlude::Sync(pending) => {
                agent.sync(None);
                agent.seal();
                agent.grace(pending, None);
            }
            Interlude::Fault(number) => {
                agent.sync(Some(number));
                agent.seal();
                agent.grace(number % 3, Some(number));
            }
            Interlude::Crash(number) => {
                agent.sync(Some(number));
                agent.restart(number % 2 == 1);
                agent.sync_full(None);
            }
            Interlude::Audit => {
                agent.sync(None);
                agent.audit(false);
                let idle = agent.full_plan().ops.is_empty() || !agent.refused.is_empty();
                assert!(idle, "an audit finds a fault where there is none: {:?}", agent.full_plan().ops);
                agent.sync_full(None);
            }
        }
    }
}

fn agent_after(
    settings: &Settings,
    events: &[Event],
    interludes: &[Interlude],
    capacities: Capacities,
) -> Agent {
    let mut agent = Agent::new(settings, capacities);
    live(&mut agent, events, interludes);
    agent.sync(None);
    agent
}

/// Asserts that the maps hold what the reference model says of the objects, whatever happened on the way.
fn assert_converged(agent: &mut Agent, world: &World) {
    assert_eq!(agent.refused, BTreeSet::new());
    let wanted = by_key(expected(world, agent.engine.settings()).frontends);
    assert_eq!(agent.published, wanted);
    agent.drain();
    agent.assert_no_leak();
    assert_eq!(agent.full_plan().ops, vec![]);
}

/// Empties the cluster and asserts that everything is free again.
fn assert_all_returns(agent: &mut Agent) {
    agent.hear(&Event::ServicesListed(vec![]));
    agent.sync(None);
    agent.drain();
    agent.assert_no_leak();
    let mut empty = agent.kernel.dump(false);
    empty.ring.clear();
    assert_eq!(empty, RealisedDump::default());
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_prefix_of_the_writes_is_consistent(
        settings in settings(), events in history(14), interludes in calm(),
    ) {
        let mut agent = agent_after(&settings, &events, &interludes, AMPLE);
        assert_converged(&mut agent, &world_after(&events));
    }

    #[test]
    fn a_restart_writes_nothing(
        settings in settings(), events in history(14), interludes in calm(), backwards in any::<bool>(),
    ) {
        let mut agent = agent_after(&settings, &events, &interludes, AMPLE);
        agent.drain();
        let before = agent.kernel.dump(false);
        agent.restart(backwards);
        let plan = agent.planner.plan_full(&agent.engine.all());
        prop_assert_eq!((plan.ops, plan.refused), (vec![], vec![]));
        prop_assert_eq!(agent.planner.seal_epoch(), None);
        agent.assert_no_leak();
        prop_assert_eq!(agent.kernel.dump(false), before);
    }

    #[test]
    fn faults_and_crashes_at_any_write_end_in_the_same_maps(
        settings in settings(), events in history(14), interludes in stormy(),
    ) {
        let mut agent = agent_after(&settings, &events, &interludes, AMPLE);
        assert_converged(&mut agent, &world_after(&events));
        assert_all_returns(&mut agent);
    }

    #[test]
    fn a_full_map_refuses_a_service_whole_and_later_takes_it(
        settings in settings(), events in history(14), interludes in faulty(), capacities in tiny(),
    ) {
        let mut agent = agent_after(&settings, &events, &interludes, capacities);
        settle(&mut agent);
        // Whoever is still refused comes in as soon as it alone fits: nothing of the others is left.
        let (world, refused) = (world_after(&events), agent.refused.clone());
        for name in &refused {
            assert_all_returns(&mut agent);
            let alone = world.services.get(name).cloned().into_iter().collect();
            agent.hear(&Event::ServicesListed(alone));
            let mut fresh = Planner::restore(&Kernel::new(capacities).dump(false), capacities);
            let fits = fresh.plan_full(&agent.engine.all()).refused.is_empty();
            settle(&mut agent);
            prop_assert_eq!(agent.refused.is_empty(), fits);
        }
        assert_all_returns(&mut agent);
    }

    #[test]
    fn restarts_on_a_full_map_lose_no_frontend_that_is_still_wanted(
        settings in settings(), events in history(14), interludes in stormy(), capacities in tiny(),
    ) {
        let mut agent = agent_after(&settings, &events, &interludes, capacities);
        settle(&mut agent);
        assert_all_returns(&mut agent);
    }

    #[test]
    fn what_stays_keeps_its_ids(
        settings in settings(), events in history(14), interludes in stormy(),
    ) {
        let mut agent = Agent::new(&settings, AMPLE);
        for (event, interlude) in events.iter().zip(interludes) {
            let (ids, backends) = (service_ids(&agent), backend_ids(&agent));
            live(&mut agent, std::slice::from_ref(event), &[interlude]);
            agent.sync(None);
            // A restart knows a ServicePort by its frontends only.
            let crashed = matches!(interlude, Interlude::Crash(_));
            for ((key, owner), id) in service_ids(&agent) {
                let before = ids.iter().find(|((_, other), _)| *other == owner).filter(|_| !crashed);
                let before = ids.get_key_value(&(key, owner)).or(before);
                prop_assert!(before.is_none_or(|(_, before)| *before == id), "{:?} {:?}", key, before);
            }
            for (backend, id) in backend_ids(&agent) {
                prop_assert!(backends.get(&backend).is_none_or(|before| *before == id), "{:?}", backend);
            }
        }
    }

    #[test]
    fn an_audit_repairs_what_somebody_else_spoilt(
        settings in settings(), events in history(14), interludes in calm(),
        spoils in prop::collection::vec(any::<(u8, u8)>(), 1..4), backwards in any::<bool>(),
    ) {
        let mut agent = agent_after(&settings, &events, &interludes, AMPLE);
        spoils.iter().for_each(|(what, which)| agent.kernel.spoil(*what, *which));
        agent.is_spoilt = true;
        agent.audit(backwards);
        agent.sync_full(None);
        agent.kernel.settle();
        assert_converged(&mut agent, &world_after(&events));
        assert_all_returns(&mut agent);
    }
}

/// A Service of type `NodePort`: name, age, ClusterIP, and of each port name, protocol, port and node port.
fn node_ports(name: &str, created: i64, address: &str, ports: &[(&str, &str, i32, i32)]) -> Event {
    let port = |(name, protocol, port, node_port): &(&str, &str, i32, i32)| PortObject {
        name: (*name).into(),
        protocol: (*protocol).into(),
        port: *port,
        node_port: *node_port,
    };
    Event::ServiceApplied(Box::new(ServiceObject {
        name: ObjectName::new("a", name),
        created: Some(created),
        service_type: "NodePort".into(),
        cluster_ips: vec![address.into()],
        ports: ports.iter().map(port).collect(),
        ..ServiceObject::default()
    }))
}

/// What is in the maps has no name on it: two Services with one ClusterIP, which no API server lets in, are told apart
/// after a restart by guessing, and on a full map the one that was mistaken for the other loses the frontend with it.
#[test]
fn a_frontend_that_passed_for_anothers_after_a_restart_goes_with_that_one() {
    let settings = Settings { node_name: NODE.into(), ..Settings::default() };
    let mut agent = Agent::new(&settings, Capacities { services: 5, ring: 2, backends: 2, source_ranges: 0 });
    agent.hear(&node_ports("dns", 3, "10.96.0.3", &[("", "SCTP", 80, 30_053), ("web", "TCP", 53, 30_053)]));
    agent.hear(&node_ports("web", 1, "10.96.0.1", &[("", "SCTP", 80, 30_053)]));
    agent.sync(None);
    agent.hear(&node_ports("web", 1, "10.96.0.3", &[("", "TCP", 80, 0), ("dns", "TCP", 53, 0)]));
    agent.restart(false);
    agent.sync_full(None);
    let both = ["dns", "web"].map(|name| ObjectName::new("a", name));
    assert_eq!(agent.refused, BTreeSet::from(both.clone()));
    agent.hear(&Event::ServiceDeleted(both[1].clone()));
    agent.sync(None);
    assert_eq!(agent.refused, BTreeSet::from([both[0].clone()]));
    settle(&mut agent);
    assert_all_returns(&mut agent);
}

/// Lets grace periods pass and plans again until nothing changes.
fn settle(agent: &mut Agent) {
    for _ in 0..4 {
        agent.sync(None);
        agent.drain();
    }
    agent.assert_no_leak();
}

/// Service ids by frontend and owner; only of ClusterIPs, which are hardly ever handed over.
fn service_ids(agent: &Agent) -> BTreeMap<(Key, (ServicePortName, Family)), u32> {
    let records = agent.published.iter().filter(|(_, answer)| answer.kind == FrontendKind::ClusterIp);
    let ids = records.filter_map(|(key, answer)| {
        let id = agent.kernel.services.get(key)?.service_id;
        Some(((*key, (answer.owner.clone(), key.family())), id))
    });
    ids.collect()
}

fn backend_ids(agent: &Agent) -> BTreeMap<(Family, u8, Backend), u32> {
    let all = agent.kernel.published_backends().into_iter();
    all.filter_map(|(backend, ids)| Some((backend, *ids.first()?))).collect()
}
