//! Steps against a kernel in memory: each leaves what the plan says, in an order in which nothing is missing.

use super::*;

/// Index of a device that is there; one that is made anew has another.
const OLD: u32 = 7;
const NEW: u32 = 9;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNetwork {
    text.parse().unwrap()
}

fn mac(last: u8) -> [u8; 6] {
    [6, 0, 0, 0, 0, last]
}

fn tunnel() -> Tunnel {
    let peer =
        TunnelPeer { address: ip("198.51.100.3"), gateways: [ip("10.244.3.0"), ip("fd00:3::")].into() };
    Tunnel {
        vni: 1,
        port: 8472,
        local: ip("192.0.2.1"),
        mac: mac(1),
        mtu: 1450,
        addresses: [ip("10.244.1.0")].into(),
        peers: [(mac(3), peer)].into(),
    }
}

fn plan() -> Plan {
    let routes = [
        (net("10.244.1.0/24"), Target::Unreachable),
        (net("10.244.2.0/24"), Target::Direct { gateway: ip("192.0.2.2"), device: 2 }),
        (net("10.244.3.0/24"), Target::Tunnel { gateway: ip("10.244.3.0") }),
        (net("fd00:3::/64"), Target::Tunnel { gateway: ip("fd00:3::") }),
    ];
    Plan { routes: routes.into(), tunnel: Some(tunnel()), ..Plan::default() }
}

/// Only direct routes.
fn near() -> Plan {
    let mut plan = plan();
    plan.tunnel = None;
    plan.routes.retain(|_, target| !matches!(target, Target::Tunnel { .. }));
    plan
}

/// What the kernel has after these steps. Refuses what the kernel would refuse.
fn after(state: &State, steps: &[Step]) -> State {
    let mut state = state.clone();
    for step in steps {
        take(&mut state, step);
    }
    state.routes.sort_by_key(|route| (route.network, route.metric));
    state
}

fn take(state: &mut State, step: &Step) {
    let index = state.tunnel.as_ref().map(|device| device.index);
    match step {
        Step::RemoveDevice(gone) => {
            assert_eq!(index, Some(*gone), "a device that is not there");
            state.tunnel = None;
            (state.neighbours, state.forwarding, state.inner) = Default::default();
            state.routes.retain(|route| route.device != Some(*gone));
        }
        Step::MakeDevice(tunnel) => {
            assert_eq!(index, None, "two devices of one name");
            state.tunnel = Some(device(tunnel, NEW));
        }
        Step::MendDevice(mtu) => {
            let device = state.tunnel.as_mut().unwrap();
            (device.mtu, device.is_up) = (*mtu, true);
        }
        Step::AddAddress(address) => assert!(index.is_some() && state.inner.insert(*address)),
        Step::RemoveAddress(address) => assert!(state.inner.remove(address), "{step}"),
        Step::SetNeighbour(address, mac) => {
            assert!(index.is_some());
            state.neighbours.insert(*address, *mac);
        }
        Step::RemoveNeighbour(address) => assert!(state.neighbours.remove(address).is_some(), "{step}"),
        Step::SetForwarding(mac, address) => {
            assert!(index.is_some());
            state.forwarding.retain(|(other, _)| other != mac);
            state.forwarding.insert((*mac, *address));
        }
        Step::RemoveForwarding(mac, address) => {
            assert!(state.forwarding.remove(&(*mac, *address)), "{step}");
        }
        Step::SetRoute(network, target) => set_route(state, *network, *target),
        Step::RemoveRoute(route) => {
            let before = state.routes.len();
            state.routes.retain(|other| other != route);
            assert_ne!(state.routes.len(), before, "{step}");
        }
    }
}

fn set_route(state: &mut State, network: IpNetwork, target: Target) {
    let (gateway, device) = match target {
        Target::Direct { gateway, device } => (Some(gateway), Some(device)),
        Target::Unreachable => (None, None),
        Target::Tunnel { gateway } => {
            let mac = state.neighbours.get(&gateway).expect("the kernel would ask for the neighbour");
            assert!(state.forwarding.iter().any(|(known, _)| known == mac), "the tunnel would drop it");
            (Some(gateway), Some(state.tunnel.as_ref().unwrap().index))
        }
    };
    let is_onlink = matches!(target, Target::Tunnel { .. });
    let route = Route { network, gateway, device, metric: metric(network, target), is_onlink };
    state.routes.retain(|other| (other.network, other.metric) != (route.network, route.metric));
    state.routes.push(route);
}

fn device(tunnel: &Tunnel, index: u32) -> Device {
    Device {
        index,
        is_vxlan: true,
        vni: tunnel.vni,
        port: tunnel.port,
        local: Some(tunnel.local),
        learns: false,
        mac: Some(tunnel.mac),
        mtu: tunnel.mtu,
        is_up: true,
    }
}

/// A kernel that has all of a plan.
fn realised(plan: &Plan) -> State {
    let (steps, remarks) = steps(plan, &State::default());
    assert!(remarks.is_empty());
    let mut state = after(&State::default(), &steps);
    if let Some(device) = &mut state.tunnel {
        device.index = OLD;
    }
    for route in state.routes.iter_mut().filter(|route| route.device == Some(NEW)) {
        route.device = Some(OLD);
    }
    state
}

fn texts(steps: &[Step]) -> Vec<String> {
    steps.iter().map(ToString::to_string).collect()
}

#[test]
fn what_is_as_it_should_be_needs_no_step_and_a_clean_up_leaves_nothing() {
    for plan in [plan(), near()] {
        let state = realised(&plan);
        assert_eq!(steps(&plan, &state).0, []);
        let (undo, _) = steps(&Plan::default(), &state);
        assert_eq!(after(&state, &undo), State::default(), "{:?}", texts(&undo));
    }
}

#[test]
fn from_any_state_the_steps_lead_to_the_plan() {
    let full = realised(&plan());
    let with_device = |change: fn(&mut Device)| {
        let mut state = full.clone();
        change(state.tunnel.as_mut().unwrap());
        state
    };
    let changed = |change: fn(&mut State)| {
        let mut state = full.clone();
        change(&mut state);
        state
    };
    let states: BTreeMap<&str, State> = [
        ("nothing", State::default()),
        ("no tunnel yet", realised(&near())),
        ("another network", with_device(|it| it.vni = 2)),
        ("another port", with_device(|it| it.port = 4789)),
        ("another address", with_device(|it| it.local = Some(ip("192.0.2.9")))),
        ("it learns", with_device(|it| it.learns = true)),
        ("another Ethernet address", with_device(|it| it.mac = Some(mac(9)))),
        ("another MTU", with_device(|it| it.mtu = 1500)),
        ("down", with_device(|it| it.is_up = false)),
        ("no neighbours", changed(|it| it.neighbours.clear())),
        ("no forwarding", changed(|it| it.forwarding.clear())),
        ("no address", changed(|it| it.inner.clear())),
        ("no routes", changed(|it| it.routes.clear())),
        ("another node behind it", changed(|it| it.forwarding = [(mac(3), ip("198.51.100.9"))].into())),
        (
            "too much of it",
            changed(|it| {
                it.forwarding.insert((mac(8), ip("198.51.100.8")));
                it.neighbours.insert(ip("10.244.8.0"), mac(8));
                it.inner.insert(ip("10.244.9.0"));
            }),
        ),
        (
            "other routes",
            changed(|it| {
                for route in &mut it.routes {
                    route.gateway = route.gateway.map(|_| ip("192.0.2.77"));
                }
                let gateway = Some(ip("192.0.2.8"));
                let network = net("10.244.8.0/24");
                it.routes.push(Route { network, gateway, device: Some(2), metric: 0, is_onlink: false });
                it.routes.push(Route { metric: 5, ..it.routes[1].clone() });
            }),
        ),
    ]
    .into();
    let wanted = |state: &State| (state.inner.clone(), state.neighbours.clone(), state.forwarding.clone());
    for (case, state) in states {
        let (steps, remarks) = steps(&plan(), &state);
        let reached = after(&state, &steps);
        assert!(remarks.is_empty(), "{case}");
        assert_eq!(wanted(&reached), wanted(&full), "{case}: {:?}", texts(&steps));
        assert_eq!(reached.routes.len(), full.routes.len(), "{case}: {:?}", texts(&steps));
        assert_eq!(super::steps(&plan(), &reached).0, [], "{case}: {:?}", texts(&steps));
    }
}

#[test]
fn a_route_of_somebody_else_is_left_alone_unless_ours_is_better() {
    let mut state = State::default();
    state.foreign.insert(net("10.244.2.0/24"), 0);
    state.foreign.insert(net("10.244.1.0/24"), 0);
    state.foreign.insert(net("fd00:3::/64"), 2048);
    let (steps, remarks) = steps(&plan(), &state);
    let texts: Vec<_> = remarks.iter().map(|remark| remark.text.as_str()).collect();
    assert!(matches!(texts[..], [text] if text.contains("has a route to 10.244.2.0/24")), "{texts:?}");
    let made = |network: &str| {
        steps.iter().any(|step| matches!(step, Step::SetRoute(made, _) if *made == net(network)))
    };
    assert!(!made("10.244.2.0/24") && made("10.244.1.0/24") && made("fd00:3::/64"));
}

#[test]
fn a_device_of_somebody_else_with_our_name_is_left_alone_with_a_remark() {
    let state = State {
        tunnel: Some(Device { index: OLD, is_vxlan: false, ..Device::default() }),
        ..State::default()
    };
    let (made, remarks) = steps(&plan(), &state);
    assert!(remarks.iter().any(|remark| remark.text.contains("not of our making")));
    let is_direct =
        |step: &Step| matches!(step, Step::SetRoute(_, Target::Direct { .. } | Target::Unreachable));
    assert!(made.iter().all(is_direct), "{:?}", texts(&made));
    assert_eq!(steps(&Plan::default(), &state).0, []);
}
