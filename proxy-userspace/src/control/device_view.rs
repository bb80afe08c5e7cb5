//! What people see of the devices that should have programs.
//!
//! Must not know how programs are attached.

use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::dataplane::{DeviceHook, DeviceRole, DeviceStatus};

/// One device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeviceView {
    /// Its name; empty if it is gone.
    pub name: String,
    /// The kernel's index.
    pub index: u32,
    /// What is behind it.
    pub role: DeviceRole,
    /// How its programs are attached.
    pub hook: DeviceHook,
    /// Why not all of them are; `None` if they are.
    pub error: Option<String>,
}

/// The devices as they are now. Written by their keeper, read by anybody.
#[derive(Debug, Default)]
pub struct DeviceStates(Mutex<Vec<DeviceView>>);

impl DeviceStates {
    /// What became of attaching.
    pub fn set(&self, devices: Vec<DeviceView>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = devices;
    }

    /// What became of attaching.
    pub fn get(&self) -> Vec<DeviceView> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The devices on which an agent that is gone left programs; `name` finds a device's name.
pub fn devices_left(sides: &[DeviceStatus], name: impl Fn(u32) -> Option<String>) -> Vec<DeviceView> {
    let mut views: Vec<DeviceView> = Vec::new();
    for side in sides {
        let Some(program) = side.program.as_deref() else { continue };
        let role = if program.starts_with("pod") { DeviceRole::Pod } else { DeviceRole::Node };
        match views.iter_mut().find(|view| view.index == side.index) {
            Some(view) => view.error = None,
            None => views.push(DeviceView {
                name: name(side.index).unwrap_or_default(),
                index: side.index,
                role,
                hook: side.hook,
                error: Some(format!("only on its {} side", side.side)),
            }),
        }
    }
    views.sort_by_key(|view| view.index);
    views
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_agent_left_is_told_by_device() {
        let side = |index, side, program: Option<&str>| DeviceStatus {
            index,
            side,
            program: program.map(str::to_owned),
            hook: DeviceHook::Tcx,
        };
        let sides = [
            side(7, "egress", Some("pod_egress")),
            side(7, "ingress", Some("pod_ingress")),
            side(2, "egress", Some("node_egress")),
            side(9, "egress", None),
        ];
        let views = devices_left(&sides, |index| (index == 7).then(|| "veth1".to_owned()));
        let told: Vec<_> = views
            .iter()
            .map(|view| (view.index, view.name.as_str(), view.role, view.error.is_none()))
            .collect();
        assert_eq!(told, [(2, "", DeviceRole::Node, false), (7, "veth1", DeviceRole::Pod, true)]);
    }
}
