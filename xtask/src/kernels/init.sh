#!/bin/busybox sh
# The first process of a kernel under test. What follows this text calls `run` for each test program and then `finish`.
/bin/busybox --install -s /bin
# Programs with all their options before those of busybox.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /run
ip link set lo up
echo "kernel $(uname -r)"
export RUST_TEST_THREADS=1
status=0

run() {
    echo "== $*"
    # Its cases know flows that are two minutes old, and the kernel's clock begins with the kernel.
    case "$1" in
    */fixtures-*) until [ "$(cut -d. -f1 /proc/uptime)" -gt 120 ]; do sleep 1; done ;;
    esac
    # Not to the serial line itself: it would be somebody's terminal.
    "$@" </dev/null 2>&1
    code=$?
    # A filter may leave a program without tests; it ends well then.
    if [ "$code" -ne 0 ]; then
        status=$code
        echo "== exit $code: $*"
    fi
}

finish() {
    echo "verdict $status after $(cut -d. -f1 /proc/uptime) s"
    poweroff -f
}
