//! Reading links, addresses and routes by rtnetlink, and hearing that something changed.
//!
//! Works on the network namespace of the calling thread. Must not know what is decided from a reading.

use std::io;

use futures::{Stream, StreamExt as _, TryStreamExt as _, channel::mpsc::UnboundedReceiver};
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::LinkExtentMask,
    route::{RouteHeader, RouteMessage},
};
use rtnetlink::{Handle, MulticastGroup, new_connection_with_strict_check, new_multicast_connection};
use tokio::task::JoinHandle;

use super::snapshot::{DefaultRoute, DeviceAddress, Link, Snapshot, is_default};

/// What can change a choice. A notification of a route is heeded only if it is a default route's.
pub(super) const GROUPS: [MulticastGroup; 5] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
];

/// Why the devices are not known.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// No netlink socket.
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    /// The kernel refused, or the connection broke.
    #[error("cannot list {what}: {source}")]
    List {
        /// Links, addresses or routes.
        what: &'static str,
        /// Why.
        #[source]
        source: rtnetlink::Error,
    },
    /// Nobody tells of changes any more.
    #[error("the netlink socket for notifications was closed")]
    Closed,
}

/// Ends the task that drives a connection.
#[derive(Debug)]
pub(crate) struct Connection(JoinHandle<()>);

impl Connection {
    /// Drives it as long as the value lives.
    pub(crate) fn drive(connection: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(connection))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Everything there is now.
///
/// # Errors
/// See [`ReadError`].
pub async fn read() -> Result<Snapshot, ReadError> {
    let (connection, handle, _) = new_connection_with_strict_check().map_err(ReadError::Socket)?;
    let _connection = Connection::drive(connection);
    let mut snapshot = Snapshot::default();
    let links = handle.link().get().set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats]);
    each("links", links.execute(), |message| {
        snapshot.links.insert(message.header.index, Link::of(&message));
    })
    .await?;
    each("addresses", handle.address().get().execute(), |message| {
        snapshot.addresses.extend(DeviceAddress::of(&message));
    })
    .await?;
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let routes = of_main_table(&handle, family);
        each("routes", routes, |message| snapshot.default_routes.extend(DefaultRoute::of(&message))).await?;
    }
    Ok(snapshot)
}

/// Routes of the main table.
pub(crate) fn of_main_table(
    handle: &Handle,
    family: AddressFamily,
) -> impl Stream<Item = Result<RouteMessage, rtnetlink::Error>> {
    let mut wanted = RouteMessage::default();
    wanted.header.address_family = family;
    wanted.header.table = RouteHeader::RT_TABLE_MAIN;
    handle.route().get(wanted).execute()
}

/// Takes every message of an answer.
pub(crate) async fn each<T>(
    what: &'static str,
    messages: impl Stream<Item = Result<T, rtnetlink::Error>>,
    mut take: impl FnMut(T),
) -> Result<(), ReadError> {
    let mut messages = std::pin::pin!(messages);
    while let Some(message) = messages.try_next().await.map_err(|source| ReadError::List { what, source })? {
        take(message);
    }
    Ok(())
}

/// Whether a notification may matter.
pub(crate) type Matters = Box<dyn Fn(&NetlinkMessage<RouteNetlinkMessage>) -> bool + Send>;

/// Notifications of the kernel.
pub(crate) struct Notifications {
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, rtnetlink::sys::SocketAddr)>,
    matters: Matters,
    _connection: Connection,
}

impl Notifications {
    /// Subscribes. What changes from now on and `matters` is told.
    pub(crate) fn subscribe(groups: &[MulticastGroup], matters: Matters) -> Result<Self, ReadError> {
        let (connection, _, messages) = new_multicast_connection(groups).map_err(ReadError::Socket)?;
        Ok(Self { messages, matters, _connection: Connection::drive(connection) })
    }

    /// Returns at the next notification that may matter, or when some were lost.
    pub(crate) async fn next(&mut self) -> Result<(), ReadError> {
        while let Some((message, _)) = self.messages.next().await {
            if (self.matters)(&message) {
                return Ok(());
            }
        }
        Err(ReadError::Closed)
    }

    /// Forgets what was told so far: a complete reading is about to be made.
    pub(crate) fn forget(&mut self) {
        while let Ok((_, _)) = self.messages.try_recv() {}
    }
}

pub(super) fn matters(message: &NetlinkMessage<RouteNetlinkMessage>) -> bool {
    match &message.payload {
        NetlinkPayload::InnerMessage(
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
        ) => is_default(route),
        // An overrun, and everything about links and addresses.
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;

    use super::*;

    #[tokio::test]
    async fn a_reading_of_this_machine_has_the_loopback_device() {
        let snapshot = read().await.unwrap();
        let loopback = snapshot.links.values().find(|link| link.is_loopback).unwrap();
        assert_eq!(loopback.name, "lo");
        assert!(snapshot.addresses.iter().all(|it| !it.address.is_loopback()));
    }

    #[test]
    fn of_routes_only_a_default_one_matters_and_a_loss_of_notifications_always_does() {
        let told = |payload| matters(&NetlinkMessage::new(NetlinkHeader::default(), payload));
        let route = |prefix| {
            let mut route = RouteMessage::default();
            route.header.destination_prefix_length = prefix;
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route))
        };
        assert!(told(route(0)) && !told(route(24)));
        assert!(told(NetlinkPayload::Overrun(Vec::new())));
    }
}
