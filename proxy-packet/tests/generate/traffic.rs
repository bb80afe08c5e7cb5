//! Generated packets, at a hook, some of them spoilt.
//!
//! Must not know tables.

use std::net::SocketAddr;

use proptest::prelude::*;
use proptest::sample::select;
use proxy_packet::simulation::{Extension, Frame, Simulation};

use super::egress::{ECHO, OUTSIDE};
use super::hooks::{self, Hook, Outcome};
use super::patch;
use super::scene::{BACKENDS, CLIENTS, End, FRONTENDS, Flow, NODE_DEVICES, POD_DEVICES, PORTS, Scene};
use super::world::{Device, Ip, LOCAL, OWN};

/// TCP flags that packets have: every state's, and nonsense.
const FLAGS: [u8; 12] = [2, 2, 2, 0x10, 0x10, 0x18, 0x12, 0x11, 0x04, 0x14, 0x00, 0x03];

/// Between whom a packet is sent.
#[derive(Clone, Debug)]
pub enum Ends {
    /// Any two.
    Any(End, End),
    /// From someone to a Service of the scene, if there is one with this number.
    Ask(usize, End),
    /// Of a flow of the scene: from its client, if there is one with this number.
    Request(usize),
    /// From its backend.
    Reply(usize),
    /// From a pod to the outside, behind the kernel's routing.
    Out(End, End),
}

/// What is sent.
#[derive(Clone, Debug)]
pub enum Sent {
    /// A packet of a protocol with ports.
    Segment { protocol: u8, flags: u8, numbers: (u32, u32), length: usize },
    /// An ICMP error about such a packet in the other direction, from someone.
    Error { protocol: u8, kind: u8, from: Option<&'static str>, length: usize, quoted: usize },
    /// An ICMP echo request or its reply.
    Echo { reply: bool, length: usize },
    /// Something without ports.
    Other { protocol: u8, length: usize },
}

/// How it is wrapped.
#[derive(Clone, Debug)]
pub struct Shape {
    pub hops: u8,
    pub dont_fragment: bool,
    pub options: usize,
    pub extensions: Vec<Extension>,
    pub tags: Vec<u16>,
    pub padding: usize,
    pub fragment: Option<(bool, u16, u32)>,
    pub udp_sum: bool,
    pub segment: u32,
}

/// A change of the finished bytes.
#[derive(Clone, Debug)]
pub enum Mutation {
    /// Bits of the byte at this offset behind the link layer, modulo the length.
    Flip(u16, u8),
    /// Only so many bytes are left, modulo the length.
    Cut(u16),
    /// Another value of the 16 bits there.
    Set(u16, u16),
    /// So many bytes more.
    Grow(u8),
}

/// At which hook.
#[derive(Clone, Copy, Debug)]
pub enum At {
    /// Where the packet would come by.
    Fitting,
    /// At this one whatever the packet is; `true`: made by the host.
    Any(Hook, Device, bool),
}

/// A packet at a hook.
#[derive(Clone, Debug)]
pub struct Packet {
    pub at: At,
    pub ends: Ends,
    pub sent: Sent,
    pub shape: Shape,
    pub mutations: Vec<Mutation>,
}

fn any_ends() -> impl Strategy<Value = Ends> {
    let client = || (select(&CLIENTS[..]), select(&PORTS[..]));
    let frontend = || select(&FRONTENDS[..]);
    let backend = || select(&BACKENDS[..]);
    let own = || (select(&["node", "second"][..]), 1_024_u16..1_027);
    let pod = || (select(&LOCAL[..]), select(&PORTS[..]));
    let outside = || select(&OUTSIDE[..]);
    prop_oneof![
        6 => (0_usize..3, client()).prop_map(|(service, from)| Ends::Ask(service, from)),
        2 => (client(), frontend()).prop_map(|(from, to)| Ends::Any(from, to)),
        1 => (client(), backend()).prop_map(|(from, to)| Ends::Any(from, to)),
        1 => (backend(), client()).prop_map(|(from, to)| Ends::Any(from, to)),
        1 => (backend(), own()).prop_map(|(from, to)| Ends::Any(from, to)),
        1 => (own(), frontend()).prop_map(|(from, to)| Ends::Any(from, to)),
        4 => (0_usize..7).prop_map(Ends::Request),
        4 => (0_usize..7).prop_map(Ends::Reply),
        3 => (pod(), outside()).prop_map(|(from, to)| Ends::Out(from, to)),
        1 => (pod(), frontend()).prop_map(|(from, to)| Ends::Out(from, to)),
        2 => (outside(), own()).prop_map(|(from, to)| Ends::Any(from, to)),
    ]
}

fn sent() -> impl Strategy<Value = Sent> {
    let protocol = || prop_oneof![4 => Just(6_u8), 4 => Just(17), 2 => Just(132)];
    let length = || prop_oneof![4 => 0_usize..40, 2 => 40_usize..600, 1 => 1_200_usize..1_480];
    let number = || prop_oneof![Just(1_000_u32), Just(u32::MAX), any::<u32>()];
    prop_oneof![
        8 => (protocol(), select(&FLAGS[..]), (number(), number()), length())
            .prop_map(|(protocol, flags, numbers, length)| Sent::Segment { protocol, flags, numbers, length }),
        3 => (
            protocol(),
            0_u8..5,
            prop::option::of(select(&["router", "remote", "node"][..])),
            0_usize..200,
            prop_oneof![1 => 0_usize..60, 3 => Just(600_usize)],
        )
            .prop_map(|(protocol, kind, from, length, quoted)| Sent::Error { protocol, kind, from, length, quoted }),
        2 => (any::<bool>(), 0_usize..200).prop_map(|(reply, length)| Sent::Echo { reply, length }),
        1 => (select(&[1_u8, 2, 47, 58, 50, 0, 6, 17][..]), 0_usize..64)
            .prop_map(|(protocol, length)| Sent::Other { protocol, length }),
    ]
}

fn extension() -> impl Strategy<Value = Extension> {
    prop_oneof![
        (0_u8..3).prop_map(Extension::HopByHop),
        (0_u8..3).prop_map(Extension::DestinationOptions),
        prop_oneof![5 => Just(0_u8), 1 => Just(1)].prop_map(Extension::Routing),
        Just(Extension::Authentication),
    ]
}

/// Nothing special.
const PLAIN: Shape = Shape {
    hops: 64,
    dont_fragment: false,
    options: 0,
    extensions: Vec::new(),
    tags: Vec::new(),
    padding: 0,
    fragment: None,
    udp_sum: true,
    segment: 0,
};

fn shape() -> impl Strategy<Value = Shape> {
    prop_oneof![1 => Just(PLAIN).boxed(), 1 => odd_shape().boxed()]
}

fn odd_shape() -> impl Strategy<Value = Shape> {
    (
        prop_oneof![8 => Just(64_u8), 1 => 0_u8..3, 1 => any::<u8>()],
        any::<bool>(),
        prop_oneof![6 => Just(0_usize), 1 => 1_usize..11],
        prop_oneof![4 => Just(Vec::new()).boxed(), 1 => prop::collection::vec(extension(), 1..8).boxed()],
        prop_oneof![8 => Just(Vec::new()), 1 => Just(vec![0x8100]), 1 => Just(vec![0x88a8, 0x8100])],
        prop_oneof![6 => Just(0_usize), 1 => 1_usize..20],
        prop_oneof![
            6 => Just(None).boxed(),
            1 => (any::<bool>(), (1_u16..40).prop_map(|n| n * 8), 1_u32..4).prop_map(Some).boxed()
        ],
        (
            prop_oneof![6 => Just(true), 1 => Just(false)],
            prop_oneof![8 => Just(0_u32), 1 => Just(500), 1 => Just(1_400)],
        ),
    )
        .prop_map(
            |(hops, dont_fragment, options, extensions, tags, padding, fragment, (udp_sum, segment))| Shape {
                hops,
                dont_fragment,
                options,
                extensions,
                tags,
                // A device pads no packet that it still has to segment, and segments no fragment.
                padding: if segment == 0 { padding } else { 0 },
                fragment: fragment.filter(|_| segment == 0),
                udp_sum,
                segment,
            },
        )
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // The headers are where it matters.
    let at = || prop_oneof![6 => 0_u16..80, 2 => 80_u16..200, 1 => any::<u16>()];
    prop_oneof![
        6 => (at(), 1_u8..=255).prop_map(|(at, bits)| Mutation::Flip(at, bits)),
        2 => (at(), select(&[0_u16, 1, 0xffff, 0x8000, 8, 20, 0x2000, 0x0600][..])).prop_map(|(at, value)| Mutation::Set(at, value)),
        2 => at().prop_map(Mutation::Cut),
        1 => (1_u8..100).prop_map(Mutation::Grow),
    ]
}

/// Any packet at any hook; `mutations` are how many at most.
pub fn packet(mutations: usize) -> impl Strategy<Value = Packet> {
    let node =
        || (select(&[Hook::NodeIngress, Hook::NodeIngress, Hook::NodeEgress][..]), select(&NODE_DEVICES[..]));
    let pod = || (select(&[Hook::PodIngress, Hook::PodEgress][..]), select(&POD_DEVICES[..]));
    let at = (prop_oneof![2 => node().boxed(), 1 => pod().boxed()], any::<bool>())
        .prop_map(|((hook, device), host)| At::Any(hook, device, host && hook == Hook::NodeEgress));
    (
        prop_oneof![4 => Just(At::Fitting).boxed(), 1 => at.boxed()],
        any_ends(),
        sent(),
        shape(),
        prop::collection::vec(mutation(), 0..=mutations),
    )
        .prop_map(|(at, ends, sent, shape, mutations)| Packet { at, ends, sent, shape, mutations })
}

impl Packet {
    /// The protocol of the flow that it belongs to, if that is told by the flow; source and destination.
    fn ends(&self, scene: &Scene) -> (End, End, Option<u8>) {
        let nobody = (("nobody", 9), FRONTENDS[0], None);
        let of = |number: usize, ends: fn(&Flow) -> (End, End)| {
            scene.flows.get(number % scene.flows.len().max(1)).map_or(nobody, |flow| {
                let (from, to) = ends(flow);
                (from, to, Some(flow.protocol))
            })
        };
        match self.ends {
            Ends::Any(from, to) | Ends::Out(from, to) => (from, to, None),
            Ends::Ask(number, from) => match scene.services.get(number % scene.services.len().max(1)) {
                Some(service) => (from, service.frontend, Some(service.protocol)),
                None => nobody,
            },
            Ends::Request(number) => of(number, |flow| (flow.client, flow.frontend)),
            Ends::Reply(number) => of(number, |flow| (flow.backend, flow.source())),
        }
    }

    /// The packet before it is spoilt.
    pub fn sound(&self, scene: &Scene) -> Vec<u8> {
        let (from, to, protocol) = self.ends(scene);
        let is_reply = matches!(self.ends, Ends::Reply(_));
        let frame = match &self.sent {
            Sent::Segment { length, .. } if protocol == Some(ECHO) => {
                echo(scene.ip, (from, to), is_reply, *length)
            }
            Sent::Segment { protocol: other, flags, numbers, length } => {
                segment(scene.ip, (from, to), protocol.unwrap_or(*other), (*flags, *numbers), *length)
            }
            Sent::Error { protocol: other, kind, from: sender, length, quoted } => {
                // About a packet that went the other way.
                let about = if protocol == Some(ECHO) {
                    echo(scene.ip, (to, from), !is_reply, *length)
                } else {
                    segment(scene.ip, (to, from), protocol.unwrap_or(*other), (0x10, (7, 8)), *length)
                };
                let mut quote = about.bare().build();
                quote.truncate(*quoted);
                error(scene.ip, sender.unwrap_or(from.0), to.0, *kind, &quote)
            }
            Sent::Echo { reply, length } => echo(scene.ip, (from, to), *reply, *length),
            Sent::Other { protocol, length } => {
                let (from, to) = (socket(scene.ip, from).ip(), socket(scene.ip, to).ip());
                Frame::new(from, to, *protocol, vec![0x55; *length])
            }
        };
        self.wrap(frame)
    }

    fn wrap(&self, mut frame: Frame) -> Vec<u8> {
        let shape = &self.shape;
        frame = frame.hop_limit(shape.hops).options(&vec![1; shape.options * 4]).padding(shape.padding);
        for tag in &shape.tags {
            frame = frame.tag(*tag);
        }
        for extension in &shape.extensions {
            frame = frame.extension(*extension);
        }
        if shape.dont_fragment {
            frame = frame.dont_fragment();
        }
        if !shape.udp_sum {
            frame = frame.without_udp_sum();
        }
        match shape.fragment {
            None => frame.build(),
            Some((true, at, id)) => frame.fragments(id, at).0,
            Some((false, at, id)) => frame.fragments(id, at).1,
        }
    }

    /// The packet as it is sent.
    pub fn bytes(&self, scene: &Scene) -> Vec<u8> {
        let mut bytes = self.sound(scene);
        for mutation in &self.mutations {
            // Nothing stands behind a packet that a device has still to segment.
            if self.shape.segment == 0 || !matches!(mutation, Mutation::Grow(_)) {
                mutation.apply(&mut bytes);
            }
        }
        if !self.mutations.is_empty() {
            // What everybody checks first would stop most of them.
            patch::seal(&mut bytes, 14 + 4 * self.shape.tags.len());
        }
        bytes
    }

    /// Sends it; the state is in `world`.
    pub fn send(&self, scene: &Scene, world: &mut Simulation) -> Outcome {
        self.put(scene, world);
        hooks::run(world, self.hook(scene))
    }

    /// Puts it in place.
    pub fn put(&self, scene: &Scene, world: &mut Simulation) {
        let (_, device, from_host) = self.place(scene);
        world.put(device.index(), self.bytes(scene));
        world.segment = self.shape.segment;
        world.from_host = from_host;
    }

    /// Where it meets the path.
    pub fn hook(&self, scene: &Scene) -> Hook {
        self.place(scene).0
    }

    /// Whether a pod sends it out, so that it meets the path behind the kernel's routing.
    fn goes_out(&self, scene: &Scene) -> bool {
        match self.ends {
            Ends::Out(..) => true,
            Ends::Request(number) => {
                let flow = scene.flows.get(number % scene.flows.len().max(1));
                flow.is_some_and(Flow::is_masqueraded)
            }
            _ => false,
        }
    }

    fn place(&self, scene: &Scene) -> (Hook, Device, bool) {
        let (from, to, _) = self.ends(scene);
        let returns = matches!(self.ends, Ends::Reply(_)) && !OWN.contains(&to.0);
        match (self.at, returns || self.goes_out(scene), from.0) {
            (At::Any(hook, device, from_host), ..) => (hook, device, from_host),
            // A reply that the kernel's stack forwards is met where it leaves.
            (At::Fitting, true, _) => leaving(to.0, OWN.contains(&from.0)),
            (At::Fitting, false, own) if OWN.contains(&own) => leaving(to.0, true),
            (At::Fitting, false, "local") => (Hook::PodIngress, Device::Pod0, false),
            (At::Fitting, false, "local2") => (Hook::PodIngress, Device::Pod1, false),
            (At::Fitting, false, "far" | "second-neighbour") => (Hook::NodeIngress, Device::Eth1, false),
            (At::Fitting, false, _) => (Hook::NodeIngress, Device::Eth0, false),
        }
    }
}

fn leaving(to: &str, from_host: bool) -> (Hook, Device, bool) {
    match to {
        "local" => (Hook::PodEgress, Device::Pod0, from_host),
        "local2" => (Hook::PodEgress, Device::Pod1, from_host),
        "far" | "onward" | "second-neighbour" => (Hook::NodeEgress, Device::Eth1, from_host),
        _ => (Hook::NodeEgress, Device::Eth0, from_host),
    }
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        // The kernel takes no frame without anything behind the link layer.
        let behind = bytes.len() - 14;
        let place = |at: u16| 14 + usize::from(at) % behind;
        match *self {
            Self::Flip(at, bits) => bytes[place(at)] ^= bits,
            Self::Set(at, value) => {
                for (byte, value) in bytes[place(at)..].iter_mut().zip(value.to_be_bytes()) {
                    *byte = value;
                }
            }
            Self::Cut(at) => bytes.truncate(place(at).max(15)),
            Self::Grow(more) => bytes.resize(bytes.len() + usize::from(more), 0x77),
        }
    }
}

/// The socket address of an end.
pub fn socket(ip: Ip, end: End) -> SocketAddr {
    SocketAddr::new(ip.address(end.0).unwrap_or_else(|| panic!("no address is called {}", end.0)), end.1)
}

/// A packet of a protocol with ports.
pub fn segment(ip: Ip, ends: (End, End), protocol: u8, tcp: (u8, (u32, u32)), length: usize) -> Frame {
    let (from, to) = (socket(ip, ends.0), socket(ip, ends.1));
    let payload: Vec<u8> = (0..length).map(|index| (index * 5 + 1).to_le_bytes()[0]).collect();
    match protocol {
        6 => Frame::tcp(from, to, tcp.0, tcp.1, &payload),
        17 => Frame::udp(from, to, &payload),
        _ => Frame::sctp(from, to, &payload),
    }
}

/// An echo request whose identifier is the sender's port, or a reply with the receiver's.
pub fn echo(ip: Ip, ends: (End, End), reply: bool, length: usize) -> Frame {
    let (from, to) = (socket(ip, ends.0), socket(ip, ends.1));
    let [request, answer] = if ip == Ip::V4 { [8, 0] } else { [128, 129] };
    let (kind, identifier) = if reply { (answer, to.port()) } else { (request, from.port()) };
    Frame::icmp(from.ip(), to.ip(), (kind, 0), u32::from(identifier) << 16 | 1, &vec![0x66; length])
}

fn error(ip: Ip, from: &str, to: &str, kind: u8, quote: &[u8]) -> Frame {
    let four = [(3, 3), (3, 4), (11, 0), (12, 0), (5, 0)];
    let six = [(1, 4), (2, 0), (3, 0), (4, 0), (137, 0)];
    let kind = if ip == Ip::V4 { four } else { six }[usize::from(kind)];
    let address = |name: &str| ip.address(name).unwrap_or_else(|| panic!("no address is called {name}"));
    Frame::icmp(address(from), address(to), kind, 1_300, quote)
}
