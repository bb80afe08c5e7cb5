//! Generated histories against a model that knows nothing of files.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use cni::{
    record::{PortMapping, Protocol},
    store::StoreError,
};
use proptest::{
    prelude::*,
    sample::select,
    test_runner::{Config, RngSeed},
};
use tempfile::TempDir;

use super::*;

/// Where the generated cases begin, unless `PROPTEST_RNG_SEED` says otherwise.
const SEED: u64 = 0x5ea7e;
const FIXED: [&str; 4] = ["10.0.0.5", "10.0.1.2", "fd00::4", "10.9.9.9"];

#[derive(Clone, Debug)]
enum Step {
    Reserve {
        name: usize,
        port: Option<PortMapping>,
        fixed: Option<IpAddr>,
    },
    Commit(usize),
    Release(usize),
    /// The process is killed after it wrote the pool.
    Torn(Box<Step>),
    LosePool,
    Damage(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let name = 0..16_usize;
    let port =
        (select(vec![80, 81]), select(vec!["", "127.0.0.1", "192.0.2.1"])).prop_map(|(host_port, ip)| {
            PortMapping { host_port, container_port: 80, protocol: Protocol::Udp, host_ip: ip.parse().ok() }
        });
    let fixed = select(FIXED.to_vec()).prop_map(|address| address.parse().unwrap());
    let rarely = |of| prop::option::weighted(0.15, of);
    let reserve = (name.clone(), prop::option::weighted(0.1, port), rarely(fixed.boxed()))
        .prop_map(|(name, port, fixed)| Step::Reserve { name, port, fixed });
    let call = prop_oneof![
        8 => reserve,
        3 => name.clone().prop_map(Step::Commit),
        6 => name.clone().prop_map(Step::Release),
    ];
    let step = prop_oneof![
        40 => call.clone(),
        4 => call.prop_map(|step| Step::Torn(Box::new(step))),
        1 => Just(Step::LosePool),
        2 => name.prop_map(Step::Damage),
    ];
    prop::collection::vec(step, 1..80)
}

/// 9 addresses of IPv4 in two ranges, 6 of IPv6.
fn ranges() -> Wish {
    Wish {
        reserved: vec!["10.0.0.9".parse().unwrap()],
        ..wish(&["10.0.0.0/28", "10.0.1.0/30", "fd00::/125"])
    }
}

fn usable() -> Vec<IpAddr> {
    let v4 = (2..=14).filter(|last| *last != 9).map(|last| IpAddr::from([10, 0, 0, last]));
    let v6 = (2..=7).map(|last| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, last]));
    v4.chain([IpAddr::from([10, 0, 1, 2])]).chain(v6).collect()
}

/// What should be remembered.
#[derive(Default)]
struct Model {
    held: BTreeMap<usize, Held>,
    /// Given back, the oldest first.
    freed: Vec<IpAddr>,
    /// Something was torn or lost: which of the addresses that nobody gave back comes first is then open.
    shaken: bool,
}

struct Held {
    attachment: Attachment,
    damaged: bool,
}

impl Model {
    fn is_held(&self, address: &IpAddr) -> bool {
        self.held.values().any(|held| held.attachment.addresses.contains(address))
    }

    fn port_is_taken(&self, wanted: &Attachment) -> bool {
        let whole = self.held.values().filter(|held| !held.damaged);
        let mut ports = whole.flat_map(|held| &held.attachment.ports);
        ports.any(|port| wanted.ports.iter().any(|wanted| wanted.collides_with(port)))
    }

    /// The addresses of a family that may come next: the first of those that were never given back, else the one that
    /// was given back first.
    fn next(&self, v4: bool) -> Vec<IpAddr> {
        let free = |address: &IpAddr| address.is_ipv4() == v4 && !self.is_held(address);
        let mut fresh: Vec<_> = usable().into_iter().filter(free).collect();
        fresh.retain(|address| !self.freed.contains(address));
        if !self.shaken {
            fresh.truncate(1);
        }
        if fresh.is_empty() { self.freed.iter().copied().filter(free).take(1).collect() } else { fresh }
    }

    /// Judges an answer, and remembers it.
    fn reserved(
        &mut self,
        name: usize,
        asked: &Attachment,
        wish: &Wish,
        got: Result<Attachment, StoreError>,
    ) {
        if let Some(held) = self.held.get(&name) {
            return again(held, asked, wish, got);
        }
        if self.port_is_taken(asked) {
            return assert!(matches!(got, Err(StoreError::PortTaken { .. })), "{got:?}");
        }
        if let Some(fixed) = wish.fixed.first() {
            let fine = usable().contains(fixed) && !self.is_held(fixed);
            assert_eq!(got.is_ok(), fine, "{got:?}");
            assert!(got.as_ref().is_ok_and(|got| got.addresses == [*fixed]) || !fine);
        } else {
            let next = [self.next(true), self.next(false)];
            match &got {
                Err(StoreError::Exhausted { .. }) => assert!(next.iter().any(Vec::is_empty)),
                Ok(got) => {
                    assert_eq!(got.addresses.len(), 2);
                    assert!(got.addresses.iter().zip(&next).all(|(got, next)| next.contains(got)), "{got:?}");
                }
                Err(other) => panic!("{other}"),
            }
        }
        if let Ok(attachment) = got {
            self.freed.retain(|freed| !attachment.addresses.contains(freed));
            self.held.insert(name, Held { attachment, damaged: false });
        }
    }

    fn released(&mut self, name: usize, got: Option<&Attachment>) {
        let Some(Held { attachment, damaged }) = self.held.remove(&name) else {
            return assert_eq!(got, None);
        };
        self.freed.extend(&attachment.addresses);
        assert_eq!(got, Some(&attachment).filter(|_| !damaged));
    }
}

/// The same id again.
fn again(held: &Held, asked: &Attachment, wish: &Wish, got: Result<Attachment, StoreError>) {
    let found = &held.attachment;
    let alike = found.ports == asked.ports && (wish.fixed.is_empty() || wish.fixed == found.addresses);
    match got {
        Err(StoreError::Damaged { .. }) => assert!(held.damaged),
        Err(StoreError::Attached { .. }) => assert!(found.stage == Stage::Wired || !alike),
        Ok(got) => assert!(alike && !held.damaged && got == *found, "{got:?} instead of {found:?}"),
        Err(other) => panic!("{other}"),
    }
}

/// The store, opened anew for each step as a plugin does.
struct World {
    folder: TempDir,
    model: Model,
    clock: u64,
}

impl World {
    fn store(&self) -> Store {
        open(self.folder.path())
    }

    fn step(&mut self, step: &Step) {
        self.clock += 1;
        match step {
            Step::Reserve { name, port, fixed } => {
                let ports = port.iter().cloned().collect();
                let asked = Attachment { since: self.clock, ports, ..attachment(&name.to_string()) };
                let wish = Wish { fixed: fixed.iter().copied().collect(), ..ranges() };
                let got = self.store().reserve(asked.clone(), &wish);
                self.model.reserved(*name, &asked, &wish, got);
            }
            Step::Commit(name) => self.commit(*name),
            Step::Release(name) => {
                let got = self.store().release(&id(&name.to_string())).unwrap();
                self.model.released(*name, got.as_ref());
            }
            Step::Torn(step) => self.torn(step),
            Step::LosePool => {
                drop(fs::remove_file(self.folder.path().join("cni/addresses")));
                self.model.freed.clear();
                self.model.shaken = true;
            }
            Step::Damage(name) => self.damage(*name),
        }
    }

    fn commit(&mut self, name: usize) {
        let got = self.store().commit(&id(&name.to_string()));
        match self.model.held.get_mut(&name) {
            None => assert!(matches!(got, Err(StoreError::Gone(_)))),
            Some(held) if held.damaged => assert!(matches!(got, Err(StoreError::Damaged { .. }))),
            Some(held) => {
                got.unwrap();
                held.attachment.stage = Stage::Wired;
            }
        }
    }

    /// The attachments are put back as they were, the pool is not: the one moment at which the two differ.
    fn torn(&mut self, step: &Step) {
        let folder = self.store().folder().to_path_buf();
        let before = snapshot(&folder);
        match step {
            Step::Reserve { name, fixed, .. } => {
                let asked = attachment(&name.to_string());
                let wish = Wish { fixed: fixed.iter().copied().collect(), ..ranges() };
                if let Ok(got) = self.store().reserve(asked, &wish) {
                    self.model.freed.retain(|freed| !got.addresses.contains(freed));
                    self.model.shaken = true;
                }
            }
            Step::Commit(name) => drop(self.store().commit(&id(&name.to_string()))),
            Step::Release(name) => drop(self.store().release(&id(&name.to_string())).unwrap()),
            _ => {}
        }
        restore(&folder, &before);
    }

    fn damage(&mut self, name: usize) {
        let Some(held) = self.model.held.get_mut(&name) else { return };
        held.damaged = true;
        let start = format!("{:016x}", held.attachment.id.hash());
        let files = snapshot(self.store().folder());
        let ours =
            files.iter().find(|(path, _)| path.file_name().unwrap().to_str().unwrap().starts_with(&start));
        fs::write(&ours.unwrap().0, "{").unwrap();
    }

    fn check(&self) {
        let held: Vec<_> = self.model.held.values().collect();
        let mut whole: Vec<_> =
            held.iter().filter(|held| !held.damaged).map(|held| held.attachment.clone()).collect();
        whole.sort_by(|one, other| one.id.cmp(&other.id));
        assert_eq!(self.store().list().unwrap(), whole);
        let mut damaged: Vec<_> =
            held.iter().filter(|held| held.damaged).map(|held| held.attachment.addresses.clone()).collect();
        let mut found: Vec<_> =
            self.store().damaged().unwrap().into_iter().map(|damaged| damaged.addresses).collect();
        damaged.sort();
        found.sort();
        assert_eq!(found, damaged);
        let all: Vec<_> = held.iter().flat_map(|held| &held.attachment.addresses).collect();
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "an address has two holders");
    }
}

fn snapshot(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn restore(folder: &Path, before: &[(PathBuf, Vec<u8>)]) {
    snapshot(folder).iter().for_each(|(path, _)| fs::remove_file(path).unwrap());
    before.iter().for_each(|(path, text)| fs::write(path, text).unwrap());
}

fn config() -> Config {
    let default = Config::default();
    let rng_seed = match default.rng_seed {
        RngSeed::Random => RngSeed::Fixed(SEED),
        fixed @ RngSeed::Fixed(_) => fixed,
    };
    Config { rng_seed, failure_persistence: None, ..default }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_address_has_two_holders_and_the_one_that_was_free_for_longest_comes_next(steps in steps()) {
        let mut world = World { folder: TempDir::new().unwrap(), model: Model::default(), clock: 0 };
        for step in &steps {
            world.step(step);
            world.check();
        }
    }
}
