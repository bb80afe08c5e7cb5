//! The context of a socket hook: its fields, each read and written one word at a time as the verifier demands.
//!
//! Must not know Services.

use aya_ebpf::{
    bindings::{bpf_sock, bpf_sock_addr},
    helpers::generated::bpf_get_netns_cookie,
    programs::SockAddrContext,
};
use proxy_common::{Ipv4Be, Ipv6Be, PortBe, Protocol};

/// Reads or writes a field of the context. Volatile: the compiler must not merge or split the accesses.
macro_rules! field {
    ($self:ident . $($name:tt)+) => {
        // SAFETY: the kernel guarantees a valid context for the length of the program.
        unsafe { &raw mut (*$self.raw()).$($name)+ }
    };
}

#[inline(always)]
fn read(at: *mut u32) -> u32 {
    // SAFETY: `at` comes from `field!`, or from the socket.
    unsafe { at.read_volatile() }
}

#[inline(always)]
fn write(at: *mut u32, value: u32) {
    // SAFETY: `at` comes from `field!`.
    unsafe { at.write_volatile(value) }
}

/// The kernel's state of a socket with a peer; UDP uses it, too.
const TCP_ESTABLISHED: u32 = 1;

/// The socket address that a system call carries.
pub struct SockAddr<'a> {
    ctx: &'a SockAddrContext,
}

impl<'a> SockAddr<'a> {
    /// Wraps the program's argument.
    #[inline(always)]
    pub fn new(ctx: &'a SockAddrContext) -> Self {
        Self { ctx }
    }

    #[inline(always)]
    fn raw(&self) -> *mut bpf_sock_addr {
        self.ctx.sock_addr
    }

    /// The context, for helpers that want it.
    #[inline(always)]
    pub fn context(&self) -> &SockAddrContext {
        self.ctx
    }

    /// The IPv4 address: destination of a connect or send, source of a receive.
    #[inline(always)]
    pub fn address4(&self) -> Ipv4Be {
        Ipv4Be::from_network_bits(read(field!(self.user_ip4)))
    }

    /// Replaces the IPv4 address.
    #[inline(always)]
    pub fn set_address4(&self, address: Ipv4Be) {
        write(field!(self.user_ip4), address.network_bits());
    }

    /// The IPv6 address.
    #[inline(always)]
    pub fn address6(&self) -> Ipv6Be {
        Ipv6Be::from_network_words([
            read(field!(self.user_ip6[0])),
            read(field!(self.user_ip6[1])),
            read(field!(self.user_ip6[2])),
            read(field!(self.user_ip6[3])),
        ])
    }

    /// Replaces the IPv6 address.
    #[inline(always)]
    pub fn set_address6(&self, address: Ipv6Be) {
        let [a, b, c, d] = address.network_words();
        write(field!(self.user_ip6[0]), a);
        write(field!(self.user_ip6[1]), b);
        write(field!(self.user_ip6[2]), c);
        write(field!(self.user_ip6[3]), d);
    }

    /// The port that goes with the address.
    #[inline(always)]
    pub fn port(&self) -> PortBe {
        PortBe::from_network_bits(read(field!(self.user_port)) as u16)
    }

    /// Replaces the port.
    #[inline(always)]
    pub fn set_port(&self, port: PortBe) {
        write(field!(self.user_port), u32::from(port.network_bits()));
    }

    /// The IPv4 address that the socket is bound to, or got when it was connected before; else unspecified.
    #[inline(always)]
    pub fn source4(&self) -> Ipv4Be {
        // SAFETY: the kernel guarantees a full socket for these hooks.
        Ipv4Be::from_network_bits(read(unsafe { &raw mut (*self.socket()).src_ip4 }))
    }

    /// As [`Self::source4`], of an IPv6 socket.
    #[inline(always)]
    pub fn source6(&self) -> Ipv6Be {
        let at = self.socket();
        // SAFETY: as above.
        let [a, b, c, d] = unsafe {
            [
                &raw mut (*at).src_ip6[0],
                &raw mut (*at).src_ip6[1],
                &raw mut (*at).src_ip6[2],
                &raw mut (*at).src_ip6[3],
            ]
        };
        Ipv6Be::from_network_words([read(a), read(b), read(c), read(d)])
    }

    /// The IPv4 address that a datagram is sent from: as [`Self::source4`], or what the program says with the datagram.
    #[inline(always)]
    pub fn sent_from4(&self) -> Ipv4Be {
        Ipv4Be::from_network_bits(read(field!(self.msg_src_ip4)))
    }

    /// As [`Self::sent_from4`], IPv6.
    #[inline(always)]
    pub fn sent_from6(&self) -> Ipv6Be {
        Ipv6Be::from_network_words([
            read(field!(self.msg_src_ip6[0])),
            read(field!(self.msg_src_ip6[1])),
            read(field!(self.msg_src_ip6[2])),
            read(field!(self.msg_src_ip6[3])),
        ])
    }

    #[inline(always)]
    fn socket(&self) -> *mut bpf_sock {
        // SAFETY: the kernel guarantees a valid context; the field is a pointer, whatever else shares its place.
        unsafe { (*self.raw()).__bindgen_anon_1.sk }
    }

    /// The socket's protocol, if a Service can have it.
    #[inline(always)]
    pub fn protocol(&self) -> Option<Protocol> {
        let number = read(field!(self.protocol));
        if number > 255 { None } else { Protocol::from_number(number as u8) }
    }

    /// Whether a datagram socket has a peer.
    #[inline(always)]
    pub fn is_connected(&self) -> bool {
        // SAFETY: the kernel guarantees a full socket for these hooks.
        let state = read(unsafe { &raw mut (*self.socket()).state });
        state == TCP_ESTABLISHED
    }

    /// Cookie of the network namespace the socket is in.
    #[inline(always)]
    pub fn netns_cookie(&self) -> u64 {
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_get_netns_cookie(self.raw().cast()) }
    }
}
