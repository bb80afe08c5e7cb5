//! The main job on one screen: a node with pods, Services in a folder, the real agent, and requests that never fail.
//!
//! Everything runs in namespaces and a cgroup of its own and is gone at the end.

mod http;
mod interrupt;
mod manifests;
mod stage;
mod stream;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;
use sheave_tests::client::{ask_udp, udp_socket};

use crate::interrupt::Interrupt;
use crate::manifests::Folder;
use crate::stage::Stage;
use crate::stream::Stream;

/// Shows Sheave at work on this machine.
#[derive(Debug, Parser)]
struct Arguments {
    /// Leave everything running for exploring, until Ctrl-C or Enter.
    #[arg(long)]
    keep: bool,
    /// The built agent.
    #[arg(long, default_value = "target/debug/sheave")]
    sheave: std::path::PathBuf,
}

/// How many requests one chart is made of.
const REQUESTS: usize = 300;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let sheave = arguments.sheave.canonicalize().with_context(|| {
        format!("{} is missing: run `cargo xtask demo`, which builds it", arguments.sheave.display())
    })?;
    let interrupt = Interrupt::block()?;
    let start = Instant::now();
    say("A node in a network namespace, three pods with HTTP servers, one client pod");
    let mut stage = Stage::new()?;
    let folder = Folder::new()?;
    folder.write_services()?;
    folder.write_endpoints(&stage.pods(&["a", "b", "c"]))?;

    say("`sheave agent` on a folder of ordinary manifests: web (TCP, dual-stack) and echo (UDP)");
    let agent = stage.start_agent(&sheave, folder.path())?;
    println!("{}", stage.sheave(&sheave, &["service", "list"])?);

    interrupt.check()?;
    charts(&stage)?;
    interrupt.check()?;
    edits(&mut stage, &folder)?;
    interrupt.check()?;
    outage(&stage, &folder, agent)?;
    let took = start.elapsed();
    if arguments.keep {
        let agent = stage.start_agent(&sheave, folder.path())?;
        stage.explain_exploring(&sheave, folder.path());
        interrupt.wait_for_enter()?;
        agent.terminate(Duration::from_secs(10))?;
    }
    say("Cleaning up: `sheave cleanup` removes every program, link, map and pin");
    println!("{}", stage.sheave(&sheave, &["cleanup"])?);
    println!("Done; the demo itself took {:.1} s.", took.as_secs_f32());
    Ok(())
}

fn say(step: &str) {
    println!("\n== {step}");
}

fn charts(stage: &Stage) -> Result<()> {
    for (name, address) in
        [("http://10.96.0.10", manifests::web_v4()), ("http://[fd00:10:96::10]", manifests::web_v6())]
    {
        say(&format!("{REQUESTS} requests to {name}, and where they went"));
        let counts = stage.in_client(|| http::count(address, REQUESTS))?;
        http::chart(&counts);
        ensure!(counts.len() == 3, "all three pods should have answered");
    }
    say(
        "One UDP socket, ten datagrams to 10.96.0.11:53: it stays with one pod and sees the Service's address",
    );
    let (pod, from) = stage.in_client(ten_datagrams)?;
    println!("   pod {pod}, answers from {from}");
    Ok(())
}

fn ten_datagrams() -> Result<(String, SocketAddr)> {
    let echo = manifests::echo();
    let socket = udp_socket(echo)?;
    let first = ask_udp(&socket, echo)?;
    for _ in 0..9 {
        ensure!(ask_udp(&socket, echo)? == first, "a flow must stay with its pod");
    }
    ensure!(first.1 == echo, "the answer must come from the Service's address");
    Ok(first)
}

/// The folder changes under a steady stream of requests.
fn edits(stage: &mut Stage, folder: &Folder) -> Result<()> {
    say("A steady stream of requests starts; now the folder is edited under it");
    let stream = Stream::start(stage.client(), manifests::web_v4())?;
    let steps: [(&str, &[&str]); 3] =
        [("pod a leaves", &["b", "c"]), ("pod d comes", &["b", "c", "d"]), ("pods b and c leave", &["d"])];
    stage.add_pod("d")?;
    for (what, names) in steps {
        folder.write_endpoints(&stage.pods(names))?;
        let expected = names.iter().map(ToString::to_string).collect();
        let took = stream.wait_until_only(&expected)?;
        println!(
            "   {what}: only {} answer{} {:.1} ms after the edit",
            names.join(", "),
            if names.len() == 1 { "s" } else { "" },
            took.as_secs_f64() * 1e3
        );
        std::thread::sleep(Duration::from_millis(500));
    }
    let (requests, failures) = stream.stop()?;
    println!("   {requests} requests during all of this, {failures} failed");
    if failures != 0 {
        bail!("a request failed while the manifests were edited");
    }
    Ok(())
}

/// No endpoint, then no agent.
fn outage(stage: &Stage, folder: &Folder, agent: sheave_tests::process::Process) -> Result<()> {
    say("All pods leave: a client is refused at once instead of waiting");
    folder.write_endpoints(&[])?;
    let (error, took) = stage.in_client(stream::wait_for_refusal)?;
    println!("   connect: {error} after {:.0} µs", took.as_secs_f64() * 1e6);
    folder.write_endpoints(&stage.pods(&["b", "c", "d"]))?;
    stage.in_client(stream::wait_for_answer)?;

    say("They are back, and the agent is stopped: the kernel goes on serving");
    agent.terminate(Duration::from_secs(10))?;
    let counts = stage.in_client(|| http::count(manifests::web_v4(), REQUESTS))?;
    http::chart(&counts);
    Ok(())
}
