//! Where the programs are attached, over restarts and over the end of a cgroup.

use std::collections::BTreeSet;

use proxy_common::names::PROGRAMS;
use proxy_userspace::dataplane::{
    Capacities, DataPlane, DataPlaneConfig, LinkAction, LinkStatus, cleanup, inspect,
};
use sheave_tests::cgroup::Cgroup;
use sheave_tests::plane::Host;

fn attach(config: &DataPlaneConfig) -> (BTreeSet<u32>, LinkAction) {
    let mut plane = DataPlane::open(config).unwrap();
    let actions = plane.attach().unwrap();
    assert_eq!(actions.len(), 8);
    let first = actions[0].1;
    assert!(actions.iter().all(|(_, action)| *action == first), "{actions:?}");
    let programs = plane.programs().unwrap();
    let on_cgroup = programs.iter().filter(|program| PROGRAMS.contains(&program.name.as_str()));
    (on_cgroup.map(|program| program.id).collect(), first)
}

fn links(host: &Host) -> Vec<LinkStatus> {
    inspect(&host.bpffs.pins()).unwrap().links().to_vec()
}

fn on(cgroup: &Cgroup, host: &Host) -> DataPlaneConfig {
    DataPlaneConfig { cgroup: Some(cgroup.path().to_owned()), ..host.config(Capacities::default()) }
}

#[test]
fn a_restart_updates_the_links_and_keeps_them_on_their_cgroup() {
    let host = Host::new().unwrap();
    let config = host.config(Capacities::default());
    assert_eq!(attach(&config).1, LinkAction::Created);
    let before = links(&host);
    let (programs, action) = attach(&config);
    assert_eq!(action, LinkAction::Updated);
    let after = links(&host);
    assert!(after.iter().zip(&before).all(|(new, old)| new.attached && new.cgroup_id == old.cgroup_id));
    assert_eq!(after.iter().map(|link| link.program_id).collect::<BTreeSet<_>>(), programs);
}

#[test]
fn links_on_another_cgroup_are_replaced() {
    let host = Host::new().unwrap();
    attach(&host.config(Capacities::default()));
    let before = links(&host);
    let other = Cgroup::new().unwrap();
    assert_eq!(attach(&on(&other, &host)).1, LinkAction::Replaced);
    assert!(
        links(&host).iter().zip(&before).all(|(new, old)| new.attached && new.cgroup_id != old.cgroup_id)
    );
}

#[test]
fn links_whose_cgroup_is_gone_are_replaced() {
    let host = Host::new().unwrap();
    let gone = Cgroup::new().unwrap();
    attach(&on(&gone, &host));
    drop(gone);
    let severed = || links(&host).iter().all(|link| !link.attached);
    // The kernel takes the programs off a removed cgroup a little later.
    assert!((0..100).any(|_| severed() || {
        std::thread::sleep(std::time::Duration::from_millis(50));
        false
    }));
    assert_eq!(attach(&host.config(Capacities::default())).1, LinkAction::Replaced);
    assert!(links(&host).iter().all(|link| link.attached));
}

#[test]
fn watching_exchanges_the_programs_and_exchanges_them_back() {
    let host = Host::new().unwrap();
    let mut plane = DataPlane::open(&host.config(Capacities::default())).unwrap();
    plane.attach().unwrap();
    let programs = || links(&host).iter().map(|link| link.program_id).collect::<Vec<_>>();
    let quiet = programs();
    plane.set_monitor(true).unwrap();
    assert!(programs().iter().zip(&quiet).all(|(now, before)| now != before));
    plane.set_monitor(false).unwrap();
    assert_eq!(programs(), quiet);
}

#[test]
fn cleanup_detaches_everything_and_may_be_repeated() {
    let host = Host::new().unwrap();
    attach(&host.config(Capacities::default()));
    let report = cleanup(&host.bpffs.pins()).unwrap();
    assert_eq!((report.removed.len(), report.errors), (8 + 24 + 4, Vec::new()));
    assert!(!host.bpffs.pins().exists());
    let report = cleanup(&host.bpffs.pins()).unwrap();
    assert_eq!((report.removed, report.errors), (Vec::new(), Vec::new()));
    assert_eq!(attach(&host.config(Capacities::default())).1, LinkAction::Created);
}
