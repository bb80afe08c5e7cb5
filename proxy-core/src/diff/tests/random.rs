//! Long sequences of changes, interruptions and restarts.

use super::{
    ROOMY,
    generate::{Random, cluster, next},
    world::{Wanted, World, changes},
};

const SEEDS: u64 = 25;
const STEPS: usize = 12;

#[test]
fn every_prefix_of_the_writes_is_safe_and_nothing_leaks() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut world = World::new(ROOMY);
        let mut wanted = cluster(&mut random);
        world.full(&wanted, usize::MAX);
        for _ in 0..STEPS {
            let after = next(&mut random, &wanted);
            let plan = world.change(&wanted, &after, usize::MAX);
            assert_eq!(plan.refused, [], "seed {seed}");
            wanted = after;
            if random.chance(50) {
                world.grace(&wanted, usize::MAX);
            }
        }
        world.settle(&wanted);
    }
}

#[test]
fn a_plan_that_was_dropped_halfway_leaves_nothing_behind() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut world = World::new(ROOMY);
        let mut done = Wanted::new();
        let mut wanted = cluster(&mut random);
        world.full(&wanted, random.below(30));
        // Services stay dirty until a plan went through.
        let mut dirty = changes(&done, &wanted);
        for _ in 0..STEPS {
            let after = next(&mut random, &wanted);
            dirty.extend(changes(&wanted, &after));
            wanted = after;
            let plan = world.planner.plan(&dirty);
            let writes = random.below(plan.ops.len() * 2 + 1);
            world.perform(&plan.ops, &wanted, writes);
            if writes >= plan.ops.len() {
                dirty.clear();
                done = wanted.clone();
            }
            if random.chance(50) {
                world.grace(&wanted, random.below(5));
            }
        }
        world.change(&done, &wanted, 0);
        let plan = world.planner.plan(&dirty);
        world.perform(&plan.ops, &wanted, usize::MAX);
        world.settle(&wanted);
    }
}

#[test]
fn a_killed_agent_goes_on_wherever_it_was() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut world = World::new(ROOMY);
        let mut wanted = cluster(&mut random);
        for _ in 0..STEPS {
            let length = world.planner.clone().plan_full(&wanted).ops.len();
            world.full(&wanted, random.below(length + 3));
            if random.chance(30) {
                world.grace(&wanted, random.below(5));
            }
            world.restart();
            wanted = next(&mut random, &wanted);
        }
        world.full(&wanted, usize::MAX);
        world.settle(&wanted);
    }
}

#[test]
fn an_audit_in_the_middle_keeps_what_waits_for_its_grace_period() {
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut world = World::new(ROOMY);
        let mut wanted = Wanted::new();
        for _ in 0..STEPS {
            let after = next(&mut random, &wanted);
            world.change(&wanted, &after, usize::MAX);
            wanted = after;
            let sealed = if random.chance(50) { world.seal() } else { None };
            if random.chance(50) {
                let dump = world.kernel.dump();
                world.planner.reload(&dump);
                assert_eq!(world.full(&wanted, usize::MAX).ops, [], "seed {seed}");
            }
            if let Some(epoch) = sealed {
                world.pass(epoch, &wanted, usize::MAX);
            }
        }
        world.settle(&wanted);
    }
}

#[test]
fn in_tight_maps_a_service_is_refused_whole_and_fits_later() {
    let tight = super::Capacities { services: 14, ring: 24, backends: 9, source_ranges: 3 };
    let mut refusals = 0;
    for seed in 0..SEEDS {
        let mut random = Random::new(seed);
        let mut world = World::new(tight);
        let mut wanted = Wanted::new();
        // What is really served: the last version that was not refused.
        let mut served = Wanted::new();
        let mut dirty = changes(&served, &wanted);
        for _ in 0..STEPS {
            let after = next(&mut random, &wanted);
            dirty.extend(changes(&wanted, &after));
            wanted = after;
            let plan = world.planner.plan(&dirty);
            let refused: Vec<_> = plan.refused.iter().map(|refusal| refusal.service.clone()).collect();
            refusals += refused.len();
            for (name, service) in dirty.iter().filter(|(name, _)| !refused.contains(name)) {
                match service {
                    Some(service) => drop(served.insert(name.clone(), service.clone())),
                    None => drop(served.remove(name)),
                }
            }
            dirty.retain(|name, _| refused.contains(name));
            // A frontend that somebody else has now is gone from the refused version.
            steal(&mut served, &refused);
            world.perform(&plan.ops, &served, usize::MAX);
            world.grace(&served, usize::MAX);
        }
        let none = Wanted::new();
        let gone = wanted.keys().map(|name| (name.clone(), None)).collect();
        let plan = world.planner.plan(&gone);
        world.perform(&plan.ops, &none, usize::MAX);
        world.settle(&none);
    }
    assert!(refusals > 100, "only {refusals} refusals");
}

fn steal(served: &mut Wanted, refused: &[crate::model::ObjectName]) {
    let taken: Vec<_> = served
        .iter()
        .filter(|(name, _)| !refused.contains(name))
        .flat_map(|(_, service)| &service.ports)
        .flat_map(|port| port.frontends.iter().map(|frontend| frontend.key))
        .collect();
    for service in refused {
        for port in served.get_mut(service).into_iter().flat_map(|service| &mut service.ports) {
            port.frontends.retain(|frontend| !taken.contains(&frontend.key));
        }
    }
}
