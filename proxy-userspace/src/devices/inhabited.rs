//! Behind which pairs of devices somebody lives.
//!
//! The kernel numbers the namespaces that ours has to do with; both a device and a process lead to such a number. Must
//! not know whose the devices are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::fd::AsRawFd as _,
};

use futures::{StreamExt as _, TryStreamExt as _};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use rtnetlink::{Handle, new_connection};

use super::netlink::{Connection, ReadError};

/// Devices of this namespace.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pairs {
    /// Their names.
    pub all: BTreeSet<String>,
    /// Those whose other end is in one of the namespaces that were asked for.
    pub inhabited: BTreeSet<String>,
}

/// The devices whose names begin with `prefix`, and which of them lead into one of `namespaces`.
///
/// # Errors
/// See [`ReadError`].
pub async fn pairs(prefix: &str, namespaces: &[File]) -> Result<Pairs, ReadError> {
    let (connection, handle, _) = new_connection().map_err(ReadError::Socket)?;
    let _connection = Connection::drive(connection);
    let listed = |source| ReadError::List { what: "links", source };
    let mut devices = BTreeMap::new();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(listed)? {
        devices.extend(of(&link).filter(|(name, _)| name.starts_with(prefix)));
    }
    let mut numbers = BTreeSet::new();
    for namespace in namespaces {
        numbers.extend(number(&handle, namespace).await?);
    }
    let lead_there = devices.iter().filter(|(_, number)| number.is_some_and(|it| numbers.contains(&it)));
    let inhabited = lead_there.map(|(name, _)| name.clone()).collect();
    Ok(Pairs { inhabited, all: devices.into_keys().collect() })
}

/// Its name, and the number of the namespace that its other end is in.
fn of(link: &LinkMessage) -> Option<(String, Option<i32>)> {
    let name = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.clone()),
        _ => None,
    });
    let number = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkNetNsId(number) => Some(*number),
        _ => None,
    });
    Some((name?, number))
}

/// `None`: ours has nothing to do with it.
async fn number(handle: &Handle, namespace: &File) -> Result<Option<i32>, ReadError> {
    let descriptor = u32::try_from(namespace.as_raw_fd()).unwrap_or(u32::MAX);
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Fd(descriptor));
    let mut question = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
    question.header.flags = NLM_F_REQUEST;
    let failed = |source| ReadError::List { what: "namespaces", source };
    let mut answers = handle.clone().request(question).map_err(failed)?;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) => {
                return Ok(answer.attributes.iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(number) => Some(*number).filter(|number| *number >= 0),
                    _ => None,
                }));
            }
            NetlinkPayload::Error(error) => {
                return Err(failed(rtnetlink::Error::NetlinkError(error)));
            }
            _ => {}
        }
    }
    Err(ReadError::Closed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn our_own_namespace_has_no_number_here_and_the_loopback_device_leads_nowhere() {
        let own = File::open("/proc/self/ns/net").unwrap();
        let found = pairs("lo", &[own]).await.unwrap();
        assert!(found.all.contains("lo") && found.inhabited.is_empty(), "{found:?}");
        assert!(pairs("no-such-device", &[]).await.unwrap().all.is_empty());
    }
}
