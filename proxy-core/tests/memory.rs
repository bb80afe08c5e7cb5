//! The shadow of the kernel maps stays small: 10,000 Services must cost at most 2 kB each.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::BTreeMap,
    net::IpAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use proxy_common::{Protocol, Scope};
use proxy_core::{
    desired::{
        Backend, BackendLists, DesiredService, DesiredServicePort, Family, Frontend, FrontendKey,
        FrontendKind, ListKind, ServicePortName, WhenEmpty,
    },
    diff::{Capacities, Planner, RealisedDump},
    model::ObjectName,
};

/// Counts the bytes that are allocated and not freed.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands every call to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are the same.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SERVICES: u32 = 10_000;
/// 150,000 pods behind 10,000 Services: the limits that Kubernetes states.
const ENDPOINTS: u32 = 15;

fn service(index: u32) -> (ObjectName, DesiredService) {
    let name = ObjectName::new("namespace-of-usual-length", format!("service-of-usual-length-{index}"));
    let address = IpAddr::from(u32::to_be_bytes(0x0a60_0000 + index));
    let frontend = Frontend {
        key: FrontendKey { address, port: 80, protocol: Protocol::Tcp, scope: Scope::Internal },
        kind: FrontendKind::ClusterIp,
        list: ListKind::Cluster,
        when_empty: WhenEmpty::Reject,
        host_netns_only: false,
        owns_address: true,
        source_ranges: Vec::new(),
    };
    let backend = |n: u32| Backend {
        address: u32::to_be_bytes(0x0af4_0000 + index * ENDPOINTS + n).into(),
        port: 8080,
        local: false,
    };
    let cluster: std::collections::BTreeSet<Backend> = (0..ENDPOINTS).map(backend).collect();
    let port = DesiredServicePort {
        name: ServicePortName { service: name.clone(), port_name: "http".into(), protocol: Protocol::Tcp },
        family: Family::V4,
        affinity_seconds: 0,
        frontends: vec![frontend],
        unbound: Vec::new(),
        lists: BackendLists { keep: cluster.clone(), cluster, ..BackendLists::default() },
    };
    (name, DesiredService { ports: vec![port], ..DesiredService::default() })
}

#[test]
fn ten_thousand_services_cost_two_kilobytes_each_at_most() {
    let wanted: BTreeMap<_, _> = (0..SERVICES).map(service).collect();
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut planner = Planner::restore(&RealisedDump::default(), Capacities::default());
    let plan = planner.plan_full(&wanted);
    assert_eq!(plan.refused, []);
    plan.ops.iter().for_each(|op| planner.commit(op));
    drop(plan);
    let per_service = (ALLOCATED.load(Ordering::Relaxed) - before) / SERVICES as usize;
    println!("{per_service} bytes for each Service with {ENDPOINTS} endpoints");
    assert!(per_service <= 2048, "{per_service} bytes for each Service");
}
