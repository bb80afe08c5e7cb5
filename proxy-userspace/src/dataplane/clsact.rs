//! Programs on devices before kernel 6.6, and on pods' devices: filters of the qdisc clsact. A filter is exchanged in place.
//!
//! Must not know what the programs do.

use std::{io, os::fd::BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{RouteNetlinkMessage, tc::TcMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use proxy_kernel::clsact::{self, FIRST_PRIORITY, PATH_PRIORITY};

use super::{
    LinkAction,
    devices::{DeviceError, Layer, Place, Side},
    sys,
};

/// Order among the filters of one side: first the guard. On a new pod's device the plugin attaches both.
fn priority(layer: Layer) -> u32 {
    match layer {
        Layer::Guard => FIRST_PRIORITY,
        Layer::Path => PATH_PRIORITY,
    }
}

impl From<Side> for clsact::Side {
    fn from(side: Side) -> Self {
        match side {
            Side::Ingress => Self::Ingress,
            Side::Egress => Self::Egress,
        }
    }
}

/// Puts a program on its place; makes the qdisc if there is none. Where the program is there already nothing is written:
/// a write holds up whoever adds a pod.
pub(super) fn attach(
    name: &'static str,
    program: BorrowedFd<'_>,
    place: Place,
) -> Result<LinkAction, DeviceError> {
    let failed = |source| DeviceError::Attach { program: name, index: place.index, source };
    let known = filters(place).map_err(failed)?;
    let ours = known.iter().find(|filter| is_ours(filter, place.layer));
    if ours.is_some_and(|filter| has_program(filter, program)) {
        return Ok(LinkAction::Updated);
    }
    ask(RouteNetlinkMessage::NewQueueDiscipline(clsact::qdisc(place.index)), NLM_F_CREATE | NLM_F_EXCL)
        .or_else(|error| if error.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(error) })
        .map_err(failed)?;
    let message = clsact::filter_with(place.index, place.side.into(), priority(place.layer), program, name);
    // Without NLM_F_EXCL the kernel exchanges the program of the filter that has this handle.
    ask(RouteNetlinkMessage::NewTrafficFilter(message), NLM_F_CREATE).map_err(failed)?;
    Ok(if ours.is_some() { LinkAction::Updated } else { LinkAction::Created })
}

/// Removes our filter. None, or no device, is success.
pub(super) fn detach(place: Place) -> Result<(), DeviceError> {
    let failed = |source| DeviceError::Filter { action: "remove one of", source };
    if !ours(place).map_err(failed)? {
        return Ok(());
    }
    match ask(RouteNetlinkMessage::DelTrafficFilter(filter(place)), 0) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV | libc::EINVAL)) => {
            Err(failed(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The places of all our filters in this network namespace.
pub(super) fn places() -> Result<Vec<Place>, DeviceError> {
    let failed = |source| DeviceError::Filter { action: "list", source };
    let mut places = Vec::new();
    for index in clsact_devices().map_err(failed)? {
        for side in Side::ALL {
            // One answer holds the filters of every layer.
            let of_layer = |layer| Place { index, side, layer };
            let known = filters(of_layer(Layer::Path)).map_err(failed)?;
            let has_ours = |place: &Place| known.iter().any(|filter| is_ours(filter, place.layer));
            places.extend([Layer::Guard, Layer::Path].map(of_layer).into_iter().filter(has_ours));
        }
    }
    Ok(places)
}

/// Our filters in this network namespace, with the names of their programs; none where they cannot be listed.
pub(super) fn programs() -> Vec<(Place, String)> {
    let mut programs = Vec::new();
    for place in places().unwrap_or_default() {
        let filters = filters(place).unwrap_or_default();
        let name =
            filters.iter().filter(|filter| is_ours(filter, place.layer)).find_map(clsact::program_name);
        programs.extend(name.map(|name| (place, name)));
    }
    programs
}

/// Removes our filters from every device of this network namespace, and the qdisc where no filter is left. Returns
/// the places.
pub(super) fn remove_all() -> Result<Vec<Place>, DeviceError> {
    let mut places = places()?;
    places.sort_by_key(|place| (place.index, std::cmp::Reverse(place.side)));
    for place in &places {
        detach(*place)?;
    }
    let mut indexes: Vec<u32> = places.iter().map(|place| place.index).collect();
    indexes.dedup();
    for index in indexes {
        remove_if_empty(index)
            .map_err(|source| DeviceError::Filter { action: "remove the qdisc of", source })?;
    }
    Ok(places)
}

fn remove_if_empty(index: u32) -> io::Result<()> {
    for side in Side::ALL {
        if !filters(Place { index, side, layer: Layer::Path })?.is_empty() {
            return Ok(());
        }
    }
    match ask(RouteNetlinkMessage::DelQueueDiscipline(clsact::qdisc(index)), 0) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether our filter is there.
fn ours(place: Place) -> io::Result<bool> {
    Ok(filters(place)?.iter().any(|filter| is_ours(filter, place.layer)))
}

fn is_ours(message: &TcMessage, layer: Layer) -> bool {
    clsact::is_filter(message, priority(layer))
}

/// Whether the filter runs just this program.
fn has_program(message: &TcMessage, program: BorrowedFd<'_>) -> bool {
    sys::program_info(program).is_ok_and(|info| clsact::has_program(message, info.id))
}

fn filter(place: Place) -> TcMessage {
    clsact::filter(place.index, place.side.into(), priority(place.layer))
}

/// Devices that have the qdisc.
fn clsact_devices() -> io::Result<Vec<u32>> {
    let all = dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
    let mut indexes: Vec<u32> = all
        .iter()
        .filter(|it| clsact::is_qdisc(it))
        .filter_map(|it| u32::try_from(it.header.index).ok())
        .collect();
    indexes.sort_unstable();
    indexes.dedup();
    Ok(indexes)
}

/// Filters on one side of a device, of every layer and of others; none if it has no qdisc.
fn filters(place: Place) -> io::Result<Vec<TcMessage>> {
    match dump(RouteNetlinkMessage::GetTrafficFilter(clsact::filters(place.index, place.side.into()))) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => Ok(Vec::new()),
        result => result,
    }
}

/// One request that the kernel acknowledges.
fn ask(message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    converse(message, NLM_F_ACK | flags).map(drop)
}

fn dump(message: RouteNetlinkMessage) -> io::Result<Vec<TcMessage>> {
    converse(message, NLM_F_DUMP)
}

/// Sends a request and reads to the end of the answer.
fn converse(message: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<TcMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | flags;
    let mut request = NetlinkMessage::new(header, NetlinkPayload::from(message));
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    socket.send(&bytes, 0)?;
    let mut answers = Vec::new();
    loop {
        let (packet, _) = socket.recv_from_full()?;
        if collect(&packet, &mut answers)? {
            return Ok(answers);
        }
    }
}

/// Takes the messages out of one packet; `true` at the end of the answer. What the library cannot read is not ours.
fn collect(mut packet: &[u8], answers: &mut Vec<TcMessage>) -> io::Result<bool> {
    while let Some(length) = packet.first_chunk().map(|length| u32::from_ne_bytes(*length)) {
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(packet).map(|message| message.payload) {
            Ok(NetlinkPayload::Done(_)) => return Ok(true),
            // An acknowledgement is an error without a code.
            Ok(NetlinkPayload::Error(error)) if error.code.is_none() => return Ok(true),
            Ok(NetlinkPayload::Error(error)) => return Err(error.to_io()),
            Ok(NetlinkPayload::InnerMessage(
                RouteNetlinkMessage::NewTrafficFilter(answer)
                | RouteNetlinkMessage::NewQueueDiscipline(answer),
            )) => answers.push(answer),
            _ => {}
        }
        // Messages are aligned to 4 bytes; a length of 0 would never end.
        let length = usize::try_from(length).map_or(usize::MAX, |length| length.max(16).next_multiple_of(4));
        packet = packet.get(length..).unwrap_or_default();
    }
    Ok(false)
}
