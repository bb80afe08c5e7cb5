//! What only ADD reads: wishes for the attachment, from the configuration, the runtime and `CNI_ARGS`.
//!
//! Where several say the same thing `runtimeConfig` goes first, then `args.cni`, then `CNI_ARGS`, as in the reference
//! plugins. Must not know the node.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::{ConfigError, Network, args::Args, field::Field, runtime};
use crate::{
    record::{Bandwidth, Mac, PodRef, PortMapping},
    spec::Dns,
};

/// Smallest MTU that carries IPv6 (RFC 8200, section 5).
const SMALLEST_MTU: u32 = 1280;
const MTU: &str = "0 (the node's) or a number of bytes from 1280 to 65535";
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";
/// The annotation that has a pod's connections translated packet by packet.
const SOCKET_LB: &str = "sheave.io/socket-lb";

/// The wishes.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// `mtu`; `None`: the node's.
    pub mtu: Option<u32>,
    /// MAC address of the pod's end; `None`: one of ours.
    pub mac: Option<Mac>,
    /// Exactly these addresses, at most one of each family.
    pub fixed: Vec<IpAddr>,
    /// Addresses from these; empty: from the node's ranges.
    pub ranges: Vec<IpNetwork>,
    /// Addresses that are not to be given.
    pub reserved: Vec<IpAddr>,
    /// Ports of the host.
    pub ports: Vec<PortMapping>,
    /// Limits.
    pub bandwidth: Bandwidth,
    /// Name servers for the result.
    pub dns: Dns,
    /// The pod's sockets are not to be translated.
    pub socket_lb_off: bool,
    /// The pod.
    pub pod: PodRef,
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn read(network: &Network, args: &str) -> Result<Self, ConfigError> {
        let args = Args::parse(args)?;
        let root = network.root();
        let wishes = Wishes { runtime: root.get("runtimeConfig")?, by_hand: by_hand(&root)?, args: &args };
        let runtime = wishes.runtime.as_ref();
        refuse_devices(runtime)?;
        let (ranges, reserved) = runtime::ranges(asked(runtime, "ipRanges")?)?;
        Ok(Self {
            mtu: mtu(&root)?,
            mac: wishes.mac()?,
            fixed: wishes.fixed()?,
            ranges,
            reserved,
            ports: runtime::ports(asked(runtime, "portMappings")?)?,
            bandwidth: runtime::bandwidth(asked(runtime, "bandwidth")?)?,
            dns: runtime::dns(root.get("dns")?.as_ref(), asked(runtime, "dns")?.as_ref())?,
            socket_lb_off: socket_lb_off(runtime)?,
            pod: args.pod(),
        })
    }
}

/// A key of `runtimeConfig`.
fn asked<'a>(runtime: Option<&Field<'a>>, key: &str) -> Result<Option<Field<'a>>, ConfigError> {
    runtime.map_or(Ok(None), |runtime| runtime.get(key))
}

fn by_hand<'a>(root: &Field<'a>) -> Result<Option<Field<'a>>, ConfigError> {
    root.get("args")?.map_or(Ok(None), |args| args.get("cni"))
}

fn mtu(root: &Field<'_>) -> Result<Option<u32>, ConfigError> {
    let Some(field) = root.get("mtu")? else { return Ok(None) };
    match field.number()? {
        0 => Ok(None),
        mtu => match u32::try_from(mtu) {
            Ok(mtu) if (SMALLEST_MTU..=u32::from(u16::MAX)).contains(&mtu) => Ok(Some(mtu)),
            _ => Err(field.wrong(MTU)),
        },
    }
}

/// Devices of the host cannot be moved into pods: who asks for one must not get a pod without.
fn refuse_devices(runtime: Option<&Field<'_>>) -> Result<(), ConfigError> {
    for key in ["deviceID", "infinibandGUID"] {
        let field = asked(runtime, key)?.filter(|field| field.value().as_str() != Some(""));
        if let Some(field) = field {
            return Err(field.unsupported("remove the capability, or use a plugin that moves devices"));
        }
    }
    Ok(())
}

fn socket_lb_off(runtime: Option<&Field<'_>>) -> Result<bool, ConfigError> {
    let Some(annotations) = asked(runtime, ANNOTATIONS)? else { return Ok(false) };
    let Some(value) = annotations.get(SOCKET_LB)? else { return Ok(false) };
    match value.text()? {
        "off" => Ok(true),
        "on" | "" => Ok(false),
        _ => Err(value.wrong("`on` or `off`")),
    }
}

/// Wishes that may be said in three places.
struct Wishes<'a> {
    runtime: Option<Field<'a>>,
    by_hand: Option<Field<'a>>,
    args: &'a Args<'a>,
}

impl<'a> Wishes<'a> {
    fn written(&self, key: &str) -> Result<Option<Field<'a>>, ConfigError> {
        match asked(self.runtime.as_ref(), key)? {
            Some(field) => Ok(Some(field)),
            None => asked(self.by_hand.as_ref(), key),
        }
    }

    fn mac(&self) -> Result<Option<Mac>, ConfigError> {
        if let Some(field) = self.written("mac")?.filter(|field| field.value().as_str() != Some("")) {
            let mac: Mac = field.parse(runtime::MAC)?;
            return if runtime::is_unicast(mac) { Ok(Some(mac)) } else { Err(field.wrong(runtime::MAC)) };
        }
        let Some(text) = self.args.get("MAC") else { return Ok(None) };
        match text.parse() {
            Ok(mac) if runtime::is_unicast(mac) => Ok(Some(mac)),
            _ => Err(wrong_argument("MAC", text, runtime::MAC)),
        }
    }

    fn fixed(&self) -> Result<Vec<IpAddr>, ConfigError> {
        if let Some(field) = self.written("ips")? {
            return runtime::addresses(&field);
        }
        let texts = self.args.get("IP").into_iter().flat_map(|list| list.split(','));
        let address =
            |text: &str| runtime::address(text).ok_or_else(|| wrong_argument("IP", text, runtime::ADDRESS));
        let found = texts.map(address).collect::<Result<Vec<_>, _>>()?;
        runtime::one_of_each_family(found).map_err(|reason| conflicting("IP", reason))
    }
}

fn wrong_argument(key: &str, value: &str, expected: &'static str) -> ConfigError {
    ConfigError::Wrong { field: format!("{key} of CNI_ARGS"), value: value.to_owned(), expected }
}

fn conflicting(key: &str, reason: String) -> ConfigError {
    ConfigError::Conflict { field: format!("{key} of CNI_ARGS"), reason }
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
