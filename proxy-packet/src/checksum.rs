//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Must not know packets.

/// The ones' complement difference that replacing the words `from` by `to` makes, as the kernel's `bpf_csum_diff`
/// gives it: to be added to the complement of the old checksum. Words are as they are in memory.
#[inline(always)]
pub fn difference(from: &[u32], to: &[u32]) -> u32 {
    let mut sum = 0_u64;
    for word in from {
        sum += u64::from(!*word);
    }
    for word in to {
        sum += u64::from(*word);
    }
    fold32(sum)
}

/// The sum of two sums or differences.
#[inline(always)]
pub fn add(one: u32, other: u32) -> u32 {
    fold32(u64::from(one) + u64::from(other))
}

/// The sum of all words of `bytes`, as they are in memory; `N` is a multiple of 4, or 2 or 1 (the last byte of an odd
/// number counts as if a zero followed).
#[inline(always)]
pub fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut sum = 0_u64;
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let mut last = [0; 4];
    for (to, byte) in last.iter_mut().zip(rest) {
        *to = *byte;
    }
    fold32(sum + u64::from(u32::from_ne_bytes(last)))
}

/// The checksum field that `old` becomes by a difference. In memory order like the words it came from.
#[inline(always)]
pub fn update(old: u16, difference: u32) -> u16 {
    !fold16(add(u32::from(!old), difference))
}

/// The checksum field over what sums up to `sum`.
#[inline(always)]
pub fn finish(sum: u32) -> u16 {
    !fold16(sum)
}

/// Folds the carries of a sum of 32-bit words.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "folded to 32 bits before")]
fn fold32(sum: u64) -> u32 {
    let once = (sum & 0xffff_ffff) + (sum >> 32);
    let twice = (once & 0xffff_ffff) + (once >> 32);
    twice as u32
}

/// Folds a sum to 16 bits.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "folded to 16 bits before")]
pub fn fold16(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    let twice = (once & 0xffff) + (once >> 16);
    twice as u16
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    /// The sum bit by bit as RFC 1071 says it.
    fn plain(words: &[u32]) -> u16 {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut sum = 0_u64;
        for pair in bytes.chunks(2) {
            sum += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        u16::try_from(sum).unwrap()
    }

    #[test]
    fn the_example_of_rfc_1071_sums_up() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold16(sum(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    #[test]
    fn an_odd_byte_counts_as_if_a_zero_followed() {
        assert_eq!(fold16(sum(&[0xab])), fold16(sum(&[0xab, 0])));
    }

    proptest! {
        #[test]
        fn an_update_gives_what_the_whole_sum_gives(before in any::<[u32; 5]>(), after in any::<[u32; 4]>()) {
            let [rest, old @ ..] = before;
            let [a, b, c, d] = after;
            // A sum of nothing but zeros has two forms; no packet has it.
            let rest = rest | 1;
            let (whole, changed) = (plain(&[rest, old[0], old[1], old[2], old[3]]), plain(&[rest, a, b, c, d]));
            prop_assert_eq!(update(!whole, difference(&old, &after)), !changed);
        }

        #[test]
        fn bytes_sum_up_like_words(words in any::<[u32; 4]>()) {
            let mut bytes = [0; 16];
            for (to, word) in bytes.chunks_mut(4).zip(words) {
                to.copy_from_slice(&word.to_ne_bytes());
            }
            prop_assert_eq!(fold16(sum(&bytes)), plain(&words));
            prop_assert_eq!(finish(difference(&[], &words)), !plain(&words));
        }
    }
}
