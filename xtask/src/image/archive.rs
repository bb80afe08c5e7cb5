//! An OCI image layout in a tar file: <https://github.com/opencontainers/image-spec>.
//!
//! Everything in it is a function of its contents: no clock, no user, no order but the one written here. Must not know
//! how the programs were built.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::Origin;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Where the programs lie in the image.
const BIN: &str = "usr/bin";

/// What goes into an image.
pub(super) struct Contents<'a> {
    /// Name and bytes; the first is what a container runs.
    pub(super) programs: &'a [(String, Vec<u8>)],
    /// As images call it.
    pub(super) arch: &'a str,
    /// The whole name with the tag.
    pub(super) reference: &'a str,
    pub(super) origin: &'a Origin,
}

/// Blobs by their digests.
#[derive(Default)]
struct Blobs(BTreeMap<String, Vec<u8>>);

/// What leads to a blob.
struct Descriptor {
    media_type: &'static str,
    digest: String,
    size: usize,
}

impl Descriptor {
    fn json(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.size })
    }
}

impl Blobs {
    /// Keeps the blob.
    fn put(&mut self, media_type: &'static str, blob: Vec<u8>) -> Descriptor {
        let (hex, size) = (hex_digest(&blob), blob.len());
        let digest = format!("sha256:{hex}");
        self.0.insert(hex, blob);
        Descriptor { media_type, digest, size }
    }
}

/// The archive's bytes.
///
/// # Errors
/// A name is too long for a tar file.
pub(super) fn image(contents: &Contents<'_>) -> Result<Vec<u8>> {
    let mut blobs = Blobs::default();
    let layer = blobs.put(LAYER, layer(contents)?);
    let config = blobs.put(CONFIG, config(contents, &layer).to_string().into_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": config.json(),
        "layers": [layer.json()],
        "annotations": labels(contents.origin),
    });
    let manifest = blobs.put(MANIFEST, manifest.to_string().into_bytes());
    // The first is the specification's, which wants the tag; the second is containerd's, which wants the whole name.
    let tag = contents.reference.rsplit(':').next().unwrap_or_default();
    let entry = json!({
        "mediaType": manifest.media_type,
        "digest": manifest.digest,
        "size": manifest.size,
        "platform": { "architecture": contents.arch, "os": "linux" },
        "annotations": {
            "io.containerd.image.name": contents.reference,
            "org.opencontainers.image.ref.name": tag,
        },
    });
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [entry] });
    layout(&blobs, &index)
}

fn layout(blobs: &Blobs, index: &Value) -> Result<Vec<u8>> {
    let mut archive = Builder::new(Vec::new());
    folder(&mut archive, "blobs/", 0)?;
    folder(&mut archive, "blobs/sha256/", 0)?;
    for (digest, blob) in &blobs.0 {
        file(&mut archive, &format!("blobs/sha256/{digest}"), blob, 0o644, 0)?;
    }
    file(&mut archive, "index.json", index.to_string().as_bytes(), 0o644, 0)?;
    file(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#, 0o644, 0)?;
    Ok(archive.into_inner()?)
}

fn layer(contents: &Contents<'_>) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    let time = contents.origin.time;
    folder(&mut layer, "usr/", time)?;
    folder(&mut layer, &format!("{BIN}/"), time)?;
    for (name, bytes) in contents.programs {
        file(&mut layer, &format!("{BIN}/{name}"), bytes, 0o755, time)?;
    }
    Ok(layer.into_inner()?)
}

fn config(contents: &Contents<'_>, layer: &Descriptor) -> Value {
    let created = contents.origin.written_time();
    let program: Vec<String> =
        contents.programs.iter().take(1).map(|(name, _)| format!("/{BIN}/{name}")).collect();
    json!({
        "created": created,
        "architecture": contents.arch,
        "os": "linux",
        "config": {
            "Entrypoint": program,
            "Env": [format!("PATH=/{BIN}")],
            "Labels": labels(contents.origin),
        },
        // The layer is not compressed, so this is its digest, too.
        "rootfs": { "type": "layers", "diff_ids": [layer.digest] },
        "history": [{ "created": created, "created_by": "cargo xtask image" }],
    })
}

/// <https://github.com/opencontainers/image-spec/blob/main/annotations.md>
fn labels(origin: &Origin) -> Value {
    json!({
        "org.opencontainers.image.created": origin.written_time(),
        "org.opencontainers.image.description": "Kubernetes Services and pod networking by eBPF: agent, CLI, CNI plugin",
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.revision": origin.revision,
        "org.opencontainers.image.title": "Sheave",
        "org.opencontainers.image.version": origin.version,
    })
}

fn folder(archive: &mut Builder<impl io::Write>, path: &str, time: u64) -> Result<()> {
    let mut header = header(EntryType::Directory, 0o755, time);
    Ok(archive.append_data(&mut header, path, [].as_slice())?)
}

fn file(archive: &mut Builder<impl io::Write>, path: &str, bytes: &[u8], mode: u32, time: u64) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, time);
    header.set_size(bytes.len() as u64);
    Ok(archive.append_data(&mut header, path, bytes)?)
}

fn header(kind: EntryType, mode: u32, time: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(time);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(0);
    header
}

/// SHA-256 in lower case.
pub(super) fn hex_digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Two digits a byte.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn sample(programs: &[(String, Vec<u8>)]) -> Vec<u8> {
        let origin = Origin { version: "1.2.3".into(), revision: "abc".into(), time: 86_400 };
        let reference = "localhost/sheave:1.2.3";
        image(&Contents { programs, arch: "amd64", reference, origin: &origin }).unwrap()
    }

    fn programs() -> Vec<(String, Vec<u8>)> {
        vec![("sheave".into(), b"agent".to_vec()), ("sheave-cni".into(), b"plugin".to_vec())]
    }

    fn entries(archive: &[u8]) -> BTreeMap<String, (Vec<u8>, Header)> {
        let mut archive = tar::Archive::new(archive);
        let read = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            (entry.path().unwrap().display().to_string(), (bytes, entry.header().clone()))
        };
        archive.entries().unwrap().map(read).collect()
    }

    fn blob(entries: &BTreeMap<String, (Vec<u8>, Header)>, descriptor: &Value) -> Vec<u8> {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let (bytes, _) = &entries[&format!("blobs/sha256/{digest}")];
        assert_eq!(hex_digest(bytes), digest);
        assert_eq!(descriptor["size"], bytes.len());
        bytes.clone()
    }

    #[test]
    fn each_descriptor_leads_to_a_blob_of_its_size_and_digest_down_to_the_programs() {
        let entries_of_image = entries(&sample(&programs()));
        let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        let index = json(&entries_of_image["index.json"].0);
        let manifest = json(&blob(&entries_of_image, &index["manifests"][0]));
        let config = json(&blob(&entries_of_image, &manifest["config"]));
        let layer = blob(&entries_of_image, &manifest["layers"][0]);
        assert_eq!(config["rootfs"]["diff_ids"][0], manifest["layers"][0]["digest"]);
        assert_eq!(config["config"]["Entrypoint"][0], "/usr/bin/sheave");
        assert_eq!(config["config"]["Labels"]["org.opencontainers.image.created"], "1970-01-02T00:00:00Z");
        let files = entries(&layer);
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["usr/", "usr/bin/", "usr/bin/sheave", "usr/bin/sheave-cni"]
        );
        let (bytes, header) = &files["usr/bin/sheave-cni"];
        assert_eq!((bytes.as_slice(), header.mode().unwrap()), (b"plugin".as_slice(), 0o755));
        assert_eq!((header.uid().unwrap(), header.mtime().unwrap()), (0, 86_400));
    }

    #[test]
    fn the_same_contents_give_the_same_bytes_and_others_do_not() {
        assert_eq!(sample(&programs()), sample(&programs()));
        let mut others = programs();
        others[1].1 = b"another".to_vec();
        assert_ne!(sample(&programs()), sample(&others));
    }
}
