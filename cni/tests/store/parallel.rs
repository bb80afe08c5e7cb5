//! Many at once, as a runtime that starts a node's pods.

use std::{env, path::Path, thread};

use tempfile::TempDir;

use super::*;

const MANY: usize = 50;

#[test]
fn fifty_processes_at_once_get_fifty_addresses_and_give_them_back() {
    if let (Some(folder), Ok(part)) = (env::var_os(FOLDER), env::var(PART)) {
        return one(Path::new(&folder), &part);
    }
    let folder = TempDir::new().unwrap();
    let store = open(folder.path());
    all(folder.path(), "add");
    let list = store.list().unwrap();
    assert_eq!(list.len(), MANY);
    assert!(
        list.iter().all(|attachment| attachment.stage == Stage::Wired && attachment.addresses.len() == 2)
    );
    assert_sound(&store);
    all(folder.path(), "delete");
    assert_eq!(store.list().unwrap(), []);
    assert_sound(&store);
}

fn all(folder: &Path, part: &str) {
    let test = "parallel::fifty_processes_at_once_get_fifty_addresses_and_give_them_back";
    let start = |n| process(test, folder, &format!("{part} {n}")).spawn().unwrap();
    let children: Vec<_> = (0..MANY).map(start).collect();
    let ended: Vec<_> = children.into_iter().map(|mut child| child.wait().unwrap()).collect();
    assert!(ended.iter().all(std::process::ExitStatus::success));
}

fn one(folder: &Path, part: &str) {
    let store = open(folder);
    match part.split_once(' ').unwrap() {
        ("add", name) => {
            store.reserve(attachment(name), &wish(&["10.0.0.0/24", "fd00::/64"])).unwrap();
            store.commit(&id(name)).unwrap();
        }
        (_, name) => assert!(store.release(&id(name)).unwrap().is_some()),
    }
}

#[test]
fn threads_that_come_and_go_share_a_range_that_is_just_large_enough() {
    let folder = TempDir::new().unwrap();
    // 29 of IPv4, 30 of IPv6, a thread holds one of each at a time.
    let wish = wish(&["10.0.0.0/27", "fd00::/123"]);
    thread::scope(|scope| {
        for thread in 0..29 {
            let (wish, folder) = (&wish, folder.path());
            scope.spawn(move || {
                for round in 0..20 {
                    let name = format!("{thread}-{round}");
                    let store = open(folder);
                    let reserved = store.reserve(attachment(&name), wish).unwrap();
                    store.commit(&reserved.id).unwrap();
                    assert_eq!(store.get(&reserved.id).unwrap().unwrap().addresses, reserved.addresses);
                    assert_sound(&store);
                    assert!(store.release(&reserved.id).unwrap().is_some());
                }
            });
        }
    });
    assert_eq!(open(folder.path()).list().unwrap(), []);
}
