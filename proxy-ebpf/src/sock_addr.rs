//! The context of a socket hook: its fields, each read and written one word at a time as the verifier demands.
//!
//! Must not know Services.

use aya_ebpf::{
    bindings::bpf_sock_addr, helpers::generated::bpf_get_netns_cookie, programs::SockAddrContext,
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
    // SAFETY: `at` comes from `field!`.
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

    /// The socket's protocol, if a Service can have it.
    #[inline(always)]
    pub fn protocol(&self) -> Option<Protocol> {
        let number = read(field!(self.protocol));
        if number > 255 { None } else { Protocol::from_number(number as u8) }
    }

    /// Whether a datagram socket has a peer.
    #[inline(always)]
    pub fn is_connected(&self) -> bool {
        // SAFETY: the kernel guarantees a valid context, and for these hooks a full socket in it.
        let state = unsafe { (&raw const (*(*self.raw()).__bindgen_anon_1.sk).state).read_volatile() };
        state == TCP_ESTABLISHED
    }

    /// Cookie of the network namespace the socket is in.
    #[inline(always)]
    pub fn netns_cookie(&self) -> u64 {
        // SAFETY: the helper takes the program's own context.
        unsafe { bpf_get_netns_cookie(self.raw().cast()) }
    }
}
