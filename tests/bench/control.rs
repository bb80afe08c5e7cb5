//! From the API server to the kernel: initial synchronisation, one change, and what the agent weighs.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{HashMap, Map, MapData};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use proxy_common::{Ipv4Be, PortBe, Protocol, Scope, ServiceKey, ServiceValue};
use serde_json::{Value, json};
use sheave_tests::agent::Agent;
use sheave_tests::bpffs::BpfFs;
use sheave_tests::cgroup::Cgroup;
use sheave_tests::cluster::Cluster;
use sheave_tests::controlplane::{ControlPlane, User};

use crate::statistics::Samples;

/// Requests to the API server under way at once while the cluster is filled.
const PARALLEL: usize = 16;
/// Changes measured.
const CHANGES: usize = 300;
/// Longer than the agent's `--min-sync-interval`: each change is written at once and not with others.
const PAUSE: Duration = Duration::from_millis(100);
/// How long one change may take to show.
const LIMIT: Duration = Duration::from_secs(10);
const START_LIMIT: Duration = Duration::from_mins(1);

type Services = HashMap<MapData, ServiceKey<Ipv4Be>, ServiceValue>;

pub(crate) fn run(sheave: &Path, services: usize) -> Result<()> {
    println!(
        "\n## control\n\na real kube-apiserver and etcd on the same two CPUs; {services} Services with one endpoint each\n"
    );
    let control_plane = ControlPlane::start()?;
    let admin = control_plane.kubeconfig(User::Admin, control_plane.api_port())?;
    Cluster::new(admin.clone(), START_LIMIT)?.create_node("node-a", &[Ipv4Addr::new(192, 0, 2, 1).into()])?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (client, addresses) = runtime.block_on(fill(&admin, services))?;

    let (cgroup, bpffs) = (Cgroup::new()?, BpfFs::new()?);
    let kubeconfig = control_plane.kubeconfig(User::Agent, control_plane.api_port())?;
    let kubeconfig = kubeconfig.to_str().context("a path that is not text")?;
    let start = Instant::now();
    let arguments = ["--kubeconfig", kubeconfig, "--node-name", "node-a", "--log-level", "warn"];
    let mut agent = Agent::start_program(sheave, &cgroup, &bpffs, control_plane.dir(), &arguments)?;
    agent.wait_until_ready(START_LIMIT)?;
    println!("start to ready, everything listed, written and probed: {:.2} s", start.elapsed().as_secs_f64());
    std::thread::sleep(Duration::from_secs(5));
    println!("resident memory of the agent afterwards: {}", resident(agent.pid()?)?);

    let map = services_map(&bpffs.pins())?;
    let samples = runtime.block_on(changes(&client, &map, &addresses))?;
    report(&samples);
    println!("resident memory of the agent after {CHANGES} changes: {}", resident(agent.pid()?)?);
    Ok(())
}

/// Creates the Services and their slices; the addresses they got, by number.
async fn fill(kubeconfig: &Path, services: usize) -> Result<(Client, Vec<Ipv4Addr>)> {
    let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    let client = Client::try_from(config)?;
    let create = |n: usize| {
        let client = client.clone();
        async move { create(&client, n).await.map(|address| (n, address)) }
    };
    let created: Vec<_> =
        futures::stream::iter(0..services).map(create).buffer_unordered(PARALLEL).collect().await;
    let mut created = created.into_iter().collect::<Result<Vec<_>>>()?;
    created.sort_unstable();
    Ok((client, created.into_iter().map(|(_, address)| address).collect()))
}

async fn create(client: &Client, n: usize) -> Result<Ipv4Addr> {
    let service: Service = serde_json::from_value(json!({
        "metadata": { "name": format!("svc-{n}") },
        "spec": { "ports": [{ "port": 80, "targetPort": 8080 }] },
    }))?;
    let service =
        Api::<Service>::default_namespaced(client.clone()).create(&PostParams::default(), &service).await?;
    let slice: EndpointSlice = serde_json::from_value(json!({
        "metadata": { "name": format!("svc-{n}"), "labels": { "kubernetes.io/service-name": format!("svc-{n}") } },
        "addressType": "IPv4",
        "ports": [{ "name": "", "port": 8080 }],
        "endpoints": [endpoint(n, 0)],
    }))?;
    Api::<EndpointSlice>::default_namespaced(client.clone()).create(&PostParams::default(), &slice).await?;
    let address = service.spec.and_then(|spec| spec.cluster_ip).context("a Service without address")?;
    Ok(address.parse()?)
}

fn endpoint(n: usize, version: usize) -> Value {
    // Version 0 has a range of its own: every later one is a change.
    let high = if version == 0 { 128 } else { 129 + u8::try_from(version % 64).unwrap_or_default() };
    let [_, _, c, d] = u32::try_from(n).unwrap_or_default().to_be_bytes();
    json!({ "addresses": [IpAddr::from([10, high, c, d]).to_string()], "conditions": { "ready": true } })
}

/// What one change took, in milliseconds from just before the request was sent.
struct Change {
    acknowledged: f64,
    written: f64,
}

async fn changes(client: &Client, map: &Services, addresses: &[Ipv4Addr]) -> Result<Vec<Change>> {
    let slices = Api::<EndpointSlice>::default_namespaced(client.clone());
    let mut samples = Vec::with_capacity(CHANGES);
    for change in 0..CHANGES {
        let n = change * 31 % addresses.len();
        let key = key(*addresses.get(n).context("no such Service")?);
        let before = map.get(&key, 0)?.generation;
        let patch = Patch::Merge(json!({ "endpoints": [endpoint(n, change + 1)] }));
        let start = Instant::now();
        let (slices, name) = (slices.clone(), format!("svc-{n}"));
        let request = tokio::spawn(async move {
            slices.patch(&name, &PatchParams::default(), &patch).await?;
            anyhow::Ok(start.elapsed())
        });
        // The write may be seen before the API server's answer arrives.
        let written = tokio::task::block_in_place(|| wait_for_write(map, &key, before, start));
        let acknowledged = request.await?;
        let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
        samples.push(Change { acknowledged: ms(acknowledged?), written: ms(written?) });
        tokio::time::sleep(PAUSE).await;
    }
    Ok(samples)
}

fn wait_for_write(map: &Services, key: &ServiceKey<Ipv4Be>, before: u32, start: Instant) -> Result<Duration> {
    while start.elapsed() < LIMIT {
        if map.get(key, 0)?.generation != before {
            return Ok(start.elapsed());
        }
        std::thread::sleep(Duration::from_micros(50));
    }
    bail!("a change did not reach the map within {LIMIT:?}")
}

fn key(address: Ipv4Addr) -> ServiceKey<Ipv4Be> {
    ServiceKey {
        address: address.into(),
        port: PortBe::from_host(80),
        protocol: Protocol::Tcp as u8,
        scope: Scope::Internal as u8,
    }
}

/// The pinned map of IPv4 service records.
fn services_map(pins: &Path) -> Result<Services> {
    let named =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("services4"));
    let folder = pins.join("maps");
    let pin = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).find(named);
    let pin = pin.with_context(|| format!("no services4 in {}", folder.display()))?;
    Ok(HashMap::try_from(Map::HashMap(MapData::from_pin(pin)?))?)
}

fn report(samples: &[Change]) {
    println!(
        "\n| one EndpointSlice changed, {} times, 100 ms apart | p50 ms | p99 ms | max ms |\n| --- | ---: | ---: | ---: |",
        samples.len()
    );
    let row = |name: &str, values: Samples| {
        println!(
            "| {name} | {:.2} | {:.2} | {:.2} |",
            values.median(),
            values.quantile(0.99),
            values.quantile(1.0)
        );
    };
    row(
        "request sent to API server's answer",
        Samples::new(samples.iter().map(|sample| sample.acknowledged)),
    );
    row("request sent to map written", Samples::new(samples.iter().map(|sample| sample.written)));
    row(
        "API server's answer to map written",
        Samples::new(samples.iter().map(|s| s.written - s.acknowledged)),
    );
}

fn resident(pid: i32) -> Result<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map_or("?", str::trim).to_owned()
    };
    Ok(format!("{} (anonymous {})", line("VmRSS:"), line("RssAnon:")))
}
