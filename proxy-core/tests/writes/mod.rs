//! Properties of the writes: every prefix of them, restarts, faults, and full maps.

mod agent;

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proxy_core::{
    desired::{Backend, Family, Settings},
    diff::{Capacities, Planner, RealisedDump},
    model::Event,
};

use self::agent::{Agent, by_key};
use crate::{
    config,
    decisions::world_after,
    generate::{history, settings},
    kernel::Key,
    reference::{World, expected},
};

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
                assert_eq!(agent.full_plan().ops, vec![], "an audit finds a fault where there is none");
            }
        }
    }
}

fn agent_after(settings: &Settings, events: &[Event], interludes: &[Interlude], capacities: Capacities) -> Agent {
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
        settings in settings(), events in history(14), interludes in stormy(), tiny in any::<[u8; 4]>(),
    ) {
        let [services, ring, backends, ranges] = tiny.map(u32::from);
        let capacities = Capacities {
            services: 4 + services % 40, ring: 2 + ring % 24, backends: 2 + backends % 8, source_ranges: ranges % 4,
        };
        let mut agent = agent_after(&settings, &events, &interludes, capacities);
        settle(&mut agent);
        let all = agent.engine.all();
        // Whoever is still refused and would have room alone gets it when the others are gone.
        let refused = agent.refused.clone();
        for name in &refused {
            let alone = BTreeMap::from([(name.clone(), all[name].clone())]);
            let mut fresh = Planner::restore(&Agent::new(&settings, capacities).kernel.dump(false), capacities);
            let fits = fresh.plan_full(&alone).refused.is_empty();
            let others = agent.engine.store().services().filter(|service| service.name == *name).cloned().collect();
            let (mut world, before) = (world_after(&events), agent.engine.all());
            world.take(&Event::ServicesListed(others));
            agent.hear(&Event::ServicesListed(world.services.values().cloned().collect()));
            if agent.engine.all()[name] == before[name] {
                settle(&mut agent);
                prop_assert_eq!(agent.refused.is_empty(), fits, "{:?}", agent.refused);
            }
            agent.hear(&Event::ServicesListed(world_after(&events).services.values().cloned().collect()));
            settle(&mut agent);
        }
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
            for (owner, id) in service_ids(&agent) {
                prop_assert!(ids.get(&owner).is_none_or(|before| *before == id), "{:?}", owner);
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
        agent.audit(backwards);
        agent.sync_full(None);
        agent.kernel.settle();
        assert_converged(&mut agent, &world_after(&events));
        assert_all_returns(&mut agent);
    }
}

/// Lets grace periods pass and plans again until nothing changes.
fn settle(agent: &mut Agent) {
    for _ in 0..4 {
        agent.sync(None);
        agent.drain();
    }
    agent.assert_no_leak();
}

fn service_ids(agent: &Agent) -> BTreeMap<(proxy_core::desired::ServicePortName, Family), u32> {
    let records = agent.published.iter().filter_map(|(key, answer)| {
        let id = agent.kernel.services.get(key)?.service_id;
        Some(((answer.owner.clone(), Key::family(key)), id))
    });
    records.collect()
}

fn backend_ids(agent: &Agent) -> BTreeMap<(Family, u8, Backend), u32> {
    let all = agent.kernel.published_backends().into_iter();
    all.filter_map(|(backend, ids)| Some((backend, *ids.first()?))).collect()
}
