//! The store from outside: against a model, killed at every system call, from many processes at once. No privileges.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "a test stops at the first surprise; a target of its own exports nothing"
)]

mod crash;
mod model;
mod parallel;

use std::{
    collections::HashSet,
    env,
    path::Path,
    process::{Command, Stdio},
};

use cni::{
    record::{Attachment, AttachmentId, NetnsId, Stage},
    store::{Store, Wish},
};

/// Tells a process of ours in which run folder it is to do its part of a test.
const FOLDER: &str = "SHEAVE_STORE_TEST_FOLDER";
/// And which part.
const PART: &str = "SHEAVE_STORE_TEST_PART";

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
        ..Attachment::of(id(container))
    }
}

fn wish(ranges: &[&str]) -> Wish {
    Wish { ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(), ..Wish::default() }
}

fn open(folder: &Path) -> Store {
    Store::open(folder).unwrap()
}

/// This program again, to do a part of the named test in a process of its own.
fn process(test: &str, folder: &Path, part: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command
        .args([test, "--exact", "--test-threads=1", "--quiet"])
        .env(FOLDER, folder)
        .env(PART, part)
        .stdout(Stdio::null());
    command
}

/// Every file is whole and no address has two holders.
fn assert_sound(store: &Store) {
    assert_eq!(store.damaged().unwrap(), []);
    let mut seen = HashSet::new();
    for attachment in store.list().unwrap() {
        for address in attachment.addresses {
            assert!(seen.insert(address), "{address} has two holders");
        }
    }
}
