//! The bpf file system of a node as a container on it finds, mounts or misses it.

use std::process::{Command, Output};

use sheave_tests::agent;

/// Process 1 of a node on which none is mounted; the words run on it as in a container, with mounts of their own.
const NODE: &str = r#"
while [ "$(stat -f -c %T /sys/fs/bpf)" = bpf_fs ]; do umount /sys/fs/bpf; done
code=0
unshare --mount -- "$@" || code=$?
stat -f -c 'the node has %T' /sys/fs/bpf
exit $code
"#;

fn in_a_container(words: &[&str]) -> Output {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation", "private"]);
    command.args(["--", "sh", "-euc", NODE, "sh"]).args(words).output().unwrap()
}

fn sheave() -> String {
    agent::binary().unwrap().display().to_string()
}

#[test]
fn mount_bpffs_mounts_it_where_process_1_is_and_only_if_there_is_none() {
    let twice = r#""$0" mount-bpffs && "$0" mount-bpffs"#;
    let output = in_a_container(&["sh", "-c", twice, &sheave()]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = "mounted /sys/fs/bpf\nunchanged /sys/fs/bpf\nthe node has bpf_fs\n";
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

/// Pins on one of its own would go with the container, and the CNI plugin would not see them.
#[test]
fn an_agent_in_a_container_does_not_start_on_a_bpf_file_system_that_only_it_would_see() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let agent = sheave();
    let words =
        ["timeout", "60", &agent, "agent", "--node-name", "a", "--manifests", path, "--run-dir", path];
    let output = in_a_container(&words);
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("`sheave mount-bpffs`"), "{error}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "the node has sysfs\n");
}
