//! Service maps that fail on purpose: any maps, with a rule that decides which writes are refused.
//!
//! Must not know why a test wants a failure.

use std::{collections::BTreeSet, io};

use proxy_core::diff::{MapOp, RealisedDump};

use super::{ApplyError, LbMaps};

/// Decides about a write: its number (from 1) and the write itself; an error refuses it.
type Rule = Box<dyn FnMut(u64, &MapOp) -> Result<(), ApplyError> + Send>;

/// Passes writes on to `inner` unless the rule refuses them.
pub struct FaultyMaps<M> {
    inner: M,
    rule: Rule,
    writes: u64,
}

impl<M: LbMaps> FaultyMaps<M> {
    /// `rule` is asked about every write, with the number of the write (from 1).
    pub fn new(inner: M, rule: impl FnMut(u64, &MapOp) -> Result<(), ApplyError> + Send + 'static) -> Self {
        Self { inner, rule: Box::new(rule), writes: 0 }
    }

    /// Refuses the `nth` write (from 1) and no other, like a kernel that was short of memory for a moment.
    pub fn failing_at(inner: M, nth: u64) -> Self {
        Self::new(inner, move |number, _| if number == nth { Err(injected()) } else { Ok(()) })
    }

    /// Refuses the `nth` write (from 1) and all after it, like a killed agent.
    pub fn failing_from(inner: M, nth: u64) -> Self {
        Self::new(inner, move |number, _| if number >= nth { Err(injected()) } else { Ok(()) })
    }

    /// How many writes were asked for, the refused ones included.
    pub fn writes(&self) -> u64 {
        self.writes
    }

    /// The maps behind.
    pub fn inner(&self) -> &M {
        &self.inner
    }

    /// The maps behind, without the rule.
    pub fn into_inner(self) -> M {
        self.inner
    }
}

fn injected() -> ApplyError {
    ApplyError::Kernel { action: "write", map: "any", source: io::Error::from(io::ErrorKind::Interrupted) }
}

impl<M: LbMaps> LbMaps for FaultyMaps<M> {
    fn apply(&mut self, op: &MapOp) -> Result<(), ApplyError> {
        self.writes += 1;
        (self.rule)(self.writes, op)?;
        self.inner.apply(op)
    }

    fn dump(&self) -> Result<RealisedDump, ApplyError> {
        self.inner.dump()
    }

    fn forget_clients(&mut self, in_use: &BTreeSet<u32>) -> Result<usize, ApplyError> {
        self.inner.forget_clients(in_use)
    }

    fn wait_grace(&self) {
        self.inner.wait_grace();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::MemoryMaps, *};

    fn write(position: u32) -> MapOp {
        MapOp::WriteRing { base: position, ids: vec![7] }
    }

    #[test]
    fn only_the_chosen_write_fails_and_leaves_no_trace() {
        let mut maps = FaultyMaps::failing_at(MemoryMaps::default(), 2);
        maps.apply(&write(1)).unwrap();
        maps.apply(&write(2)).unwrap_err();
        maps.apply(&write(3)).unwrap();
        assert_eq!(maps.writes(), 3);
        let ring = maps.dump().unwrap().ring;
        assert_eq!(ring[1..4], [7, 0, 7]);
    }

    #[test]
    fn a_killed_writer_writes_nothing_more() {
        let mut maps = FaultyMaps::failing_from(MemoryMaps::default(), 1);
        assert!((1..5).all(|position| maps.apply(&write(position)).is_err()));
        assert_eq!(maps.into_inner(), MemoryMaps::default());
    }

    #[test]
    fn a_rule_sees_the_write_itself() {
        let mut maps = FaultyMaps::new(MemoryMaps::default(), |_, op| match op {
            MapOp::WriteRing { base: 5, .. } => Err(injected()),
            _ => Ok(()),
        });
        maps.apply(&write(4)).unwrap();
        maps.apply(&write(5)).unwrap_err();
    }
}
