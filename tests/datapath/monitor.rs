//! Events: one for each decision while somebody watches, none otherwise.

use std::time::Duration;

use proxy_common::{Counter, Verdict};
use proxy_userspace::dataplane::EventStream;
use sheave_tests::client::ask_tcp;

use crate::world::{PORT, World, vip, vip6};

/// The verdicts of everything that comes within a moment.
fn verdicts(runtime: &tokio::runtime::Runtime, events: &mut EventStream) -> Vec<(u8, String, u16)> {
    let mut seen = Vec::new();
    runtime.block_on(async {
        while let Ok(Ok(event)) = tokio::time::timeout(Duration::from_millis(300), events.next()).await {
            let frontend = std::net::IpAddr::from(event.frontend);
            assert_eq!(event.pid, std::process::id());
            seen.push((event.verdict, frontend.to_string(), event.frontend_port.to_host()));
        }
    });
    seen
}

#[test]
fn each_decision_is_told_while_somebody_watches_and_none_otherwise() {
    let mut world = World::with_service("TCP");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut events = runtime.block_on(async { world.peek().data.events() }).unwrap();
    let ask = |world: &World| {
        world.in_pod(|| {
            ask_tcp(vip()).unwrap();
            ask_tcp(vip6()).unwrap();
            let unknown = std::net::SocketAddr::new(vip().ip(), PORT + 1);
            assert!(ask_tcp(unknown).is_err());
        });
    };
    ask(&world);
    assert_eq!(verdicts(&runtime, &mut events), []);

    world.plane().data.set_monitor(true).unwrap();
    ask(&world);
    let expected = [
        (Verdict::Translated as u8, vip().ip().to_string(), PORT),
        (Verdict::Translated as u8, vip6().ip().to_string(), PORT),
        (Verdict::RefusedUnknownPort as u8, vip().ip().to_string(), PORT + 1),
    ];
    assert_eq!(verdicts(&runtime, &mut events), expected);

    world.plane().data.set_monitor(false).unwrap();
    ask(&world);
    assert_eq!(verdicts(&runtime, &mut events), []);
}

#[test]
fn outcomes_are_counted_whether_or_not_somebody_watches() {
    let world = World::with_service("TCP");
    let count = |counter| {
        let counters = world.peek().data.counters().unwrap();
        counters.into_iter().find(|(found, _)| *found == counter).map_or(0, |(_, count)| count)
    };
    let before = (count(Counter::ConnectTcp), count(Counter::RefusedUnknownPort));
    world.in_pod(|| {
        for _ in 0..7 {
            ask_tcp(vip()).unwrap();
        }
        assert!(ask_tcp(std::net::SocketAddr::new(vip().ip(), 1)).is_err());
    });
    assert_eq!(
        (count(Counter::ConnectTcp), count(Counter::RefusedUnknownPort)),
        (before.0 + 7, before.1 + 1)
    );
}
