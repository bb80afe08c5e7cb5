//! Programs on devices before kernel 6.6: filters of the qdisc clsact, in direct-action mode, known by their priority,
//! handle and name. A filter is exchanged in place.
//!
//! Must not know what the programs do.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use cni::wire::{FILTER_HANDLE as HANDLE, FILTER_NAME as NAME, FILTER_PRIORITY};
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcBpfFlags, TcFilterBpf, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{
    LinkAction,
    devices::{DeviceError, Layer, Place, Side},
    sys,
};

/// Order among the filters of one side: first the guard, which the plugin attaches.
fn priority(layer: Layer) -> u32 {
    match layer {
        Layer::Guard => FILTER_PRIORITY,
        Layer::Path => FILTER_PRIORITY + 1,
    }
}

/// The qdisc's name.
const CLSACT: &str = "clsact";
/// `TC_H_MAKE(TC_H_CLSACT, 0)` (linux/pkt_sched.h).
const QDISC_HANDLE: u32 = 0xffff_0000;
/// `TC_H_CLSACT`.
const QDISC_PARENT: u32 = 0xffff_fff1;
/// `ETH_P_ALL` in network byte order, as `tcm_info` has it.
const EVERY_PROTOCOL: u32 = 0x0300;

/// `TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)` and its like for egress.
fn parent(side: Side) -> u32 {
    match side {
        Side::Ingress => 0xffff_fff2,
        Side::Egress => 0xffff_fff3,
    }
}

/// In the order in which [`places`] looks.
const LAYERS: [(Side, Layer); 4] = [
    (Side::Egress, Layer::Guard),
    (Side::Egress, Layer::Path),
    (Side::Ingress, Layer::Guard),
    (Side::Ingress, Layer::Path),
];

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
    ask(RouteNetlinkMessage::NewQueueDiscipline(qdisc(place.index)), NLM_F_CREATE | NLM_F_EXCL)
        .or_else(|error| if error.raw_os_error() == Some(libc::EEXIST) { Ok(()) } else { Err(error) })
        .map_err(failed)?;
    let mut message = filter(place);
    message.attributes.push(TcAttribute::Kind(TcFilterBpf::KIND.to_owned()));
    message.attributes.push(TcAttribute::Options(
        [
            TcFilterBpfOption::ProgFd(program.as_raw_fd().unsigned_abs()),
            TcFilterBpfOption::ProgName(format!("{NAME}{name}")),
            TcFilterBpfOption::Flags(TcBpfFlags::DirectAction),
        ]
        .map(TcOption::Bpf)
        .to_vec(),
    ));
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
        for (side, layer) in LAYERS {
            let place = Place { index, side, layer };
            if ours(place).map_err(failed)? {
                places.push(place);
            }
        }
    }
    Ok(places)
}

/// Our filters in this network namespace, with the names of their programs; none where they cannot be listed.
pub(super) fn programs() -> Vec<(Place, String)> {
    let mut programs = Vec::new();
    for place in places().unwrap_or_default() {
        let filters = filters(place).unwrap_or_default();
        let name = filters.iter().filter(|filter| is_ours(filter, place.layer)).find_map(program_name);
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
    match ask(RouteNetlinkMessage::DelQueueDiscipline(qdisc(index)), 0) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether our filter is there.
fn ours(place: Place) -> io::Result<bool> {
    Ok(filters(place)?.iter().any(|filter| is_ours(filter, place.layer)))
}

fn is_ours(message: &TcMessage, layer: Layer) -> bool {
    let ours = filter(Place { index: 0, side: Side::Ingress, layer }).header;
    let header = &message.header;
    header.handle == ours.handle && header.info == ours.info && program_name(message).is_some()
}

/// The name that [`attach`] gave, without what it begins with.
fn program_name(message: &TcMessage) -> Option<String> {
    options(message).find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => name.strip_prefix(NAME).map(str::to_owned),
        _ => None,
    })
}

/// Whether the filter runs just this program.
fn has_program(message: &TcMessage, program: BorrowedFd<'_>) -> bool {
    let Ok(id) = sys::program_info(program).map(|info| info.id) else { return false };
    options(message).any(|option| *option == TcOption::Bpf(TcFilterBpfOption::ProgId(id)))
}

fn options(message: &TcMessage) -> impl Iterator<Item = &TcOption> {
    message.attributes.iter().flat_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.as_slice(),
        _ => &[],
    })
}

fn header(index: u32, handle: u32, parent: u32, info: u32) -> TcMessage {
    let mut message = TcMessage::with_index(i32::try_from(index).unwrap_or_default());
    message.header.handle = TcHandle::from(handle);
    message.header.parent = TcHandle::from(parent);
    message.header.info = info;
    message
}

fn filter(place: Place) -> TcMessage {
    header(place.index, HANDLE, parent(place.side), priority(place.layer) << 16 | EVERY_PROTOCOL)
}

fn qdisc(index: u32) -> TcMessage {
    let mut message = header(index, QDISC_HANDLE, QDISC_PARENT, 0);
    message.attributes.push(TcAttribute::Kind(CLSACT.to_owned()));
    message
}

/// Devices that have the qdisc.
fn clsact_devices() -> io::Result<Vec<u32>> {
    let is_clsact = |message: &TcMessage| message.attributes.contains(&TcAttribute::Kind(CLSACT.to_owned()));
    let all = dump(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default()))?;
    let mut indexes: Vec<u32> =
        all.iter().filter(|it| is_clsact(it)).filter_map(|it| u32::try_from(it.header.index).ok()).collect();
    indexes.sort_unstable();
    indexes.dedup();
    Ok(indexes)
}

/// Filters on one side of a device, of every layer and of others; none if it has no qdisc.
fn filters(place: Place) -> io::Result<Vec<TcMessage>> {
    match dump(RouteNetlinkMessage::GetTrafficFilter(header(place.index, 0, parent(place.side), 0))) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str) -> TcMessage {
        let mut message = filter(Place { index: 3, side: Side::Egress, layer: Layer::Path });
        let name = TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned()));
        message.attributes.push(TcAttribute::Options(vec![name]));
        message
    }

    #[test]
    fn a_filter_is_ours_by_priority_handle_and_name() {
        assert!(is_ours(&named("sheave:node_egress"), Layer::Path));
        assert!(!is_ours(&named("sheave:node_egress"), Layer::Guard), "the guard's priority is another");
        assert_eq!(program_name(&named("sheave:node_egress")).as_deref(), Some("node_egress"));
        assert!(!is_ours(&named("cilium-eth0"), Layer::Path));
        let mut other = named("sheave:node_egress");
        other.header.info = 1 << 16 | EVERY_PROTOCOL;
        assert!(!is_ours(&other, Layer::Path), "another priority");
        let mut other = named("sheave:node_egress");
        other.header.handle = TcHandle::from(1);
        assert!(!is_ours(&other, Layer::Path), "another handle");
    }
}
