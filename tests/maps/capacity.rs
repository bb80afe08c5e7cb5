//! Full maps: one Service is refused whole, and the text says what to do.

use proxy_core::diff::{MapOp, ServiceOp};
use proxy_core::model::{Event, ObjectName};
use proxy_userspace::dataplane::{Capacities, LbMaps as _};
use sheave_tests::objects::{publish, service};

use crate::setup::{Site, dump, endpoints, wanted, written};

#[test]
fn a_full_kernel_map_names_the_option_to_raise() {
    let site = Site::new();
    let mut small = site.open_with(Capacities { services: 4, ..Capacities::default() });
    small.apply(publish(&service("one", &["10.96.0.1"], 80, "TCP"), 80, &endpoints(&[1]))).unwrap();
    let (key, value) = dump(&mut small).services4[0];
    let mut last = Ok(());
    // A hash map without preallocation counts its elements: 4, and 2 for the probe; two are there.
    for port in 1..=5_u16 {
        let mut other = key;
        other.port = proxy_common::PortBe::from_host(port);
        other.protocol = 17;
        last = small.data.maps().apply(&MapOp::Service(ServiceOp::V4(other, Some(value.sealed(&other)))));
    }
    let error = last.unwrap_err().to_string();
    assert!(error.contains("services4") && error.contains("--services-max"), "{error}");
}

#[test]
fn a_service_that_does_not_fit_keeps_its_old_version_whole() {
    let site = Site::new();
    let mut plane = site.open_with(Capacities { backends: 4, ..Capacities::default() });
    plane.apply(publish(&service("web", &["10.96.0.1"], 80, "TCP"), 80, &endpoints(&[1, 2]))).unwrap();
    let before = written(&mut plane);

    let plan = plane
        .apply(publish(&service("web", &["10.96.0.1"], 80, "TCP"), 80, &endpoints(&[4, 5, 7, 8])))
        .unwrap();
    assert_eq!(plan.refused.len(), 1);
    let text = plan.refused[0].to_string();
    assert!(text.contains("default/web") && text.contains("--backends-max"), "{text}");
    assert_eq!(written(&mut plane), before);
}

#[test]
fn a_refused_service_comes_when_another_makes_room() {
    let site = Site::new();
    let mut plane = site.open_with(Capacities { backends: 4, ..Capacities::default() });
    plane.apply(publish(&service("old", &["10.96.0.1"], 80, "TCP"), 80, &endpoints(&[1, 2]))).unwrap();
    let plan =
        plane.apply(publish(&service("new", &["10.96.0.2"], 80, "TCP"), 80, &endpoints(&[4, 5, 7]))).unwrap();
    assert_eq!(plan.refused.len(), 1);

    plane.apply(vec![Event::ServiceDeleted(ObjectName::new("default", "old"))]).unwrap();
    let all = plane.engine.all();
    let plan = plane.planner.plan_full(&all);
    assert_eq!(plan.refused, []);
    plane.write(&plan.ops).unwrap();
    assert_eq!(written(&mut plane), wanted(&plane.engine));
}
