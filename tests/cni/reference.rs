//! What the reference plugin `ptp` with `host-local` (1.1.1, as Debian has it) does not do.

/// The rules of the suite that it breaks.
pub(crate) const MISSING: &[&str] = &[];
