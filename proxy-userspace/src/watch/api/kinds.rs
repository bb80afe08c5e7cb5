//! What is particular to each kind of object that is watched: which ones to ask for and which events they become.
//!
//! Must not know how a list or a watch works.

use k8s_openapi::{
    api::{
        core::v1::{Node, Service},
        discovery::v1::EndpointSlice,
    },
    serde::de::DeserializeOwned,
};
use kube::Resource;
use proxy_core::model::{Event, NodeObject, ServiceObject, SliceObject, Source};

use crate::watch::{
    convert::{self, HEADLESS_LABEL, PROXY_NAME_LABEL, SERVICE_NAME_LABEL},
    nodes::NodeEvent,
};

/// Selectors that the server applies, so that foreign objects never travel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Selectors {
    /// Label selector.
    pub(super) labels: Option<String>,
    /// Field selector.
    pub(super) fields: Option<String>,
}

/// Which objects matter.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// Services with this `service.kubernetes.io/service-proxy-name` label; `None`: those without it.
    pub(super) proxy_name: Option<String>,
    /// Only this Node; `None`: all.
    pub(super) node_name: Option<String>,
}

/// A kind of object that is watched.
pub(super) trait Watched:
    Resource<DynamicType = ()> + DeserializeOwned + Clone + std::fmt::Debug + Send + 'static
{
    /// What is kept of it.
    type Model: Send;
    /// What a change becomes.
    type Event: Send;
    /// Its place in the status and in the core.
    const SOURCE: Source;
    /// Its name for people.
    const NAME: &'static str;

    /// Which of them to ask for.
    fn selectors(selection: &Selection) -> Selectors;
    /// The fields that decide.
    fn model(self) -> Self::Model;
    /// A complete list.
    fn listed(all: Vec<Self::Model>) -> Self::Event;
    /// One was created or changed.
    fn applied(one: Self::Model) -> Self::Event;
    /// One was deleted; this was its last state.
    fn deleted(self) -> Self::Event;
}

impl Watched for Service {
    type Model = ServiceObject;
    type Event = Event;
    const SOURCE: Source = Source::Services;
    const NAME: &'static str = "Services";

    fn selectors(selection: &Selection) -> Selectors {
        Selectors { labels: Some(served_labels(selection)), fields: None }
    }

    fn model(self) -> ServiceObject {
        convert::service(self)
    }

    fn listed(all: Vec<ServiceObject>) -> Event {
        Event::ServicesListed(all)
    }

    fn applied(one: ServiceObject) -> Event {
        Event::ServiceApplied(Box::new(one))
    }

    fn deleted(self) -> Event {
        Event::ServiceDeleted(convert::name(&self.metadata))
    }
}

impl Watched for EndpointSlice {
    type Model = SliceObject;
    type Event = Event;
    const SOURCE: Source = Source::Slices;
    const NAME: &'static str = "EndpointSlices";

    fn selectors(selection: &Selection) -> Selectors {
        let labels = format!("{},{SERVICE_NAME_LABEL}", served_labels(selection));
        Selectors { labels: Some(labels), fields: None }
    }

    fn model(self) -> SliceObject {
        convert::slice(self)
    }

    fn listed(all: Vec<SliceObject>) -> Event {
        Event::SlicesListed(all)
    }

    fn applied(one: SliceObject) -> Event {
        Event::SliceApplied(Box::new(one))
    }

    fn deleted(self) -> Event {
        Event::SliceDeleted(convert::name(&self.metadata))
    }
}

impl Watched for Node {
    type Model = NodeObject;
    type Event = NodeEvent;
    const SOURCE: Source = Source::Node;
    const NAME: &'static str = "Nodes";

    fn selectors(selection: &Selection) -> Selectors {
        let name = selection.node_name.as_ref();
        Selectors { labels: None, fields: name.map(|name| format!("metadata.name={name}")) }
    }

    fn model(self) -> NodeObject {
        convert::node(self)
    }

    fn listed(all: Vec<NodeObject>) -> NodeEvent {
        NodeEvent::Listed(all)
    }

    fn applied(one: NodeObject) -> NodeEvent {
        NodeEvent::Applied(one)
    }

    fn deleted(self) -> NodeEvent {
        NodeEvent::Deleted(self.metadata.name.unwrap_or_default())
    }
}

/// Services of this proxy, and their slices (the slice controller copies a Service's labels).
fn served_labels(selection: &Selection) -> String {
    match &selection.proxy_name {
        None => format!("!{PROXY_NAME_LABEL},!{HEADLESS_LABEL}"),
        Some(name) => format!("{PROXY_NAME_LABEL}={name},!{HEADLESS_LABEL}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_asked_only_for_what_this_proxy_and_node_serve() {
        let ours = Selection { proxy_name: None, node_name: Some("node-1".into()) };
        let named = Selection { proxy_name: Some("edge".into()), node_name: None };
        let labels = |selectors: Selectors| selectors.labels.unwrap();
        assert_eq!(
            labels(Service::selectors(&ours)),
            "!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless"
        );
        assert_eq!(
            labels(EndpointSlice::selectors(&named)),
            "service.kubernetes.io/service-proxy-name=edge,!service.kubernetes.io/headless,\
             kubernetes.io/service-name"
        );
        let node = Selectors { labels: None, fields: Some("metadata.name=node-1".into()) };
        assert_eq!(Node::selectors(&ours), node);
        assert_eq!(Node::selectors(&named), Selectors::default());
    }
}
