//! ADD: everything that can be refused is refused first; then each step undoes itself if a later one fails.
//!
//! Must not know how a step is done.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use proxy_common::ENDPOINT_SCHEMA_HASH;
use serde_json::Value;

use super::{Failed, Refusal, Task, del, ipam, ipam::Lease};
use crate::{
    config::Options,
    facts::NodeFacts,
    record::{Attachment, Ipam, NetnsId, PortMapping, Stage},
    spec::{Added, Error, interface_in},
    store::Wish,
    wire::Held,
};

/// How often addresses are taken that turn out to be another pod's. The second time all of those are known.
const ATTEMPTS: u32 = 4;

/// Attaches, and answers with the result.
pub(super) fn add(task: &Task<'_>) -> Result<Value, Error> {
    let (call, network) = (task.call, task.network);
    let options = Options::read(network, &call.args)?;
    let previous = network.previous()?;
    if previous.is_some_and(|result| interface_in(result, &call.id.ifname).is_some()) {
        return Err(Refusal::InPrevious(call.id.ifname.clone()).into());
    }
    let plan = Plan::make(task, options)?;
    clear_unfinished(task)?;
    let (attachment, lease) = plan.addressed()?;
    let dns = if plan.options.dns.is_empty() { &lease.dns } else { &plan.options.dns };
    Ok(Added { attachment: &attachment, netns: &call.netns, dns }.document(network.version, previous))
}

/// What an ADD that was killed left is removed; what an ADD finished is not touched.
fn clear_unfinished(task: &Task<'_>) -> Result<(), Error> {
    match task.world.get(&task.call.id)? {
        None => Ok(()),
        Some(record) if record.stage == Stage::Wired => Err(Refusal::Attached(record.id).into()),
        Some(record) => del::remove(task, Some(&record)),
    }
}

/// Everything that is known before anything is done.
struct Plan<'a> {
    task: &'a Task<'a>,
    options: Options,
    facts: NodeFacts,
    netns: NetnsId,
    ranges: Vec<IpNetwork>,
}

impl<'a> Plan<'a> {
    fn make(task: &'a Task<'a>, options: Options) -> Result<Self, Error> {
        let netns = netns(task)?;
        let facts = ready_facts(task)?;
        if !options.ports.is_empty() && !task.world.agent_runs() {
            return Err(Refusal::AgentDown.into());
        }
        let ranges = if task.network.ipam.is_some() { Vec::new() } else { ranges(&options, &facts)? };
        Ok(Self { task, options, facts, netns, ranges })
    }

    /// With addresses of a delegated plugin, if one is asked.
    fn addressed(&self) -> Result<(Attachment, Lease), Error> {
        let Some(plugin) = &self.task.network.ipam else {
            return self.reserved(&Lease::default()).map_err(|failed| failed.error);
        };
        let lease = match ipam::lease(self.task, plugin) {
            Ok(lease) => lease,
            // The specification: who delegates an ADD that fails calls DEL too.
            Err(error) => return Err(self.undo_lease(plugin, error.into())),
        };
        self.reserved(&lease).map_err(|failed| self.undo_lease(plugin, failed))
    }

    fn undo_lease(&self, plugin: &str, failed: Failed) -> Error {
        if failed.remains {
            return failed.error;
        }
        match ipam::release(self.task, plugin) {
            Ok(()) => failed.error,
            Err(undoing) => failed.error.adding(&undoing.sentence()),
        }
    }

    /// With addresses and ports that are its own.
    fn reserved(&self, lease: &Lease) -> Result<(Attachment, Lease), Failed> {
        let world = self.task.world;
        let attachment = self.unheld(lease)?;
        let by_rule = self.wired(&attachment).map_err(|failed| {
            if failed.remains {
                return failed;
            }
            match world.release(&attachment.id) {
                Ok(()) => failed,
                Err(undoing) => Failed { error: failed.error.adding(&undoing.sentence()), remains: true },
            }
        })?;
        Ok((Attachment { by_rule, ..attachment }, lease.clone()))
    }

    /// Where nothing is remembered of a pod that lives, the kernel still knows its addresses: they are passed over.
    fn unheld(&self, lease: &Lease) -> Result<Attachment, Failed> {
        let (world, mut wish) = (self.task.world, self.wish());
        for _ in 0..ATTEMPTS {
            let attachment = world.reserve(self.attachment(lease), &wish)?;
            let held = match world.held_by_others(&attachment) {
                Ok(held) if held.is_empty() => return Ok(attachment),
                other => other,
            };
            world.release(&attachment.id).map_err(|error| Failed { error, remains: true })?;
            let held = held?;
            let own = held.iter().find(|held| attachment.addresses.contains(&held.address));
            let ours_to_choose = attachment.ipam == Ipam::Own && wish.fixed.is_empty();
            if let Some(held) = own.filter(|_| !ours_to_choose) {
                return Err(refused(held).into());
            }
            // The route may have gone between the two questions.
            if let Some(Held { address, .. }) = own {
                world.log(&format!("passed over {address}: a pod has it of which nothing is remembered"));
            }
            wish.reserved.extend(held.iter().map(|held| held.address));
        }
        Err(Error::from(Refusal::Changing).into())
    }

    /// With devices. The addresses that leave the pod by rules of their own.
    fn wired(&self, attachment: &Attachment) -> Result<Vec<IpAddr>, Failed> {
        let (world, pins) = (self.task.world, &self.facts.pins);
        let by_rule = world.connect(attachment, pins)?.by_rule;
        let finished = self.finished(attachment, &by_rule);
        finished.map(|()| by_rule).map_err(|error| match del::disconnect(world, attachment, Some(pins)) {
            Ok(()) => error.into(),
            Err(undoing) => Failed { error: error.adding(&undoing.sentence()), remains: true },
        })
    }

    /// With ports, and said so.
    fn finished(&self, attachment: &Attachment, by_rule: &[IpAddr]) -> Result<(), Error> {
        let world = self.task.world;
        if !attachment.ports.is_empty() {
            world.serve_ports(&attachment.id).map_err(Refusal::Ports)?;
        }
        world.commit(&attachment.id, by_rule)
    }

    fn attachment(&self, lease: &Lease) -> Attachment {
        let (call, options) = (self.task.call, &self.options);
        let ipam = self.task.network.ipam.clone();
        Attachment {
            network: self.task.network.name.clone(),
            since: self.task.world.now(),
            netns: self.netns,
            netns_path: call.netns.clone(),
            addresses: lease.addresses.clone(),
            ipam: ipam.map_or(Ipam::Own, Ipam::Delegated),
            pod_mac: options.mac.unwrap_or_else(|| call.id.pod_mac()),
            mtu: options.mtu.unwrap_or(self.facts.mtu),
            ports: self.ports(lease),
            bandwidth: options.bandwidth,
            socket_lb_off: options.socket_lb_off,
            pod: options.pod.clone(),
            ..Attachment::of(call.id.clone())
        }
    }

    fn wish(&self) -> Wish {
        let reserved = self.facts.node_addresses.iter().chain(&self.options.reserved);
        Wish {
            ranges: self.ranges.clone(),
            fixed: self.options.fixed.clone(),
            reserved: reserved.copied().collect(),
        }
    }

    /// A port of a host address of a family that the pod does not have leads nowhere.
    fn ports(&self, lease: &Lease) -> Vec<PortMapping> {
        let (fixed, ranges) = (self.options.fixed.iter(), self.ranges.iter());
        let addresses: Vec<IpAddr> = match () {
            () if !lease.addresses.is_empty() => lease.addresses.clone(),
            () if !self.options.fixed.is_empty() => fixed.copied().collect(),
            () => ranges.map(IpNetwork::ip).collect(),
        };
        let has = |host: IpAddr| addresses.iter().any(|address| address.is_ipv4() == host.is_ipv4());
        let ports = self.options.ports.iter();
        ports.filter(|port| port.host_ip.is_none_or(has)).cloned().collect()
    }
}

fn refused(held: &Held) -> Error {
    Refusal::Held { address: held.address, host_device: held.host_device.clone() }.into()
}

/// The namespace, which must be one and not our own.
fn netns(task: &Task<'_>) -> Result<NetnsId, Error> {
    let path = &task.call.netns;
    let netns = task.world.identify(path)?.ok_or_else(|| Refusal::NoNetns(path.clone()))?;
    if !task.call.any_netns && netns.cookie == task.world.own_cookie()? {
        return Err(Refusal::OwnNetns(path.clone()).into());
    }
    Ok(netns)
}

fn ready_facts(task: &Task<'_>) -> Result<NodeFacts, Error> {
    let facts = task.world.facts()?;
    usable(&facts)?;
    Ok(facts)
}

/// Whether pods can be wired by these facts.
pub(super) fn usable(facts: &NodeFacts) -> Result<(), Refusal> {
    if let Some(obstacle) = &facts.obstacle {
        return Err(Refusal::Obstacle(obstacle.clone()));
    }
    if facts.pins.schema != ENDPOINT_SCHEMA_HASH {
        return Err(Refusal::Layout { agent: facts.pins.schema, plugin: ENDPOINT_SCHEMA_HASH });
    }
    Ok(())
}

/// The ranges that are asked for, or the node's.
fn ranges(options: &Options, facts: &NodeFacts) -> Result<Vec<IpNetwork>, Refusal> {
    if facts.pod_cidrs.is_empty() {
        return Err(Refusal::NoPodCidr);
    }
    if options.ranges.is_empty() {
        return Ok(facts.pod_cidrs.clone());
    }
    let inside = |range: &IpNetwork| {
        facts.pod_cidrs.iter().any(|cidr| cidr.contains(range.network()) && cidr.prefix() <= range.prefix())
    };
    match options.ranges.iter().find(|range| !inside(range)) {
        Some(foreign) => Err(Refusal::ForeignRange(foreign.to_string())),
        None => Ok(options.ranges.clone()),
    }
}
