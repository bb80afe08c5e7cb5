//! Free space of an array, as ranges that grow together again.
//!
//! Must not know what is kept in the space.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

/// The free positions of an array.
#[derive(Clone, Debug, Default)]
pub(crate) struct FreeRanges {
    /// Start to length; no two ranges touch.
    by_start: BTreeMap<u32, u32>,
    /// The same ranges as (length, start).
    by_length: BTreeSet<(u32, u32)>,
    total: u32,
}

impl FreeRanges {
    /// All of `space` is free.
    pub(crate) fn new(space: Range<u32>) -> Self {
        let mut free = Self::default();
        free.insert(space.start, space.end.saturating_sub(space.start));
        free
    }

    /// How many positions are free.
    pub(crate) fn total(&self) -> u32 {
        self.total
    }

    /// Length of the longest free range.
    pub(crate) fn longest(&self) -> u32 {
        self.by_length.last().map_or(0, |(length, _)| *length)
    }

    /// Takes `length` positions out of the shortest range that has room, the lowest of equals.
    pub(crate) fn take_best_fit(&mut self, length: u32) -> Option<u32> {
        let (found, start) = *self.by_length.range((length, 0)..).next()?;
        self.remove(start, found);
        self.insert(start.saturating_add(length), found.saturating_sub(length));
        Some(start)
    }

    /// Takes the lowest free position.
    pub(crate) fn take_lowest(&mut self) -> Option<u32> {
        let (start, length) = self.by_start.first_key_value().map(|(start, length)| (*start, *length))?;
        self.remove(start, length);
        self.insert(start.saturating_add(1), length.saturating_sub(1));
        Some(start)
    }

    /// Makes whatever is free of `length` positions from `start` not free.
    pub(crate) fn carve(&mut self, start: u32, length: u32) {
        let end = start.saturating_add(length);
        for (free_start, free_length) in self.overlapping(start, end) {
            let free_end = free_start.saturating_add(free_length);
            self.remove(free_start, free_length);
            self.insert(free_start, start.saturating_sub(free_start));
            self.insert(end, free_end.saturating_sub(end));
        }
    }

    /// Makes `length` positions from `start` free; those that are free already stay so.
    pub(crate) fn release(&mut self, start: u32, length: u32) {
        if length == 0 {
            return;
        }
        self.carve(start, length);
        let mut range = start..start.saturating_add(length);
        if let Some((before, size)) = self.by_start.range(..start).next_back().map(|(at, size)| (*at, *size))
            && before.saturating_add(size) == range.start
        {
            self.remove(before, size);
            range.start = before;
        }
        if let Some(size) = self.by_start.get(&range.end).copied() {
            self.remove(range.end, size);
            range.end = range.end.saturating_add(size);
        }
        self.insert(range.start, range.end.saturating_sub(range.start));
    }

    fn overlapping(&self, start: u32, end: u32) -> Vec<(u32, u32)> {
        let before = self.by_start.range(..start).next_back();
        let before = before.filter(|(at, size)| at.saturating_add(**size) > start);
        before
            .into_iter()
            .chain(self.by_start.range(start..end.max(start)))
            .map(|(at, size)| (*at, *size))
            .collect()
    }

    fn insert(&mut self, start: u32, length: u32) {
        if length > 0 {
            self.by_start.insert(start, length);
            self.by_length.insert((length, start));
            self.total = self.total.saturating_add(length);
        }
    }

    fn remove(&mut self, start: u32, length: u32) {
        self.by_start.remove(&start);
        self.by_length.remove(&(length, start));
        self.total = self.total.saturating_sub(length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(free: &FreeRanges) -> Vec<(u32, u32)> {
        let ranges: Vec<_> = free.by_start.iter().map(|(start, length)| (*start, *length)).collect();
        let mut by_length: Vec<_> = free.by_length.iter().map(|(length, start)| (*start, *length)).collect();
        by_length.sort_unstable();
        assert_eq!(ranges, by_length);
        assert_eq!(free.total(), ranges.iter().map(|(_, length)| length).sum::<u32>());
        ranges
    }

    #[test]
    fn best_fit_takes_the_shortest_range_with_room() {
        let mut free = FreeRanges::new(1..100);
        free.carve(10, 1);
        free.carve(15, 1);
        assert_eq!(ranges(&free), [(1, 9), (11, 4), (16, 84)]);
        assert_eq!(free.take_best_fit(4), Some(11));
        assert_eq!(free.take_best_fit(4), Some(1));
        assert_eq!(free.take_best_fit(6), Some(16));
        assert_eq!(ranges(&free), [(5, 5), (22, 78)]);
        assert_eq!(free.take_best_fit(79), None);
        assert_eq!(free.longest(), 78);
    }

    #[test]
    fn released_ranges_grow_together_whatever_the_order() {
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [0, 2, 3, 1]];
        for order in orders {
            let mut free = FreeRanges::new(1..17);
            let taken: Vec<u32> = (0..4).map(|_| free.take_best_fit(4).unwrap()).collect();
            assert_eq!((free.total(), free.take_best_fit(1)), (0, None));
            for index in order {
                free.release(taken[index], 4);
            }
            assert_eq!(ranges(&free), [(1, 16)], "{order:?}");
        }
    }

    #[test]
    fn releasing_what_is_free_changes_nothing() {
        let mut free = FreeRanges::new(1..10);
        free.carve(4, 2);
        free.release(3, 4);
        free.release(1, 9);
        assert_eq!(ranges(&free), [(1, 9)]);
        free.release(5, 0);
        assert_eq!(ranges(&free), [(1, 9)]);
    }

    #[test]
    fn carving_spans_several_free_ranges() {
        let mut free = FreeRanges::new(0..20);
        free.carve(5, 1);
        free.carve(10, 1);
        free.carve(3, 9);
        assert_eq!(ranges(&free), [(0, 3), (12, 8)]);
        free.carve(0, u32::MAX);
        assert_eq!(ranges(&free), []);
    }

    #[test]
    fn the_lowest_position_comes_first() {
        let mut free = FreeRanges::new(1..5);
        assert_eq!([free.take_lowest(), free.take_lowest(), free.take_lowest()], [Some(1), Some(2), Some(3)]);
        free.release(2, 1);
        assert_eq!([free.take_lowest(), free.take_lowest(), free.take_lowest()], [Some(2), Some(4), None]);
    }

    #[test]
    fn an_array_with_only_the_reserved_place_has_no_space() {
        for capacity in [0, 1] {
            let mut free = FreeRanges::new(1..capacity);
            assert_eq!((free.take_lowest(), free.take_best_fit(1), free.total()), (None, None, 0));
        }
    }
}
