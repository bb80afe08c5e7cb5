//! What somebody asked for: kept with the cluster, for whoever asks later what it is.
//!
//! Must not know: how it comes about.

use std::fs;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;
use serde::{Deserialize, Serialize};

use crate::claim::advice;
use crate::layout::{Families, Folders};

/// Who serves Services, and with whom pods get their network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Proxy {
    /// Sheave for both.
    Sheave,
    /// The real kube-proxy with nftables, and the reference CNI plugins.
    KubeProxyNftables,
    /// The real kube-proxy with iptables, and the reference CNI plugins.
    KubeProxyIptables,
}

impl Proxy {
    /// As on the command line.
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// How Sheave comes onto the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Install {
    /// As a user does it: image, chart, DaemonSet.
    Daemonset,
    /// As programs of the machines, with the rights of the administrator: no image has to be made.
    Process,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// How many nodes, 1 to 9.
    pub(crate) nodes: u8,
    /// Who serves Services.
    pub(crate) proxy: Proxy,
    /// How Sheave comes onto the nodes.
    pub(crate) install: Install,
    /// Sheave's `--routing`.
    pub(crate) routing: String,
    /// Sheave's `--socket-lb`.
    pub(crate) socket_lb: String,
    /// The order of families.
    pub(crate) families: Families,
}

impl Default for Spec {
    fn default() -> Self {
        let words = |text: &str| text.to_owned();
        Self {
            nodes: 2,
            proxy: Proxy::Sheave,
            install: Install::Daemonset,
            routing: words("auto"),
            socket_lb: words("all"),
            families: Families::V4First,
        }
    }
}

impl Spec {
    /// In a few words that can name a folder.
    pub(crate) fn title(&self) -> String {
        let Self { nodes, proxy, install: _, routing, socket_lb, families } = self;
        let proxy = proxy.name();
        let settings = match self.proxy {
            Proxy::Sheave => format!("-routing-{routing}-socket-lb-{socket_lb}"),
            Proxy::KubeProxyNftables | Proxy::KubeProxyIptables => String::new(),
        };
        let [first, _] = families.order(["ipv4", "ipv6"]);
        format!("{proxy}-{nodes}-nodes{settings}-{first}-first")
    }

    /// The cluster that has this title; how Sheave was installed is not in it.
    pub(crate) fn of_title(title: &str) -> Option<Self> {
        let named = |proxy: &Proxy| title.strip_prefix(&format!("{}-", proxy.name()));
        let (proxy, rest) = Proxy::value_variants().iter().find_map(|proxy| Some((*proxy, named(proxy)?)))?;
        let (nodes, rest) = rest.split_once("-nodes-")?;
        let (families, settings) = [(Families::V4First, "ipv4-first"), (Families::V6First, "ipv6-first")]
            .into_iter()
            .find_map(|(families, words)| Some((families, rest.strip_suffix(words)?)))?;
        let mut spec = Self { nodes: nodes.parse().ok()?, proxy, families, ..Self::default() };
        if proxy == Proxy::Sheave {
            let settings = settings.strip_prefix("routing-")?.strip_suffix('-')?;
            let (routing, socket_lb) = settings.split_once("-socket-lb-")?;
            (spec.routing, spec.socket_lb) = (routing.to_owned(), socket_lb.to_owned());
        }
        (spec.title() == title).then_some(spec)
    }

    /// What was chosen besides the proxy, for people.
    pub(crate) fn settings(&self) -> String {
        let [first, _] = self.families.order(["IPv4", "IPv6"]);
        let common = format!("{} nodes, {first} first", self.nodes);
        match self.proxy {
            Proxy::Sheave => format!("{common}, --routing {}, --socket-lb {}", self.routing, self.socket_lb),
            Proxy::KubeProxyNftables | Proxy::KubeProxyIptables => common,
        }
    }

    /// # Errors
    /// The folder cannot be written to.
    pub(crate) fn keep(&self, folders: &Folders) -> Result<()> {
        Ok(fs::write(folders.of_run("spec.json"), serde_json::to_string_pretty(self)?)?)
    }

    /// That of the running cluster.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn of_run(folders: &Folders) -> Result<Self> {
        let text = fs::read_to_string(folders.of_run("spec.json"))
            .with_context(|| format!("no cluster of this checkout is up: {}", advice(folders)))?;
        Ok(serde_json::from_str(&text)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_says_again_what_the_cluster_was() {
        let words = |routing: &str, socket_lb: &str| (routing.to_owned(), socket_lb.to_owned());
        let ((routing, socket_lb), families) = (words("vxlan", "off"), Families::V6First);
        let tunnelled = Spec { nodes: 3, routing, socket_lb, families, ..Spec::default() };
        let baseline = Spec { proxy: Proxy::KubeProxyNftables, ..Spec::default() };
        for spec in [Spec::default(), tunnelled, baseline] {
            let again = Spec::of_title(&spec.title()).unwrap();
            assert_eq!((again.title(), again.settings()), (spec.title(), spec.settings()));
        }
        for title in ["logs", "sheave-2-nodes-ipv4-first", "kube-proxy-nftables-x-nodes-ipv4-first"] {
            assert!(Spec::of_title(title).is_none(), "{title}");
        }
    }
}
