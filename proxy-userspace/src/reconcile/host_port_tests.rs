//! The loop and host ports: when they are written, and what whoever waits for them hears.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use proxy_common::Protocol;
use proxy_core::{
    desired::Settings,
    diff::{Capacities, MapOp},
    model::{Event as Change, HostPort, HostPortsObject, ObjectName, ServiceObject, Source},
};
use tokio::{sync::oneshot, time};

use super::{
    tests::{Fixture, SharedMaps, refused_by_test, service, start, start_with},
    *,
};
use crate::{
    dataplane::{FaultyMaps, MemoryMaps},
    metrics::Metrics,
};

/// A pod with this host port on every address.
fn pod(name: &str, host_port: u16) -> HostPortsObject {
    let pod = ObjectName::new("ns", name);
    HostPortsObject {
        name: HostPortsObject::name_of(&pod, "c1"),
        pod,
        created: 1,
        addresses: vec![IpAddr::V4(Ipv4Addr::new(10, 244, 9, 9))],
        ports: vec![HostPort { host_ip: None, host_port, container_port: 8080, protocol: Protocol::Tcp }],
    }
}

async fn ask(fixture: &Fixture, name: &ObjectName) -> oneshot::Receiver<Result<(), HostPortsError>> {
    let (answer, answered) = oneshot::channel();
    let question = Question::HostPorts { name: name.clone(), answer };
    fixture.events.send(Event::Ask(question)).await.unwrap();
    answered
}

fn frontends(maps: &SharedMaps) -> Vec<String> {
    maps.served()
        .into_iter()
        .map(|(frontend, backends)| format!("{frontend} {}", backends.join(" ")))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_for_host_ports_is_answered_when_they_are_written() {
    let maps = SharedMaps::default();
    let fixture = start(maps.clone());
    let web = pod("web", 8088);
    fixture.send(Change::HostPortsListed(vec![web.clone()])).await;
    let mut early = ask(&fixture, &web.name).await;
    fixture.settle().await;
    assert!(early.try_recv().is_err(), "nothing is written before the lists");
    fixture.list(Vec::new(), Vec::new()).await;
    assert_eq!(early.await.unwrap(), Ok(()));
    assert_eq!(frontends(&maps), ["127.0.0.1:8088 10.244.9.9:8080"]);
    assert_eq!(fixture.progress.report().services, 0, "a pod is no Service");

    fixture.send(Change::HostPortsListed(Vec::new())).await;
    let gone = ask(&fixture, &web.name).await.await.unwrap();
    assert!(gone.unwrap_err().to_string().contains("ns/web@c1"));
    fixture.settle().await;
    assert!(frontends(&maps).is_empty());
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_hears_who_has_the_port() {
    let fixture = start(MemoryMaps::default());
    let node_port = ServiceObject { service_type: "NodePort".to_owned(), ..service(1, "TCP") };
    let mut node_port = node_port;
    node_port.ports[0].node_port = 30_080;
    fixture.list(vec![node_port], Vec::new()).await;
    let (taken, free) = (pod("taken", 30_080), pod("free", 30_081));
    fixture.send(Change::HostPortsListed(vec![taken.clone(), free.clone()])).await;
    let error = ask(&fixture, &taken.name).await.await.unwrap().unwrap_err();
    let HostPortsError::Wrong(reason) = error else { unreachable!("{error}") };
    assert!(reason.contains("30080/TCP is owned by Service ns/s1"), "{reason}");
    assert_eq!(ask(&fixture, &free.name).await.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn whoever_waits_goes_on_waiting_while_writing_fails() {
    let broken = Arc::new(AtomicBool::new(false));
    let is_broken = Arc::clone(&broken);
    let rule = move |_: u64, _: &MapOp| {
        if is_broken.load(Ordering::Relaxed) { Err(refused_by_test()) } else { Ok(()) }
    };
    let fixture = start(FaultyMaps::new(MemoryMaps::default(), rule));
    fixture.list(Vec::new(), Vec::new()).await;
    broken.store(true, Ordering::Relaxed);
    let web = pod("web", 8088);
    fixture.send(Change::HostPortsListed(vec![web.clone()])).await;
    let mut answered = ask(&fixture, &web.name).await;
    fixture.settle().await;
    assert!(answered.try_recv().is_err());
    broken.store(false, Ordering::Relaxed);
    time::sleep(Duration::from_mins(1)).await;
    assert_eq!(answered.await.unwrap(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn host_ports_that_find_no_room_are_refused_with_the_remedy() {
    let fixture = start_with(MemoryMaps::default(), Capacities { services: 1, ..Capacities::default() });
    fixture.list(Vec::new(), Vec::new()).await;
    let web = pod("web", 8088);
    fixture.send(Change::HostPortsListed(vec![web.clone()])).await;
    let error = ask(&fixture, &web.name).await.await.unwrap().unwrap_err();
    let HostPortsError::NotYet(reason) = error else { unreachable!("{error}") };
    assert!(reason.contains("services"), "{reason}");
}

#[test]
fn where_pods_are_wired_nothing_is_removed_before_they_were_listed() {
    let new = || {
        let (maps, metrics) = (MemoryMaps::default(), Metrics::default());
        Reconciler::restore(Settings::default(), maps, Capacities::default(), metrics, Arc::default())
            .unwrap()
    };
    for (mut reconciler, waits) in [(new(), false), (new().needing(Source::HostPorts), true)] {
        reconciler.handle(Change::ServicesListed(Vec::new()));
        reconciler.handle(Change::SlicesListed(Vec::new()));
        reconciler.handle(Change::Node(None));
        reconciler.handle(Change::Addresses([].into()));
        assert_eq!(reconciler.is_complete(), !waits);
        reconciler.handle(Change::HostPortsListed(Vec::new()));
        assert!(reconciler.is_complete());
    }
}
