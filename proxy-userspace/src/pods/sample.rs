//! An attachment to test with.

use cni::record::{Attachment, AttachmentId, NetnsId, PodRef, PortMapping, Protocol, Stage};

/// Of pod `ns/NAME`, in the network namespace with cookie 7.
pub(crate) fn attachment(container_id: &str, name: &str) -> Attachment {
    let id = AttachmentId { container_id: container_id.to_owned(), ifname: "eth0".to_owned() };
    Attachment {
        network: "sheave".to_owned(),
        stage: Stage::Wired,
        since: 1,
        netns: NetnsId { device: 4, inode: 5, cookie: 7 },
        netns_path: "/run/netns/none".into(),
        addresses: vec!["10.1.0.9".parse().unwrap(), "fd01::9".parse().unwrap()],
        mtu: 1500,
        pod: PodRef { namespace: "ns".to_owned(), name: name.to_owned(), uid: String::new() },
        ..Attachment::of(id)
    }
}

/// A TCP port on every address, for port 8080 of the pod.
pub(crate) fn port(host_port: u16) -> PortMapping {
    PortMapping { host_port, container_port: 8080, protocol: Protocol::Tcp, host_ip: None }
}
