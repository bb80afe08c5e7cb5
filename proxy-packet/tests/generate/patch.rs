//! Changes of a built packet that no builder offers: shorter ones, lies in fields.
//!
//! Must not know who wants them.

use proxy_packet::simulation::Extension;

/// Where the headers of a frame begin.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    pub l3: usize,
    pub l4: usize,
    pub protocol: u8,
}

/// Length of an extension header as it is built.
pub fn extension_length(extension: &Extension) -> usize {
    match extension {
        Extension::HopByHop(units) | Extension::DestinationOptions(units) => 8 + usize::from(*units) * 8,
        Extension::Routing(_) => 8,
        Extension::Authentication => 24,
    }
}

/// Offset of a protocol's checksum.
pub fn sum_at(protocol: u8) -> Option<usize> {
    match protocol {
        6 => Some(16),
        17 => Some(6),
        132 => Some(8),
        1 | 58 => Some(2),
        _ => None,
    }
}

/// Cuts the packet at `l3` to `length` bytes and lets its header say so.
pub fn shorten(bytes: &mut Vec<u8>, l3: usize, length: usize) {
    bytes.truncate(l3 + length);
    let six = bytes.get(l3).is_some_and(|byte| byte >> 4 == 6);
    let (at, value) = if six { (4, length.saturating_sub(40)) } else { (2, length) };
    let value = u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes();
    if let Some(field) = bytes.get_mut(l3 + at..l3 + at + 2) {
        field.copy_from_slice(&value);
    }
}

/// Gives an IPv4 header at `l3` its checksum, as far as it is there.
pub fn seal(bytes: &mut [u8], l3: usize) {
    let Some(first) = bytes.get(l3).copied() else { return };
    let length = usize::from(first & 15) * 4;
    let Some(header) = bytes.get_mut(l3..l3 + length).filter(|_| first >> 4 == 4 && length >= 20) else {
        return;
    };
    header[10..12].fill(0);
    let sum = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    header[10..12].copy_from_slice(&(!folded(sum)).to_be_bytes());
}

/// Changes the 16 bits at `at`, which the checksum at `sum_at` covers.
pub fn amend(bytes: &mut [u8], at: usize, value: u16, sum_at: usize) {
    let field = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    // RFC 1624, equation 3.
    let sum = u32::from(!field(sum_at)) + u32::from(!field(at)) + u32::from(value);
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
    bytes[sum_at..sum_at + 2].copy_from_slice(&(!folded(sum)).to_be_bytes());
}

fn folded(sum: u32) -> u16 {
    let once = (sum & 0xffff) + (sum >> 16);
    u16::try_from((once & 0xffff) + (once >> 16)).unwrap_or(u16::MAX)
}
