//! Through rows in the order of price, until it is known who comes first.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use ipsx_metering::{Amount, PricePerGib};

use super::super::line::{Line, Pages};
use super::super::row::{Rank, RowId};
use super::{AT_ONCE, Key, Price, Search};

/// A walk took too long.
pub(super) struct GaveUp;

/// What to do with a page, and with those after it.
enum Ahead {
    Look,
    /// Nothing of this price per second can be wanted any more.
    To(u128),
    /// Nothing at all can.
    Over,
}

impl Search<'_> {
    /// Looks in the order of price for the first rows of some lines that are accepted; gives up after some rows.
    ///
    /// Of one price per second, rows stand in the order of what they cost in all. So once a page starts with one that costs
    /// more than the worst that would be taken, the next price is what is looked at.
    pub(super) fn walk(
        &self,
        lines: &[&Line<Rank>],
        price: Price,
        limit: usize,
        mut steps: usize,
        accepts: impl Fn(RowId) -> bool,
    ) -> Result<Vec<Rank>, GaveUp> {
        let start = Rank::first_at(self.lowest(price));
        let mut pages: Vec<_> = lines.iter().map(|line| line.pages_from(&start)).collect();
        let mut queue = BinaryHeap::new();
        for (which, of_line) in pages.iter_mut().enumerate() {
            push(&mut queue, which, of_line);
        }
        let mut found = BTreeSet::<Key>::new();
        while let Some(Reverse((bound, which, mut rows))) = queue.pop() {
            let worst = found.last().filter(|_| found.len() >= limit).copied();
            match bound.map_or(Ahead::Look, |bound| self.ahead(&bound, price, worst)) {
                Ahead::Look => {}
                Ahead::Over => break,
                Ahead::To(next) => {
                    pages[which] = lines[which].pages_from(&Rank::first_at(next));
                    match pages[which].next() {
                        // The next price begins in this very page.
                        Some((again, same)) if again == bound => rows = same,
                        Some((bound, rows)) => {
                            queue.push(Reverse((bound, which, rows)));
                            continue;
                        }
                        None => continue,
                    }
                }
            }
            steps = steps.checked_sub(rows.len()).ok_or(GaveUp)?;
            self.look(rows, limit, &accepts, &mut found);
            push(&mut queue, which, &mut pages[which]);
        }
        Ok(found.into_iter().map(|(_, rank)| rank).collect())
    }

    /// Puts those of a page that are accepted to what was found, if they are better.
    fn look(
        &self,
        rows: &[RowId],
        limit: usize,
        accepts: &impl Fn(RowId) -> bool,
        found: &mut BTreeSet<Key>,
    ) {
        let mut worst = found.last().filter(|_| found.len() >= limit).copied();
        for rows in rows.chunks(AT_ONCE) {
            for rank in &self.ranks(rows)[..rows.len()] {
                let key = self.key(*rank);
                if worst.is_some_and(|worst| key > worst) || !accepts(rank.row) {
                    continue;
                }
                found.insert(key);
                if found.len() > limit {
                    found.pop_last();
                }
                worst = found.last().filter(|_| found.len() >= limit).copied();
            }
        }
    }

    /// The lowest price per second on one side of the limits.
    fn lowest(&self, price: Price) -> u128 {
        let most = self.wanted().max_prices;
        let any_per_gib = most.per_gib == PricePerGib(Amount::MAX);
        if price == Price::Above && any_per_gib {
            most.per_second.0.0.saturating_add(1)
        } else {
            0
        }
    }

    fn ahead(&self, bound: &Rank, price: Price, worst: Option<Key>) -> Ahead {
        let most = self.wanted().max_prices.per_second.0.0;
        if price == Price::Within && bound.per_second > most {
            return Ahead::Over;
        }
        let Some(worst) = worst else {
            return Ahead::Look;
        };
        let time_alone = Rank::first_at(bound.per_second).prices();
        if self.wanted().cost(&time_alone) > worst.0 {
            return Ahead::Over;
        }
        if (self.wanted().cost(&bound.prices()), *bound) <= worst {
            return Ahead::Look;
        }
        let next = bound.per_second.checked_add(1);
        next.map_or(Ahead::Over, Ahead::To)
    }
}

type Queued<'l> = Reverse<(Option<Rank>, usize, &'l [RowId])>;

fn push<'l>(queue: &mut BinaryHeap<Queued<'l>>, which: usize, pages: &mut Pages<'l, Rank>) {
    if let Some((bound, rows)) = pages.next() {
        queue.push(Reverse((bound, which, rows)));
    }
}
