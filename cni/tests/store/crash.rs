//! A process that is killed at every system call it makes on the store.

use std::{env, fs, os::unix::process::CommandExt, path::Path, sync::mpsc, thread, time::Duration};

use cni::record::{PortMapping, Protocol};
use nix::{
    sys::{
        ptrace::{self, Options},
        signal::{Signal, kill, raise},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};
use tempfile::TempDir;

use super::*;

const TEST: &str = "crash::killed_at_any_system_call_an_operation_is_done_or_was_never_begun";
const OPERATIONS: usize = 7;
/// Of one process.
const DEADLINE: Duration = Duration::from_mins(1);

/// 5 addresses of each family that a pod may have.
fn small() -> Wish {
    Wish { reserved: vec!["fd00::7".parse().unwrap()], ..wish(&["10.0.0.0/29", "fd00::/125"]) }
}

/// Somebody is there, and three addresses were given back, one of them from under the round.
fn prepare(folder: &Path) {
    let store = open(folder);
    for name in ["bystander", "x", "y"] {
        store.reserve(attachment(name), &small()).unwrap();
        store.commit(&id(name)).unwrap();
    }
    store.release(&id("x")).unwrap();
    store.release(&id("y")).unwrap();
}

fn operate(store: &Store, operation: usize) {
    let port = PortMapping { host_port: 80, container_port: 80, protocol: Protocol::Tcp, host_ip: None };
    match operation {
        0 => drop(store.reserve(Attachment { ports: vec![port], ..attachment("a") }, &small()).unwrap()),
        1 => store.commit(&id("a")).unwrap(),
        2 => drop(store.reserve(attachment("b"), &small()).unwrap()),
        3 => drop(store.reserve(attachment("c"), &small()).unwrap()),
        4 => drop(store.release(&id("a")).unwrap().unwrap()),
        5 => drop(store.release(&id("c")).unwrap().unwrap()),
        _ => {
            let fixed = vec!["10.0.0.3".parse().unwrap()];
            drop(store.reserve(attachment("d"), &Wish { fixed, ..small() }));
        }
    }
}

#[test]
fn killed_at_any_system_call_an_operation_is_done_or_was_never_begun() {
    if let Some(folder) = env::var_os(FOLDER) {
        return child(Path::new(&folder));
    }
    let states = states();
    let mut reached = HashSet::new();
    for calls in 0.. {
        let folder = TempDir::new().unwrap();
        prepare(folder.path());
        let finished = run(folder.path(), calls);
        let store = open(folder.path());
        assert_sound(&store);
        let list = store.list().unwrap();
        let state = states.iter().position(|state| *state == list);
        reached.insert(state.unwrap_or_else(|| panic!("after {calls} calls: {list:?}")));
        assert_nothing_leaked(folder.path(), &store);
        if finished {
            break;
        }
    }
    assert_eq!(reached.len(), OPERATIONS + 1, "the process was killed between any two operations");
}

fn child(folder: &Path) {
    raise(Signal::SIGSTOP).unwrap();
    let store = open(folder);
    (0..OPERATIONS).for_each(|operation| operate(&store, operation));
}

/// What is remembered before each operation and after the last.
fn states() -> Vec<Vec<Attachment>> {
    let folder = TempDir::new().unwrap();
    prepare(folder.path());
    let store = open(folder.path());
    let mut states = vec![store.list().unwrap()];
    for operation in 0..OPERATIONS {
        operate(&store, operation);
        states.push(store.list().unwrap());
    }
    states
}

/// Lets the child make so many system calls and kills it at the next. Whether it ended by itself before.
fn run(folder: &Path, calls: usize) -> bool {
    let mut command = process(TEST, folder, "");
    // SAFETY: ptrace is a single system call and may be made between fork and exec.
    unsafe { command.pre_exec(|| ptrace::traceme().map_err(Into::into)) };
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let (ended, end) = mpsc::channel();
    let watchdog = thread::spawn(move || {
        if end.recv_timeout(DEADLINE).is_err() {
            kill(pid, Signal::SIGKILL).unwrap();
        }
    });
    let thread = at_the_beginning(pid);
    let finished = step(thread, calls);
    if !finished {
        child.kill().unwrap();
        waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap();
    }
    assert_eq!(child.wait().unwrap().success(), finished);
    ended.send(()).unwrap();
    watchdog.join().unwrap();
    finished
}

/// The thread that the test harness starts for the test, where it stopped itself.
fn at_the_beginning(process: Pid) -> Pid {
    let wait = |pid| waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
    assert_eq!(wait(process), WaitStatus::Stopped(process, Signal::SIGTRAP));
    let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_EXITKILL | Options::PTRACE_O_TRACECLONE;
    ptrace::setoptions(process, options).unwrap();
    ptrace::cont(process, None).unwrap();
    assert!(
        matches!(wait(process), WaitStatus::PtraceEvent(_, _, event) if event == libc::PTRACE_EVENT_CLONE)
    );
    let thread = Pid::from_raw(i32::try_from(ptrace::getevent(process).unwrap()).unwrap());
    ptrace::cont(process, None).unwrap();
    let stopped = WaitStatus::Stopped(thread, Signal::SIGSTOP);
    assert_eq!(wait(thread), stopped, "every traced thread begins so");
    ptrace::cont(thread, None).unwrap();
    assert_eq!(wait(thread), stopped);
    thread
}

/// Whether the thread ended before it made so many calls. A call has two stops; killed at the first, it is not made.
fn step(thread: Pid, calls: usize) -> bool {
    for _ in 0..=2 * calls {
        ptrace::syscall(thread, None).unwrap();
        match waitpid(thread, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::PtraceSyscall(_) => {}
            WaitStatus::Exited(..) => return true,
            other => panic!("{other:?}"),
        }
    }
    false
}

/// What a runtime does next: it deletes everything. Then every address can be had again.
fn assert_nothing_leaked(folder: &Path, store: &Store) {
    for name in ["a", "b", "c", "d"] {
        store.release(&id(name)).unwrap();
    }
    let left: Vec<_> = store.list().unwrap().into_iter().map(|attachment| attachment.id).collect();
    assert_eq!(left, [id("bystander")]);
    for n in 0..4 {
        store.reserve(attachment(&n.to_string()), &small()).unwrap();
    }
    assert!(store.reserve(attachment("one too many"), &small()).is_err());
    assert_sound(store);
    let mut files: Vec<_> =
        fs::read_dir(folder.join("cni")).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files, ["addresses", "attachments", "boot", "exhausted"], "a file that was begun is used up");
}
