//! Remembers on disk where the API servers are: the endpoints of the Service `kubernetes`.
//!
//! Must not know who reads it.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use proxy_core::model::{Event, ObjectName, SliceObject};

/// The Service that is the API server.
const NAMESPACE: &str = "default";
const SERVICE: &str = "kubernetes";
/// The name of its port.
const PORT: &str = "https";

/// Keeps the file current; see [`ServerMemory::note`].
#[derive(Debug)]
pub struct ServerMemory {
    path: PathBuf,
    slices: BTreeMap<ObjectName, Vec<String>>,
    written: Vec<String>,
}

impl ServerMemory {
    /// With this file, which need not be there.
    pub fn new(path: PathBuf) -> Self {
        Self { path, slices: BTreeMap::new(), written: Vec::new() }
    }

    /// Takes notice of a change, and writes one address `https://HOST:PORT` a line if there are others than before.
    /// Without any, the last ones stay. What cannot be written is logged: it is a precaution.
    pub fn note(&mut self, event: &Event) {
        match event {
            Event::SlicesListed(all) => {
                self.slices = all.iter().filter(|it| is_ours(it)).map(entry).collect();
            }
            Event::SliceApplied(slice) if is_ours(slice) => self.slices.extend([entry(slice)]),
            Event::SliceDeleted(name) if self.slices.remove(name).is_some() => {}
            _ => return,
        }
        let addresses: Vec<String> = self.slices.values().flatten().cloned().collect();
        if addresses.is_empty() || addresses == self.written {
            return;
        }
        match self.write(&addresses) {
            Ok(()) => self.written = addresses,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot remember where the API servers are");
            }
        }
    }

    fn write(&self, addresses: &[String]) -> io::Result<()> {
        let unfinished = self.path.with_extension("temp");
        fs::write(&unfinished, addresses.join("\n") + "\n")?;
        fs::rename(unfinished, &self.path)
    }
}

fn is_ours(slice: &SliceObject) -> bool {
    slice.name.namespace == NAMESPACE && slice.service.as_deref() == Some(SERVICE)
}

fn entry(slice: &SliceObject) -> (ObjectName, Vec<String>) {
    let port = slice.ports.iter().find(|port| port.name.as_deref() == Some(PORT));
    let port = port.and_then(|port| u16::try_from(port.port?).ok());
    let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready.unwrap_or(true));
    let hosts = ready.filter_map(|endpoint| endpoint.addresses.first()?.parse::<IpAddr>().ok());
    let addresses = hosts.filter_map(|host| Some(format!("https://{}", SocketAddr::new(host, port?))));
    (slice.name.clone(), addresses.collect())
}

#[cfg(test)]
mod tests {
    use proxy_core::model::{EndpointObject, SlicePort};

    use super::*;

    fn slice(name: &str, service: &str, hosts: &[&str]) -> SliceObject {
        let endpoint =
            |host: &&str| EndpointObject { addresses: vec![(*host).to_owned()], ..Default::default() };
        SliceObject {
            name: ObjectName::new("default", name),
            service: Some(service.to_owned()),
            ports: vec![SlicePort { name: Some("https".to_owned()), protocol: None, port: Some(6443) }],
            endpoints: hosts.iter().map(endpoint).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn the_endpoints_of_the_service_kubernetes_are_remembered_and_the_last_ones_never_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api-servers");
        let read = || fs::read_to_string(&path).unwrap_or_default();
        let mut memory = ServerMemory::new(path.clone());
        memory.note(&Event::SlicesListed(vec![slice("web-1", "web", &["192.0.2.7"])]));
        assert_eq!(read(), "");
        memory.note(&Event::SlicesListed(vec![slice("kubernetes", "kubernetes", &["192.0.2.1"])]));
        assert_eq!(read(), "https://192.0.2.1:6443\n");
        let two = slice("kubernetes", "kubernetes", &["192.0.2.2", "2001:db8::1"]);
        memory.note(&Event::SliceApplied(Box::new(two)));
        assert_eq!(read(), "https://192.0.2.2:6443\nhttps://[2001:db8::1]:6443\n");
        memory.note(&Event::SliceDeleted(ObjectName::new("default", "kubernetes")));
        assert_eq!(read(), "https://192.0.2.2:6443\nhttps://[2001:db8::1]:6443\n");
    }
}
