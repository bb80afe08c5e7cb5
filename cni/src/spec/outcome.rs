//! The answers to ADD and VERSION, in the form of each version of the specification.
//!
//! Must not know how an attachment came to be.

use std::{net::IpAddr, path::Path};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Version, lookup};
use crate::{record::Attachment, wire::gateway};

/// What a result says of name servers.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Dns {
    /// Addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nameservers: Vec<String>,
    /// The local domain.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub domain: String,
    /// Domains to search.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
    /// Options of the resolver.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
}

impl Dns {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What an ADD did.
#[derive(Clone, Copy, Debug)]
pub struct Added<'a> {
    /// What was attached.
    pub attachment: &'a Attachment,
    /// `CNI_NETNS`.
    pub netns: &'a Path,
    /// Name servers.
    pub dns: &'a Dns,
}

impl Added<'_> {
    /// The result. What earlier plugins of a chain did comes first and stays as it is.
    pub fn document(&self, version: Version, previous: Option<&Value>) -> Value {
        let mut result = Previous::of(previous);
        let first = result.length("interfaces");
        result.append("interfaces", self.interfaces(version));
        result.restate_addresses(version);
        result.append("ips", self.ips(version, first + 1));
        result.append("routes", self.routes());
        if !self.dns.is_empty() && !result.has("dns") {
            result.0.insert("dns".into(), json!(self.dns));
        }
        result.0.insert("cniVersion".into(), version.text().into());
        Value::Object(result.0)
    }

    /// The host's end, then the pod's.
    fn interfaces(&self, version: Version) -> Vec<Value> {
        let it = self.attachment;
        let mut host = json!({"name": it.host_device, "mac": it.host_mac});
        let mut pod = json!({"name": it.id.ifname, "mac": it.pod_mac, "sandbox": self.netns});
        if version >= Version::V1_1_0 {
            for interface in [&mut host, &mut pod].into_iter().filter_map(Value::as_object_mut) {
                interface.insert("mtu".into(), it.mtu.into());
            }
        }
        vec![host, pod]
    }

    fn ips(&self, version: Version, interface: usize) -> Vec<Value> {
        let of = |address: &IpAddr| {
            let length = if address.is_ipv4() { 32 } else { 128 };
            let network = format!("{address}/{length}");
            let mut ip = json!({"address": network, "gateway": gateway(*address), "interface": interface});
            state_family(&mut ip, version);
            ip
        };
        self.attachment.addresses.iter().map(of).collect()
    }

    /// Those in the pod's main table: an interface that has a table of its own made none there.
    fn routes(&self) -> Vec<Value> {
        let of = |address: &IpAddr| {
            let everywhere = if address.is_ipv4() { "0.0.0.0/0" } else { "::/0" };
            json!({"dst": everywhere, "gw": gateway(*address)})
        };
        let by_rule = &self.attachment.by_rule;
        self.attachment.addresses.iter().filter(|address| !by_rule.contains(address)).map(of).collect()
    }
}

/// Before 1.0.0 an address must say its family, since then it must not.
fn state_family(ip: &mut Value, version: Version) {
    let Some(ip) = ip.as_object_mut() else { return };
    if version >= Version::V1_0_0 {
        ip.remove("version");
        return;
    }
    let is_v6 = lookup(ip, "address").and_then(Value::as_str).is_some_and(|text| text.contains(':'));
    ip.insert("version".into(), if is_v6 { "6" } else { "4" }.into());
}

/// The result of the plugins before us. Its keys get the letter case of the specification.
struct Previous(Map<String, Value>);

impl Previous {
    const KEYS: [&str; 5] = ["cniVersion", "interfaces", "ips", "routes", "dns"];

    fn of(previous: Option<&Value>) -> Self {
        let entries = previous.and_then(Value::as_object).into_iter().flatten();
        let proper = |key: &String| {
            let known = Self::KEYS.into_iter().find(|known| known.eq_ignore_ascii_case(key));
            known.map_or_else(|| key.clone(), str::to_owned)
        };
        Self(entries.map(|(key, value)| (proper(key), value.clone())).collect())
    }

    fn has(&self, key: &str) -> bool {
        let empty = |value: &Value| value.is_null() || value.as_object().is_some_and(Map::is_empty);
        self.0.get(key).is_some_and(|value| !empty(value))
    }

    fn length(&self, key: &str) -> usize {
        self.0.get(key).and_then(Value::as_array).map_or(0, Vec::len)
    }

    fn append(&mut self, key: &str, more: Vec<Value>) {
        match self.0.get_mut(key) {
            Some(Value::Array(there)) => there.extend(more),
            _ => {
                self.0.insert(key.into(), more.into());
            }
        }
    }

    fn restate_addresses(&mut self, version: Version) {
        let ips = self.0.get_mut("ips").and_then(Value::as_array_mut);
        ips.into_iter().flatten().for_each(|ip| state_family(ip, version));
    }
}

/// The interface of this name inside of a sandbox, in the result of earlier plugins.
pub fn interface_in<'a>(result: &'a Value, name: &str) -> Option<&'a Map<String, Value>> {
    let interfaces = lookup(result.as_object()?, "interfaces")?.as_array()?;
    let text = |it: &'a Map<String, Value>, key: &str| lookup(it, key).and_then(Value::as_str).unwrap_or("");
    let is_it = |it: &&'a Map<String, Value>| text(it, "name") == name && !text(it, "sandbox").is_empty();
    interfaces.iter().filter_map(Value::as_object).find(is_it)
}

/// The answer to VERSION: it says the version that was asked with, whatever it is.
pub fn version_answer(request: &Value) -> Value {
    let asked = request.as_object().and_then(|it| lookup(it, "cniVersion")).and_then(Value::as_str);
    let version = asked.filter(|text| !text.is_empty()).unwrap_or(Version::NEWEST.text());
    json!({"cniVersion": version, "supportedVersions": Version::texts()})
}

#[cfg(test)]
#[path = "outcome_tests.rs"]
mod tests;
