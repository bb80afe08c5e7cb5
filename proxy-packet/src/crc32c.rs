//! CRC32c (RFC 9260, appendix A), and its change when a few bytes change.
//!
//! The CRC is linear: what flips in it depends only on what flips in the message and how far that is from the end.
//! So a port can be rewritten without reading the payload. Must not know SCTP.

/// The polynomial with its bits reversed, as the CRC is computed: the bit of x^31 is the lowest.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// x^0 in that order.
const ONE: u32 = 1 << 31;

/// The longest message whose CRC can be changed.
pub const LONGEST: u32 = 0xffff;

/// x^(8 n) for n in 0..256: as many bytes further.
static BYTES: [u32; 256] = powers(times_x(ONE, 8));
/// x^(8 * 256 n) for n in 0..256.
static PAGES: [u32; 256] = powers(times_x(ONE, 8 * 256));

/// What flips in the CRC of a message of `length` bytes (at most [`LONGEST`]) if `flipped` (four bytes read as a
/// little-endian number) flips at its beginning.
#[inline(always)]
#[expect(clippy::indexing_slicing, reason = "256 places, and 8 bits can name no other")]
pub fn change(length: u32, flipped: u32) -> u32 {
    // The compiler, which sees the caller's check, would leave out the masks, and the verifier wants them.
    let length = core::hint::black_box(length);
    let pages = PAGES[(length as usize >> 8) & 0xff];
    let bytes = BYTES[length as usize & 0xff];
    multiply(bytes, multiply(pages, flipped))
}

/// The product of two polynomials.
#[inline(always)]
const fn multiply(one: u32, other: u32) -> u32 {
    let (mut one, mut other, mut product) = (one, other, 0);
    let mut bit = 0;
    while bit < 32 {
        // Of each bit a mask: a loop without branches is one path to the verifier.
        product ^= other & (one >> 31).wrapping_neg();
        other = (other >> 1) ^ (POLYNOMIAL & (other & 1).wrapping_neg());
        one <<= 1;
        bit += 1;
    }
    product
}

const fn times_x(polynomial: u32, times: u32) -> u32 {
    let mut result = polynomial;
    let mut count = 0;
    while count < times {
        result = (result >> 1) ^ (POLYNOMIAL & (result & 1).wrapping_neg());
        count += 1;
    }
    result
}

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler, which would complain")]
const fn powers(base: u32) -> [u32; 256] {
    let mut table = [ONE; 256];
    let mut at = 1;
    while at < 256 {
        table[at] = multiply(table[at - 1], base);
        at += 1;
    }
    table
}

/// The CRC of a whole message, for those who build or check packets.
#[cfg(any(test, feature = "simulation"))]
pub fn crc32c(message: &[u8]) -> u32 {
    !message.iter().fold(u32::MAX, |crc, byte| times_x(crc ^ u32::from(*byte), 8))
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_vectors_come_out() {
        // The check value of the catalogue of CRCs, and the vectors of RFC 3720, B.4, which SCTP shares.
        let rising: Vec<u8> = (0..32).collect();
        let cases: [(&[u8], u32); 4] = [
            (b"123456789", 0xe306_9283),
            (&[0; 32], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&rising, 0x46dd_794e),
        ];
        for (message, crc) in cases {
            assert_eq!(crc32c(message), crc, "{message:?}");
        }
    }

    #[test]
    fn the_longest_message_is_covered() {
        for length in [4_u32, 12, 255, 256, 257, 511, 4_096, 65_534, LONGEST] {
            let mut message = vec![0x5a; length as usize];
            let before = crc32c(&message);
            message[1] ^= 0x81;
            assert_eq!(crc32c(&message), before ^ change(length, 0x8100), "{length}");
        }
    }

    proptest! {
        #[test]
        fn a_change_gives_what_the_whole_crc_gives(
            mut message in prop::collection::vec(any::<u8>(), 4..3_000),
            new in any::<[u8; 4]>(),
        ) {
            let before = crc32c(&message);
            let old = *message.first_chunk::<4>().unwrap();
            message[..4].copy_from_slice(&new);
            let flipped = u32::from_le_bytes(old) ^ u32::from_le_bytes(new);
            let length = u32::try_from(message.len()).unwrap();
            prop_assert_eq!(crc32c(&message), before ^ change(length, flipped));
        }
    }
}
