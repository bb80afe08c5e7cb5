//! An attachment for the tests beside the code.
//!
//! Must not know any kernel.

use std::path::Path;

use proxy_common::ENDPOINT_SCHEMA_HASH;

use super::plan::Pair;
use crate::{
    facts::{PathPins, Pins},
    record::{Attachment, AttachmentId, NetnsId},
};

/// A pod with an address of each family.
pub(super) fn dual_stack() -> Attachment {
    let id = AttachmentId { container_id: "sample".into(), ifname: "eth0".into() };
    Attachment {
        network: "sheave".into(),
        netns: NetnsId { device: 4, inode: 4_026_532_000, cookie: 77 },
        netns_path: "/run/netns/sample".into(),
        addresses: vec!["10.244.1.5".parse().unwrap(), "fd00:10:244:1::5".parse().unwrap()],
        mtu: 1450,
        ..Attachment::of(id)
    }
}

/// The pair of [`dual_stack`].
pub(super) fn pair() -> Pair {
    let Attachment { id, host_device, host_mac, pod_mac, mtu, .. } = dual_stack();
    Pair { host_device, ifname: id.ifname, host_mac, pod_mac, mtu }
}

/// Where everything is pinned below a folder.
pub(super) fn pins(folder: &Path) -> Pins {
    Pins {
        schema: ENDPOINT_SCHEMA_HASH,
        endpoints: folder.join("endpoints"),
        packet_only: folder.join("packet_only"),
        guard_ingress: folder.join("guard_ingress"),
        guard_egress: folder.join("guard_egress"),
        path: Some(PathPins { ingress: folder.join("pod_ingress"), egress: folder.join("pod_egress") }),
    }
}
