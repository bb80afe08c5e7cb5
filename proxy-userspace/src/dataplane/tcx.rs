//! tcx links: a program on one side of a device, pinned, exchanged in place, beside the links of others.
//!
//! A link is appended to those that are there; who comes later may stand before or after it. Only the packet path's
//! programs get onto devices this way. Must not know what they do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::fd::{AsFd, BorrowedFd},
};

use super::{
    LinkAction,
    devices::{DeviceError, Layer, Place, Side},
    pins::{self, Pins},
    sys::{self, Access},
};

/// What the names of our pins begin with.
const PREFIX: &str = "tcx-";

/// Index of the loopback device in every network namespace (net/core/dev.c, `LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// `enum bpf_attach_type`.
fn attach_type(side: Side) -> u32 {
    match side {
        Side::Ingress => 46,
        Side::Egress => 47,
    }
}

/// Name of the pinned link.
fn pin_name(place: Place) -> String {
    format!("{PREFIX}{}-{}", place.index, place.side.name())
}

/// The place that a pin's name says; `None` for a pin of something else. A run that was killed while it replaced a
/// link leaves the new one under the name of a replacement.
fn place_of(pin_name: &str) -> Option<Place> {
    let name = pin_name.strip_suffix(pins::REPLACEMENT).unwrap_or(pin_name);
    let (index, side) = name.strip_prefix(PREFIX)?.split_once('-')?;
    let side = Side::ALL.into_iter().find(|known| known.name() == side)?;
    Some(Place { index: index.parse().ok()?, side, layer: Layer::Path })
}

/// Whether the kernel has tcx: it can say who is attached to the loopback device.
pub(super) fn is_supported() -> bool {
    sys::device_links(LOOPBACK, attach_type(Side::Ingress)).is_ok()
}

/// Puts a program on its place, through the pinned link if that is still there.
pub(super) fn attach(
    name: &'static str,
    program: BorrowedFd<'_>,
    place: Place,
    pins: &Pins,
) -> Result<LinkAction, DeviceError> {
    let pin = pins.link(&pin_name(place));
    let existed = match sys::open_pin(&pin, Access::Full) {
        Ok(link) => {
            if is_on(link.as_fd(), place) && update(link.as_fd(), program, place)? {
                return Ok(LinkAction::Updated);
            }
            true
        }
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    };
    let link = sys::link_to_device(program, place.index, attach_type(place.side))
        .map_err(|source| DeviceError::Attach { program: name, index: place.index, source })?;
    pins::pin_over(link.as_fd(), &pin).map_err(failed("pin", place))?;
    Ok(if existed { LinkAction::Replaced } else { LinkAction::Created })
}

/// Whether the link is on this place now. A device that moved to another network namespace takes its links with it
/// and may keep its index: so not only the link is asked, but also the device of this namespace.
fn is_on(link: BorrowedFd<'_>, place: Place) -> bool {
    let side = attach_type(place.side);
    sys::link_info(link).is_ok_and(|info| {
        info.device() == Some((place.index, side))
            && sys::device_links(place.index, side).is_ok_and(|links| links.contains(&info.id))
    })
}

/// `false` if the link lost its device in the meantime.
fn update(link: BorrowedFd<'_>, program: BorrowedFd<'_>, place: Place) -> Result<bool, DeviceError> {
    match sys::update_link(link, program) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(source) => Err(failed("exchange the program of", place)(source)),
    }
}

/// The places of all pinned links, whether their devices are there or not.
pub(super) fn places(pins: &Pins) -> Result<Vec<Place>, DeviceError> {
    let mut places: Vec<_> = pins::list(&pins.links())?.iter().filter_map(|name| place_of(name)).collect();
    places.dedup();
    Ok(places)
}

/// Removes the pin, which detaches the program. No pin is success.
pub(super) fn detach(place: Place, pins: &Pins) -> Result<(), DeviceError> {
    let name = pin_name(place);
    [pins.link(&name), pins.link(&(name + pins::REPLACEMENT))]
        .iter()
        .try_for_each(|pin| match fs::remove_file(pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        })
        .map_err(failed("remove", place))
}

/// What a pinned link says: the place, and the kernel's id of the program, `None` when the device is gone.
pub(super) fn status(pins: &Pins) -> Vec<(Place, Option<u32>)> {
    let program_on = |place: Place| {
        let link = sys::open_pin(&pins.link(&pin_name(place)), Access::Full).ok()?;
        let info = sys::link_info(link.as_fd()).ok()?;
        (info.device() == Some((place.index, attach_type(place.side)))).then_some(info.program_id)
    };
    places(pins).unwrap_or_default().into_iter().map(|place| (place, program_on(place))).collect()
}

/// The programs on devices, each once: the kernel's id and the name.
pub(super) fn programs(pins: &Pins) -> BTreeMap<u32, String> {
    let ids = status(pins).into_iter().filter_map(|(_, program)| program).collect::<BTreeSet<u32>>();
    ids.into_iter().filter_map(|id| Some((id, program_name(id)?))).collect()
}

/// As its loader called it, at most 15 letters.
fn program_name(id: u32) -> Option<String> {
    let program = sys::program_by_id(id).ok()?;
    let name = sys::program_info(program.as_fd()).ok()?.name;
    let bytes: Vec<u8> =
        name.iter().map(|letter| letter.to_ne_bytes()[0]).take_while(|it| *it != 0).collect();
    String::from_utf8(bytes).ok()
}

fn failed(action: &'static str, place: Place) -> impl Fn(io::Error) -> DeviceError {
    move |source| DeviceError::Link { action, side: place.side.name(), index: place.index, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_s_name_says_the_place() {
        for side in Side::ALL {
            let place = Place { index: 42, side, layer: Layer::Path };
            assert_eq!(place_of(&pin_name(place)), Some(place));
            assert_eq!(place_of(&(pin_name(place) + pins::REPLACEMENT)), Some(place));
        }
        for other in ["connect4", "tcx-", "tcx-1", "tcx-x-ingress", "tcx-1-sideways", "guard-1-ingress"] {
            assert_eq!(place_of(other), None, "{other}");
        }
    }

    #[test]
    fn pins_of_links_on_devices_are_told_from_those_on_the_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        let pins = Pins::new(directory.path());
        assert_eq!(places(&pins).unwrap(), []);
        fs::create_dir_all(pins.links()).unwrap();
        for name in ["connect4", "tcx-7-egress", "tcx-7-egress-new", "tcx-7-ingress"] {
            fs::write(pins.link(name), "").unwrap();
        }
        let expected = Side::ALL.map(|side| Place { index: 7, side, layer: Layer::Path });
        assert_eq!(places(&pins).unwrap(), expected);
        detach(expected[0], &pins).unwrap();
        detach(expected[0], &pins).unwrap();
        assert_eq!(places(&pins).unwrap(), expected[1..]);
    }
}
