//! The whole product inside the test's process: model, decisions, planner, kernel maps and programs, one step at a time.
//!
//! Must not know: what a test looks at.

use anyhow::Result;
use proxy_common::DeviceValue;
use proxy_core::desired::{Engine, Settings};
use proxy_core::diff::{MapOp, Plan, Planner};
use proxy_core::model::Event;
use proxy_userspace::dataplane::{
    Capacities, DataPlane, DataPlaneConfig, DeviceRole, LbMaps as _, LinkAction,
};

use crate::bpffs::BpfFs;
use crate::cgroup::Cgroup;
use crate::lab::{Lab, NODE_V4, NODE_V6};
use crate::netns::Netns;
use crate::objects::{NODE, node};

/// Where the programs are attached and the pins are: outlives a data plane, as a node outlives an agent.
#[derive(Debug)]
pub struct Host {
    /// The group that this process is in.
    pub cgroup: Cgroup,
    /// The pins.
    pub bpffs: BpfFs,
    run: tempfile::TempDir,
}

impl Host {
    /// A fresh one; this process joins its group.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        let host = Self { cgroup: Cgroup::new()?, bpffs: BpfFs::new()?, run: tempfile::tempdir()? };
        host.cgroup.join()?;
        Ok(host)
    }

    /// How a data plane is opened here.
    #[must_use]
    pub fn config(&self, capacities: Capacities) -> DataPlaneConfig {
        DataPlaneConfig {
            pin_dir: self.bpffs.pins(),
            lock_file: self.run.path().join("agent.lock"),
            cgroup: Some(self.cgroup.path().to_owned()),
            capacities,
            ..DataPlaneConfig::default()
        }
    }
}

/// A running data plane and the decisions that feed it.
pub struct Plane {
    /// Decisions.
    pub engine: Engine,
    /// Planner.
    pub planner: Planner,
    /// Kernel side.
    pub data: DataPlane,
    /// What attaching did.
    pub links: Vec<(&'static str, LinkAction)>,
}

impl Plane {
    /// Opens or takes over the data plane of `host`, as an agent in `lab`'s node does; the node is known.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open(host: &Host, lab: &Lab) -> Result<Self> {
        Self::open_configured(lab, &host.config(Capacities::default()))
    }

    /// Like [`Plane::open`], with any settings: change what [`Host::config`] says.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open_configured(lab: &Lab, config: &DataPlaneConfig) -> Result<Self> {
        let mut plane = Self::load(lab, config)?;
        plane.links = plane.data.attach()?;
        Ok(plane)
    }

    /// Puts the programs of `role` on a device of `netns`, and tells the packet path which addresses it has there.
    /// Returns the device's index.
    ///
    /// # Errors
    /// There is no such device, or the kernel refuses.
    pub fn attach_device(
        &mut self,
        netns: &Netns,
        device: &str,
        role: DeviceRole,
        value: DeviceValue,
    ) -> Result<u32> {
        netns.run(|| {
            let index = nix::net::if_::if_nametoindex(device)?;
            self.data.set_device(index, value)?;
            self.data.attach_device(index, role)?;
            Ok(index)
        })
    }

    /// Like [`Plane::open`], with other capacities and with everything there is known before the programs are attached.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn open_filled(host: &Host, lab: &Lab, capacities: Capacities, events: Vec<Event>) -> Result<Self> {
        let mut plane = Self::load(lab, &host.config(capacities))?;
        for event in events {
            plane.engine.handle(event);
        }
        let wanted = plane.engine.all();
        let plan = plane.planner.plan_full(&wanted);
        plane.write(&plan.ops)?;
        plane.links = plane.data.attach()?;
        Ok(plane)
    }

    /// The data plane of a node that is no lab's, without Services, whose pods our plugin wires.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn on(host: &Host, node: &Netns) -> Result<Self> {
        let config = DataPlaneConfig { own_pods: true, ..host.config(Capacities::default()) };
        let mut plane = Self::load_inside(node, &config)?;
        plane.links = plane.data.attach()?;
        Ok(plane)
    }

    fn load(lab: &Lab, config: &DataPlaneConfig) -> Result<Self> {
        Self::load_inside(&lab.node, config)
    }

    fn load_inside(netns: &Netns, config: &DataPlaneConfig) -> Result<Self> {
        let capacities = config.capacities;
        let mut data = netns.run(|| DataPlane::open(config))?;
        let room = proxy_core::diff::Capacities {
            services: capacities.services,
            ring: capacities.ring,
            backends: capacities.backends,
            source_ranges: capacities.source_ranges,
        };
        let planner = Planner::restore(&data.maps().dump()?, room);
        let mut engine = Engine::new(Settings { node_name: NODE.into(), ..Settings::default() });
        engine.handle(node(&[NODE_V4.into(), NODE_V6.into()]));
        Ok(Self { engine, planner, data, links: Vec::new() })
    }

    /// Takes in events and makes the kernel follow, to the last write and past the grace period.
    ///
    /// # Errors
    /// A write fails.
    pub fn apply(&mut self, events: Vec<Event>) -> Result<Plan> {
        let plan = self.plan(events);
        self.write(&plan.ops)?;
        self.settle()?;
        Ok(plan)
    }

    /// Takes in events and says what would be written.
    pub fn plan(&mut self, events: Vec<Event>) -> Plan {
        for event in events {
            self.engine.handle(event);
        }
        let changed = self.engine.refresh();
        self.planner.plan(&changed)
    }

    /// Performs writes.
    ///
    /// # Errors
    /// A write fails.
    pub fn write(&mut self, ops: &[MapOp]) -> Result<()> {
        for op in ops {
            self.data.maps().apply(op)?;
            self.planner.commit(op);
        }
        Ok(())
    }

    /// Waits until no reader can hold what was freed, and frees it.
    ///
    /// # Errors
    /// A write fails.
    pub fn settle(&mut self) -> Result<()> {
        if let Some(epoch) = self.planner.seal_epoch() {
            self.data.maps().wait_grace();
            let ops = self.planner.grace_passed(epoch);
            self.write(&ops)?;
        }
        Ok(())
    }
}
