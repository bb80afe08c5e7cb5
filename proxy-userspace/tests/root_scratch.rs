//! scratch
use std::{fs, net::*, path::PathBuf, time::{Duration, Instant}};
use proxy_userspace::{dataplane::*, sockets};
use proxy_common::*;
use proxy_core::diff::*;
use nix::mount::*;

struct Env { dir: tempfile::TempDir, cg: PathBuf }
impl Env {
    fn new(name: &str) -> Env {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("bpf")).unwrap();
        mount(Some("bpf"), &dir.path().join("bpf"), Some("bpf"), MsFlags::empty(), None::<&str>).unwrap();
        let cg = PathBuf::from(format!("/sys/fs/cgroup/unified/scratch-{name}-{}", std::process::id()));
        fs::create_dir(&cg).unwrap();
        Env { dir, cg }
    }
    fn config(&self) -> DataPlaneConfig {
        DataPlaneConfig { pin_dir: std::env::var_os("PIN_DIR").map_or(self.dir.path().join("bpf/sheave"), PathBuf::from), lock_file: self.dir.path().join("lock"), cgroup: Some(self.cg.clone()),
            probe_program: "/work/main/target/debug/sheave".into(), ..DataPlaneConfig::default() }
    }
    fn join(&self) { fs::write(self.cg.join("cgroup.procs"), "0").unwrap(); }
    fn leave(&self) { fs::write("/sys/fs/cgroup/unified/cgroup.procs", "0").unwrap(); }
}
impl Drop for Env { fn drop(&mut self) {
    self.leave();
    let _ = umount2(&self.dir.path().join("bpf"), MntFlags::MNT_DETACH);
    for _ in 0..50 { if fs::remove_dir(&self.cg).is_ok() { return } std::thread::sleep(Duration::from_millis(10)); }
    eprintln!("left {:?}", self.cg);
} }

fn svc(proto: Protocol, vip: Ipv4Addr, port: u16, backends: &[(u32, SocketAddrV4)]) -> Vec<MapOp> {
    let mut ops = vec![];
    for (id, b) in backends { ops.push(MapOp::Backend(BackendOp::V4(*id, BackendValue::sealed(*id, (*b.ip()).into(), PortBe::from_host(b.port()), proto as u8)))); }
    ops.push(MapOp::WriteRing { base: 16, ids: backends.iter().map(|b| b.0).collect() });
    let key = ServiceKey { address: vip.into(), port: PortBe::from_host(port), protocol: proto as u8, scope: 0 };
    let v = ServiceValue { service_id: 1, generation: 1, flags: 0, affinity_seconds: 0, ring_base: 16, ring_len: backends.len() as u32, keep_len: 0, check: 0 };
    ops.push(MapOp::Service(ServiceOp::V4(key, Some(v.sealed(&key)))));
    let a = ServiceKey::address_record(Ipv4Be::from(vip), Scope::Internal);
    let z = ServiceValue { service_id: 0, generation: 0, ring_base: 0, ring_len: 0, ..v };
    ops.push(MapOp::Service(ServiceOp::V4(a, Some(z.sealed(&a)))));
    ops
}

fn rss() -> String { fs::read_to_string("/proc/self/status").unwrap().lines().filter(|l| l.starts_with("VmRSS")||l.starts_with("VmHWM")).collect::<Vec<_>>().join(" ") }
#[test]
fn all() {
    tracing_subscriber::fmt().with_test_writer().init();
    let env = Env::new("a");
    println!("{}", rss());
    let t = Instant::now();
    let mut plane = DataPlane::open(&env.config()).unwrap();
    println!("open {:?} inherited {}", t.elapsed(), plane.inherited());
    println!("{}", rss());
    assert!(!plane.inherited());
    match DataPlane::open(&env.config()) { Err(e) => println!("second: {e}"), Ok(_) => panic!() }
    for p in plane.programs().unwrap() { println!("{p:?}"); }
    println!("{:?}", plane.attach().unwrap());
    println!("{:?}", plane.attach().unwrap());
    let t = Instant::now();
    println!("probe child {:?} {:?}", plane.probe(), t.elapsed());
    env.join();
    let t = Instant::now();
    println!("probe self {:?} {:?}", plane.probe(), t.elapsed());
    let srv = UdpSocket::bind("127.0.0.1:0").unwrap();
    let SocketAddr::V4(b) = srv.local_addr().unwrap() else { panic!() };
    let ops = svc(Protocol::Udp, Ipv4Addr::new(10, 96, 0, 10), 53, &[(1, b)]);
    for op in &ops { plane.maps().apply(op).unwrap(); }
    let obs = plane.observer().unwrap();
    let c = UdpSocket::bind("0.0.0.0:0").unwrap(); c.connect("10.96.0.10:53").unwrap();
    println!("peer {:?}", c.peer_addr());
    c.send(b"hi").unwrap();
    let t = Instant::now();
    let dump = plane.maps().dump().unwrap();
    println!("dump {:?}: {:?} {:?}", t.elapsed(), dump.services4.len(), dump.backends4);
    let t = Instant::now();
    let tr = obs.translated_sockets().unwrap();
    println!("translated {:?} {tr:?}", t.elapsed());
    assert_eq!(tr.len(), 1);
    println!("{:?}", sockets::destroy_udp(&tr, &["127.0.0.1:1".parse().unwrap()]));
    println!("{:?}", sockets::destroy_udp(&tr, &[SocketAddr::V4(b)]));
    println!("{:?}", c.recv(&mut [0; 4]));
    println!("{:?}", c.send(b"x"));
    for u in plane.usage().unwrap() { println!("{u:?}"); }
    println!("{:?}", plane.counters().unwrap());
    // monitor
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let _g = rt.enter();
    let mut ev = plane.events().unwrap();
    let t = Instant::now();
    plane.set_monitor(true).unwrap();
    println!("monitor on {:?}", t.elapsed());
    let c = UdpSocket::bind("0.0.0.0:0").unwrap(); c.connect("10.96.0.10:53").unwrap();
    let e = rt.block_on(async { tokio::time::timeout(Duration::from_secs(2), ev.next()).await }).unwrap().unwrap();
    println!("{e:?}");
    plane.set_monitor(false).unwrap();
    for p in obs.programs().unwrap() { println!("{} {} {:?}", p.name, p.id, p.verified_instructions); }
    drop(ev); drop(plane);
    // agent is dead: data plane goes on
    let c = UdpSocket::bind("0.0.0.0:0").unwrap(); c.connect("10.96.0.10:53").unwrap();
    assert_eq!(c.local_addr().unwrap().ip().to_string(), "127.0.0.1");
    let ins = inspect(&env.config().pin_dir).unwrap();
    println!("inspect {:?} {:?}", ins.dump().unwrap().backends4, ins.links().iter().map(|l| l.attached).collect::<Vec<_>>());
    ins.usage().unwrap(); println!("{:?}", ins.counters().unwrap().len());
    // restart
    let mut plane = DataPlane::open(&env.config()).unwrap();
    assert!(plane.inherited());
    let mut again = plane.maps().dump().unwrap(); 
    let mut before = dump.clone(); again.services4.sort(); before.services4.sort();
    assert_eq!(again, before);
    let acts = plane.attach().unwrap(); println!("{acts:?}");
    drop(plane);
    // other capacity
    let mut cfg = env.config(); cfg.capacities.services = 1000;
    let mut plane = DataPlane::open(&cfg).unwrap();
    assert!(!plane.inherited());
    assert!(plane.maps().dump().unwrap().services4.is_empty());
    // old programs still serve
    let c = UdpSocket::bind("0.0.0.0:0").unwrap(); c.connect("10.96.0.10:53").unwrap();
    assert_eq!(c.local_addr().unwrap().ip().to_string(), "127.0.0.1");
    for op in &ops { plane.maps().apply(op).unwrap(); }
    println!("{:?}", plane.attach().unwrap());
    let mut n = 0;
    let mut err = None;
    for i in 0..2000u32 { let key = ServiceKey { address: Ipv4Be::from_network_bits(i), port: PortBe::from_host(1), protocol: 6, scope: 0 };
        match plane.maps().apply(&MapOp::Service(ServiceOp::V4(key, Some(ServiceValue { service_id: 0, generation: 0, flags: 0, affinity_seconds: 0, ring_base: 0, ring_len: 0, keep_len: 0, check: 0 })))) { Ok(()) => n += 1, Err(e) => { err = Some(e); break } } }
    println!("full after {n}: {:?}", err.map(|e| e.to_string()));
    println!("{:?}", fs::read_dir(cfg.pin_dir.join("maps")).unwrap().map(|e| e.unwrap().file_name()).collect::<Vec<_>>());
    drop(plane);
    // a broken group: one pin is missing
    let victim = fs::read_dir(cfg.pin_dir.join("maps")).unwrap().map(|e| e.unwrap().path()).find(|p| p.to_string_lossy().contains("backends4")).unwrap();
    fs::remove_file(victim).unwrap();
    let plane = DataPlane::open(&cfg).unwrap(); assert!(!plane.inherited()); drop(plane);
    // another cgroup
    let env2 = PathBuf::from(format!("{}-2", env.cg.display())); fs::create_dir(&env2).unwrap();
    let mut cfg2 = cfg.clone(); cfg2.cgroup = Some(env2.clone());
    let mut plane = DataPlane::open(&cfg2).unwrap();
    println!("{:?}", plane.attach().unwrap()); 
    fs::remove_dir(&env2).unwrap(); std::thread::sleep(Duration::from_millis(300));
    fs::create_dir(&env2).unwrap();
    drop(plane);
    let mut plane = DataPlane::open(&cfg2).unwrap();
    println!("severed: {:?}", plane.attach().unwrap()); 
    println!("{:?}", plane.probe());
    drop(plane);
    let r = cleanup(&cfg.pin_dir); println!("{} {:?}", r.removed.len(), r.errors);
    let r = cleanup(&cfg.pin_dir); assert!(r.removed.is_empty() && r.errors.is_empty());
    assert!(!cfg.pin_dir.exists());
    fs::remove_dir(&env2).unwrap();
    let c = UdpSocket::bind("0.0.0.0:0").unwrap(); let _ = c.connect("10.96.0.10:53");
    assert_ne!(c.local_addr().unwrap().ip().to_string(), "127.0.0.1");
}
