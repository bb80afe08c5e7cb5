//! The `affinity` map: which backend a client used last, for `sessionAffinity: ClientIP`.
//!
//! Must not know how long an entry is good for: that is the Service's.

use crate::addr::Ipv6Be;

shared_struct! {
    /// Key of `affinity`: one client of one ServicePort.
    pub struct AffinityKey {
        /// The client: its address (IPv4-mapped for IPv4), or for a translated socket the cookie of its network
        /// namespace in the first 8 bytes, as at connect time there is no source address yet.
        pub client: Ipv6Be,
        /// See [`crate::ServiceValue::service_id`].
        pub service_id: u32,
        /// [`AffinityKey::BY_NETNS`] or [`AffinityKey::BY_ADDRESS`] in the low byte, the family (4 or 6) in the next.
        pub kind: u32,
    }
}

impl AffinityKey {
    /// `client` is a network namespace cookie.
    pub const BY_NETNS: u32 = 1;
    /// `client` is an address.
    pub const BY_ADDRESS: u32 = 2;

    /// The key of all sockets of one network namespace; `family` is 4 or 6.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of the cookie")]
    pub const fn of_netns(cookie: u64, service_id: u32, family: u32) -> Self {
        let words = [cookie as u32, (cookie >> 32) as u32, 0, 0];
        Self { client: Ipv6Be::from_network_words(words), service_id, kind: Self::BY_NETNS | (family << 8) }
    }
}

shared_struct! {
    /// Value of `affinity`.
    pub struct AffinityValue {
        /// The backend used last.
        pub backend_id: u32,
        /// Generation of the service record under which the backend was last known to be selectable.
        pub generation: u32,
        /// When it was last used, `bpf_ktime_get_ns` (monotonic, not counting suspend).
        pub last_used_ns: u64,
    }
}
