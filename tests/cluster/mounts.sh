# The file system of a machine of the cluster: the host's, with folders of its own laid over those that its programs
# write to. Process 1 of new namespaces that pass nothing back; stays and holds them.
# $1 is the machine's name, $2 its folder, $3 its cgroup (version 2).
hostname "$1"
# A real machine shares its mounts with its containers; kubelet and CNI plugins rely on it.
mount --make-rshared /
mkdir -p "$2/own" "$2/containerd" "$2/kubelet"
mount -t tmpfs -o mode=755 own "$2/own"
# Kubelet sets these for the whole kernel, whatever its namespaces: it finds them as it wants them, and the host's stay.
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    name="${setting%=*}"
    file="$2/own/${name##*/}"
    echo "${setting#*=}" > "$file"
    mount --bind "$file" "/proc/sys/$name"
done
for folder in etc opt var/lib var/log; do
    mkdir -p "$2/own/$folder" "$2/own/overlay/$folder"
    mount -t overlay -o "lowerdir=/$folder,upperdir=$2/own/$folder,workdir=$2/own/overlay/$folder" overlay "/$folder"
done
mount -t tmpfs -o mode=755 run /run
mkdir -p /run/lock /run/netns /run/containerd /run/sheave /run/cgroup
# A real machine has a hierarchy of its own; this one has a part of the host's, under a name that all machines share.
mount --bind "$3" /run/cgroup
mkdir -p /var/lib/containerd /var/lib/kubelet /var/lib/cni /var/log/pods /var/log/containers
mkdir -p /opt/cni/bin /etc/cni/net.d
rm -f /etc/cni/net.d/*
mount --bind "$2/containerd" /var/lib/containerd
mount --bind "$2/kubelet" /var/lib/kubelet
# Whoever needs a bpf file system on a node brings it; the host's is none of the machine's business.
while [ "$(stat -f -c %T /sys/fs/bpf)" = bpf_fs ]; do umount /sys/fs/bpf; done
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 %s\n' "$1" > "$2/own/hosts"
printf 'nameserver 172.30.0.1\n' > "$2/own/resolv.conf"
# In place: both may be mounts or links already.
mount --bind "$2/own/hosts" /etc/hosts
mount --bind "$2/own/resolv.conf" /etc/resolv.conf
touch "$2/ready"
# Waiting takes in also what others leave behind: containerd's shims have no other parent.
sleep infinity &
wait
