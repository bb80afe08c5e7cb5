//! Bringing a cluster up: the parts in the order in which they need each other.
//!
//! Must not know: how any of them is made.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use sheave_tests::wait::wait_for;

use crate::cgroups::Cgroups;
use crate::claim::Claim;
use crate::control::Control;
use crate::layout::{CONTROL, DNS, Folders, node_name};
use crate::node::{Node, make_link};
use crate::place::Place;
use crate::spec::{Proxy, Spec};
use crate::{cloud, images, kube_proxy, sheave};

const READY_LIMIT: Duration = Duration::from_mins(3);

/// Brings it up and waits until its nodes and its DNS are ready.
///
/// # Errors
/// One is up already, or a part does not start within a bounded time; what there is stays to be looked at.
pub(crate) fn up(folders: &Folders, claim: &mut Claim, spec: &Spec) -> Result<()> {
    let cgroups = Cgroups::locate()?;
    if cgroups.exist() {
        let owner = claim.owner().map_or_else(String::new, |owner| format!(" of {}", owner.display()));
        bail!("a cluster{owner} is up, or was left half-way: cargo xtask cluster down");
    }
    // Machines lay folders of their own over these.
    let hidden = ["/etc", "/opt", "/run", "/var/lib", "/var/log"];
    ensure!(
        !hidden.iter().any(|it| folders.state().starts_with(it)),
        "the repository must not lie below {hidden:?}"
    );
    let start = Instant::now();
    let archives = images::prepare(folders)?;
    let say = |what: &str| println!("{:6.1} s  {what}", start.elapsed().as_secs_f64());
    if folders.state().exists() {
        // Without groups, what is left is of before a restart of this machine.
        fs::remove_dir_all(folders.state())?;
    }
    fs::create_dir_all(folders.state())?;
    spec.keep(folders)?;
    claim.own()?;
    let control = Place::make(folders, &cgroups, CONTROL)?;
    make_link(&control)?;
    let nodes = (1..=spec.nodes).map(|number| {
        let node = Node { number, place: Place::make(folders, &cgroups, &node_name(number))? };
        node.connect(&control)?;
        Ok(node)
    });
    let nodes = nodes.collect::<Result<Vec<_>>>()?;
    say("machines");
    let control =
        Control { place: &control, cgroups: &cgroups, folders, families: spec.families, nodes: spec.nodes };
    std::thread::scope(|scope| -> Result<()> {
        let filling = nodes.iter().map(|node| {
            let (cgroups, archives) = (&cgroups, &archives);
            scope.spawn(move || -> Result<()> {
                node.add_loopback_plugin()?;
                node.start_containerd(folders, cgroups)?;
                archives.iter().try_for_each(|archive| node.load_image(archive))
            })
        });
        let filling: Vec<_> = filling.collect();
        control.start()?;
        say("control plane");
        for thread in filling {
            thread.join().map_err(|_| anyhow::anyhow!("a thread that fills a node panicked"))??;
        }
        Ok(())
    })?;
    say("containerd and images");
    for node in &nodes {
        node.start_kubelet(folders, &cgroups, spec.families)?;
    }
    control.apply("coredns", &dns(spec))?;
    for node in &nodes {
        wait_for(format!("{} is registered and has pod addresses", node.place.name), READY_LIMIT, || {
            Ok(control.pod_ranges(&node.place.name).ok())
        })?;
        control.route_to(node)?;
    }
    say("nodes are registered");
    start_proxy(&control, spec, &nodes)?;
    cloud::start(&control)?;
    say("proxy");
    wait_until_ready(&control)?;
    say("ready: cargo xtask cluster kubectl get pods -A");
    Ok(())
}

fn dns(spec: &Spec) -> String {
    let [first, second] = spec.families.order(DNS);
    include_str!("manifests/coredns.yaml").replace("@FIRST@", first).replace("@SECOND@", second)
}

fn start_proxy(control: &Control<'_>, spec: &Spec, nodes: &[Node]) -> Result<()> {
    match spec.proxy {
        Proxy::Sheave => sheave::install(control, spec, nodes),
        Proxy::KubeProxyNftables => {
            nodes.iter().try_for_each(|node| kube_proxy::start(control, node, nodes, "nftables"))
        }
        Proxy::KubeProxyIptables => {
            nodes.iter().try_for_each(|node| kube_proxy::start(control, node, nodes, "iptables"))
        }
    }
}

fn wait_until_ready(control: &Control<'_>) -> Result<()> {
    let limit = format!("--timeout={}s", READY_LIMIT.as_secs());
    control
        .kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", &limit])
        .context("the nodes are not ready")?;
    control
        .kubectl(&["-n", "kube-system", "rollout", "status", "deployment/coredns", &limit])
        .context("the cluster's DNS is not ready")?;
    Ok(())
}
