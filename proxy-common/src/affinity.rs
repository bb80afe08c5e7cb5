//! The `affinity` map: which backend a client used last, for `sessionAffinity: ClientIP`.
//!
//! Must not know how long an entry is good for: that is the Service's.

use crate::{
    addr::{Address as _, Ipv6Be},
    check::Mix,
};

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

    /// What [`AffinityValue::tag`] is for this client while the Service's record has `generation`.
    ///
    /// Over the whole key: an LRU map may hand an element to another client while a program reads it, and a service id
    /// may be given to another Service; neither may pass for "nothing changed".
    #[inline(always)]
    pub fn tag(&self, generation: u32) -> u32 {
        self.client.mix(Mix::new()).word(self.service_id).word(self.kind).word(generation).finish()
    }

    /// The key of one client address (IPv4-mapped for IPv4); `family` is 4 or 6.
    #[inline(always)]
    pub const fn of_address(client: Ipv6Be, service_id: u32, family: u32) -> Self {
        Self { client, service_id, kind: Self::BY_ADDRESS | (family << 8) }
    }

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
        /// [`AffinityKey::tag`] with the generation of the service record under which the backend was last known to be
        /// selectable; anything else only means that this must be looked at again.
        pub tag: u32,
        /// When it was last used, `bpf_ktime_get_ns` (monotonic, not counting suspend).
        pub last_used_ns: u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_good_for_one_client_one_service_and_one_generation() {
        let key = AffinityKey::of_netns(7, 3, 4);
        let others =
            [AffinityKey::of_netns(8, 3, 4), AffinityKey::of_netns(7, 4, 4), AffinityKey::of_netns(7, 3, 6)];
        for other in others {
            assert_ne!(key.tag(1), other.tag(1), "{other:?}");
        }
        assert_ne!(key.tag(1), key.tag(2));
    }
}
