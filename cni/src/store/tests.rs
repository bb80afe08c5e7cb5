//! The store on a folder of its own: what it promises, one sentence at a time.

use std::{fs, path::Path};

use tempfile::TempDir;

use super::*;
use crate::record::{NetnsId, PodRef, PortMapping, Protocol};

fn store() -> (TempDir, Store) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(folder.path()).unwrap();
    (folder, store)
}

fn id(container: &str) -> AttachmentId {
    AttachmentId { container_id: container.into(), ifname: "eth0".into() }
}

fn attachment(container: &str) -> Attachment {
    Attachment {
        network: "sheave".into(),
        since: 1000,
        netns: NetnsId { device: 4, inode: 5, cookie: 6 },
        netns_path: "/run/netns/a".into(),
        mtu: 1500,
        pod: PodRef { namespace: "shop".into(), name: format!("pod-{container}"), uid: String::new() },
        ..Attachment::of(id(container))
    }
}

fn with_port(container: &str, host_ip: &str) -> Attachment {
    let host_ip = host_ip.parse().ok();
    let port = PortMapping { host_port: 80, container_port: 8080, protocol: Protocol::Tcp, host_ip };
    Attachment { ports: vec![port], ..attachment(container) }
}

fn wish(ranges: &[&str]) -> Wish {
    Wish { ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(), ..Wish::default() }
}

fn dual() -> Wish {
    wish(&["10.0.0.0/29", "fd00::/64"])
}

fn fixed(addresses: &[&str]) -> Wish {
    Wish { fixed: ips(addresses), ..dual() }
}

fn ips(addresses: &[&str]) -> Vec<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_pod_gets_one_address_of_each_family_and_keeps_it_until_its_release() {
    let (_folder, store) = store();
    let first = store.reserve(attachment("a"), &dual()).unwrap();
    assert_eq!(first.addresses, ips(&["10.0.0.2", "fd00::2"]));
    assert_eq!(store.get(&id("a")).unwrap().as_ref(), Some(&first));
    store.commit(&id("a")).unwrap();
    let second = store.reserve(attachment("b"), &dual()).unwrap();
    assert_eq!(second.addresses, ips(&["10.0.0.3", "fd00::3"]));
    let wired = Attachment { stage: Stage::Wired, ..first };
    assert_eq!(store.list().unwrap(), [wired.clone(), second]);
    assert_eq!(store.release(&id("a")).unwrap(), Some(wired));
    assert_eq!(store.get(&id("a")).unwrap(), None);
    assert_eq!(store.release(&id("a")).unwrap(), None, "a second release is fine");
}

#[test]
fn what_was_given_back_comes_last() {
    let (folder, mut store) = store();
    let mut seen = Vec::new();
    for round in 0..10 {
        let name = round.to_string();
        seen.push(store.reserve(attachment(&name), &dual()).unwrap().addresses[0].to_string());
        store.release(&id(&name)).unwrap();
        store = Store::open(folder.path()).unwrap();
    }
    let round = ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
    assert_eq!(seen, [round, round].concat());
}

#[test]
fn the_second_range_follows_the_first_and_reserved_addresses_are_passed_over() {
    let (_folder, store) = store();
    let reserved = ips(&["10.0.1.2"]);
    let wish = Wish { reserved, ..wish(&["10.0.0.0/30", "10.0.1.0/29", "fd00::/64", "fd01::/64"]) };
    let taken = ["a", "b"].map(|name| store.reserve(attachment(name), &wish).unwrap().addresses);
    assert_eq!(taken, [ips(&["10.0.0.2", "fd00::2"]), ips(&["10.0.1.3", "fd00::3"])]);
}

#[test]
fn exhaustion_names_the_range_and_its_three_oldest_holders() {
    let (_folder, store) = store();
    for (name, since) in [("a", 40), ("b", 10), ("c", 30), ("d", 20), ("e", 50)] {
        store.reserve(Attachment { since, ..attachment(name) }, &dual()).unwrap();
    }
    let error = store.reserve(attachment("f"), &dual()).unwrap_err();
    let StoreError::Exhausted { ranges, used, oldest } = &error else { panic!("{error}") };
    assert_eq!((ranges, *used), (&wish(&["10.0.0.0/29"]).ranges, 5));
    let oldest: Vec<_> = oldest.iter().map(|holder| holder.pod.name.as_str()).collect();
    assert_eq!(oldest, ["pod-b", "pod-d", "pod-c"]);
    assert!(
        error
            .to_string()
            .starts_with("no free address in 10.0.0.0/29: 5 in use; held for longest by pod shop/")
    );
    assert_eq!(store.list().unwrap().len(), 5);
    store.release(&id("c")).unwrap();
    assert_eq!(store.reserve(attachment("f"), &dual()).unwrap().addresses[0], ips(&["10.0.0.4"])[0]);
}

#[test]
fn without_a_range_nobody_gets_an_address() {
    let (_folder, store) = store();
    assert!(matches!(store.reserve(attachment("a"), &Wish::default()), Err(StoreError::NoRanges)));
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn a_fixed_address_is_given_only_if_it_is_usable_and_free() {
    let (_folder, store) = store();
    for unusable in ["10.0.0.0", "10.0.0.1", "10.0.0.7", "10.0.0.8", "fd00::1", "fd01::2", "10.0.0.6"] {
        let wish = Wish { reserved: ips(&["10.0.0.6"]), ..fixed(&[unusable]) };
        let error = store.reserve(attachment("a"), &wish).unwrap_err();
        assert!(matches!(error, StoreError::Unusable { address, .. } if address == ips(&[unusable])[0]));
    }
    let two = store.reserve(attachment("a"), &fixed(&["10.0.0.2", "10.0.0.3"]));
    assert!(matches!(two, Err(StoreError::TwoOfAFamily { .. })));
    let wanted = ["fd00::77", "10.0.0.5"];
    assert_eq!(store.reserve(attachment("a"), &fixed(&wanted)).unwrap().addresses, ips(&wanted));
    let error = store.reserve(attachment("b"), &fixed(&["10.0.0.5"])).unwrap_err();
    assert_eq!(
        error.to_string().split(" (for").next(),
        Some("address 10.0.0.5 is held by pod shop/pod-a, eth0 of container a")
    );
    assert_eq!(store.list().unwrap().len(), 1, "a refused request leaves nothing");
}

#[test]
fn addresses_of_another_plugin_are_remembered_but_neither_chosen_nor_given_twice() {
    let (_folder, store) = store();
    let theirs = |name| Attachment {
        ipam: Ipam::Delegated("host-local".into()),
        addresses: ips(&["10.0.0.2"]),
        ..attachment(name)
    };
    assert_eq!(store.reserve(theirs("a"), &Wish::default()).unwrap().addresses, ips(&["10.0.0.2"]));
    assert!(matches!(store.reserve(theirs("b"), &Wish::default()), Err(StoreError::Taken { .. })));
    assert_eq!(store.reserve(attachment("c"), &dual()).unwrap().addresses[0], ips(&["10.0.0.3"])[0]);
    store.release(&id("a")).unwrap();
    assert!(store.reserve(theirs("b"), &Wish::default()).is_ok());
}

#[test]
fn the_same_reservation_again_gets_the_same_addresses_and_any_other_is_refused() {
    let (_folder, store) = store();
    let first = store.reserve(attachment("a"), &dual()).unwrap();
    let later = Attachment { since: 2000, ..attachment("a") };
    assert_eq!(store.reserve(later.clone(), &dual()).unwrap(), first);
    assert_eq!(store.reserve(later.clone(), &fixed(&["10.0.0.2", "fd00::2"])).unwrap(), first);
    let netns = NetnsId { cookie: 7, ..first.netns };
    let others = [
        (Attachment { netns, ..attachment("a") }, dual()),
        (with_port("a", ""), dual()),
        (attachment("a"), fixed(&["10.0.0.3"])),
        (attachment("a"), wish(&["10.0.9.0/24", "fd00::/64"])),
    ];
    for (other, wish) in others {
        assert!(matches!(store.reserve(other, &wish), Err(StoreError::Attached { .. })));
    }
    store.commit(&id("a")).unwrap();
    store.commit(&id("a")).unwrap();
    assert!(matches!(store.reserve(later, &dual()), Err(StoreError::Attached { .. })), "it was wired");
    assert_eq!(store.list().unwrap().len(), 1);
}

#[test]
fn a_port_of_the_host_has_one_holder_for_each_address() {
    let (_folder, store) = store();
    store.reserve(attachment("without"), &dual()).unwrap();
    store.reserve(with_port("a", "127.0.0.1"), &dual()).unwrap();
    store.reserve(with_port("b", "192.0.2.1"), &dual()).unwrap();
    let error = store.reserve(with_port("c", ""), &dual()).unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("host port 80/TCP is held by pod shop/pod-"), "{text}");
    let error = store.reserve(with_port("c", "192.0.2.1"), &dual()).unwrap_err().to_string();
    assert!(
        error.starts_with("host port 80/TCP of 192.0.2.1 is held by pod shop/pod-b, eth0 of container b"),
        "{error}"
    );
    store.release(&id("b")).unwrap();
    assert!(store.reserve(with_port("c", "192.0.2.1"), &dual()).is_ok());
}

#[test]
fn two_ids_with_the_same_device_do_not_meet() {
    let (_folder, store) = store();
    store.reserve(attachment("a"), &dual()).unwrap();
    // No two ids with one hash are known, hence the inner function.
    let locked = store.files.write().unwrap();
    let entry = locked.entries().unwrap().remove(0);
    let error = again(&locked, &entry, attachment("b"), &dual()).unwrap_err();
    assert!(matches!(error, StoreError::Collision { id: wanted, .. } if wanted == id("b")));
}

#[test]
fn commit_of_what_was_released_says_so() {
    let (_folder, store) = store();
    assert!(matches!(store.commit(&id("a")), Err(StoreError::Gone(gone)) if gone == id("a")));
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn a_lost_or_damaged_pool_lets_the_round_go_on_after_the_youngest_attachment() {
    for damage in [None, Some(&b"\xff"[..]), Some(b"sheave addresses 1\nlast 10.0.0.")] {
        let (folder, store) = store();
        for (name, since) in [("a", 1), ("b", 2), ("c", 3)] {
            store.reserve(Attachment { since, ..attachment(name) }, &dual()).unwrap();
        }
        let pool = folder.path().join("cni/addresses");
        damage.map_or_else(|| fs::remove_file(&pool), |text| fs::write(&pool, text)).unwrap();
        store.release(&id("a")).unwrap();
        let next = ["d", "e", "f"].map(|name| store.reserve(attachment(name), &dual()).unwrap().addresses[0]);
        assert_eq!(next.as_slice(), ips(&["10.0.0.5", "10.0.0.6", "10.0.0.2"]));
    }
}

#[test]
fn a_damaged_attachment_keeps_its_addresses_until_it_is_released_or_discarded() {
    for text in [&b""[..], b"{", b"\xff\xff", br#"{"containerId":"x"}"#] {
        let (_folder, store) = store();
        store.reserve(attachment("a"), &dual()).unwrap();
        let path = store.folder().join(&files(store.folder())[0]);
        fs::write(&path, text).unwrap();
        assert_eq!(store.get(&id("a")).unwrap(), None);
        assert_eq!(store.list().unwrap(), []);
        assert!(matches!(store.reserve(attachment("a"), &dual()), Err(StoreError::Damaged { .. })));
        assert!(matches!(store.commit(&id("a")), Err(StoreError::Damaged { .. })));
        let error = store.reserve(attachment("b"), &fixed(&["10.0.0.2"])).unwrap_err().to_string();
        assert!(error.contains(&id("a").host_device()), "{error}");
        let damaged = store.damaged().unwrap().remove(0);
        assert_eq!((&damaged.path, &damaged.host_device), (&path, &id("a").host_device()));
        assert_eq!(damaged.addresses, ips(&["10.0.0.2", "fd00::2"]));
        assert!(store.discard(&damaged).unwrap());
        assert!(!store.discard(&damaged).unwrap());
        assert!(store.reserve(attachment("b"), &fixed(&["10.0.0.2"])).is_ok());
        fs::write(store.folder().join(&files(store.folder())[0]), text).unwrap();
        assert_eq!(store.release(&id("b")).unwrap(), None);
        assert_eq!(files(store.folder()), Vec::<String>::new());
        assert_eq!(store.damaged().unwrap(), []);
    }
}

#[test]
fn what_became_another_attachment_meanwhile_is_not_released() {
    let (_folder, store) = store();
    let seen = store.reserve(attachment("a"), &dual()).unwrap();
    store.commit(&id("a")).unwrap();
    assert!(!store.release_unchanged(&seen).unwrap());
    let seen = store.get(&id("a")).unwrap().unwrap();
    assert!(store.release_unchanged(&seen).unwrap());
    assert!(!store.release_unchanged(&seen).unwrap());
}

#[test]
fn a_reboot_ends_every_attachment_where_the_folder_outlives_it() {
    let (folder, store) = store();
    store.reserve(attachment("a"), &dual()).unwrap();
    assert_eq!(Store::open(folder.path()).unwrap().list().unwrap().len(), 1);
    fs::write(folder.path().join("cni/boot"), "another\n").unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!((store.list().unwrap(), files(store.folder())), (Vec::new(), Vec::new()));
    store.reserve(attachment("a"), &dual()).unwrap();
    assert_eq!(Store::open(folder.path()).unwrap().list().unwrap().len(), 1, "it is this boot's");
}

#[test]
fn the_files_of_others_are_left_alone() {
    let (_folder, store) = store();
    for name in ["README", "0123456789abcdef.broken", "0123456789abcdef,10.0.0.2,", "0123456789abcdefg"] {
        fs::write(store.folder().join(name), "").unwrap();
    }
    fs::create_dir(store.folder().join("0123")).unwrap();
    assert_eq!(store.reserve(attachment("a"), &dual()).unwrap().addresses[0], ips(&["10.0.0.2"])[0]);
    assert_eq!((store.list().unwrap().len(), store.damaged().unwrap().len()), (1, 0));
    store.release(&id("a")).unwrap();
    assert_eq!(files(store.folder()).len(), 5);
}

#[test]
fn how_full_ranges_are_and_how_often_none_was_free_is_told() {
    let (_folder, store) = store();
    let ranges: Vec<IpNetwork> = dual().ranges;
    for number in 0..5 {
        store.reserve(attachment(&number.to_string()), &dual()).unwrap();
    }
    let room = store.room(&ranges).unwrap();
    assert_eq!((room[0].range, room[0].capacity, room[0].used), (ranges[0], 5, 5));
    assert_eq!((room[1].capacity, room[1].used), ((1 << 64) - 2, 5));
    assert_eq!(store.exhaustion().unwrap(), Exhaustion::default());
    for count in 1..=2 {
        assert!(matches!(store.reserve(attachment("x"), &dual()), Err(StoreError::Exhausted { .. })));
        let told = store.exhaustion().unwrap();
        assert_eq!((told.count, &told.ranges[..]), (count, &ranges[..1]));
        assert!(told.last > 1_600_000_000);
    }
    store.release(&id("0")).unwrap();
    assert_eq!(store.room(&ranges).unwrap()[0].used, 4);
    store.reserve(attachment("x"), &dual()).unwrap();
    assert_eq!(store.exhaustion().unwrap().count, 2);
}

#[test]
fn the_name_of_a_file_tells_addresses_and_the_folder_their_holders() {
    let (_folder, store) = store();
    let one = store.reserve(attachment("a"), &dual()).unwrap();
    let name = files(store.folder()).remove(0);
    assert_eq!(Store::addresses_in_name(&name), one.addresses);
    assert!(Store::addresses_in_name(".fresh").is_empty());
    let held = store.held().unwrap();
    assert_eq!(
        held.into_iter().collect::<Vec<_>>(),
        one.addresses.iter().map(|it| (*it, id("a").hash())).collect::<Vec<_>>()
    );
}
