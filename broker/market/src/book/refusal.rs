//! Why an offer did not get in, or a request got none.

use ipsx_metering::Prices;

use crate::matching::Condition;

/// An offer did not get into the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// An offer for the same prefixes has a nonce at least as high.
    #[error(
        "an offer of the same prefixes with nonce {0} is in the book; use a higher one to replace it"
    )]
    Stale(u64),
    /// The provider has its share.
    #[error("a provider may have {0} offers here; withdraw one, or offer a larger prefix")]
    TooManyOffers(usize),
    /// The book is full.
    #[error("this network's book is full with {0} offers; try again later")]
    BookFull(usize),
}

/// Why nothing was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoMatch {
    /// No offer passes the filter.
    #[error("{}", no_filter_match(*.nearest))]
    NoFilterMatch {
        /// What the offer that came nearest fails by; `None` when there is no offer at all.
        nearest: Option<Condition>,
    },
    /// Offers pass the filter, but those that are free cost more.
    #[error(
        "every offer that passes the filter costs more than allowed; the cheapest asks {} a second and {} a GiB: raise the limits to these",
        cheapest.per_second, cheapest.per_gib
    )]
    PriceTooLow {
        /// The cheapest that is free.
        cheapest: Prices,
    },
    /// Offers pass, and none is free.
    #[error("{}", sold_out(*.dearer))]
    SoldOut {
        /// The cheapest that is free among those that cost more than allowed.
        dearer: Option<Prices>,
    },
}

fn no_filter_match(nearest: Option<Condition>) -> String {
    match nearest {
        None => "nothing is offered right now; try again later, or on another network".into(),
        Some(condition) => format!(
            "no offer passes the filter; the one that comes nearest fails by {condition}: loosen that, or try again later"
        ),
    }
}

fn sold_out(dearer: Option<Prices>) -> String {
    match dearer {
        None => "every offer that passes the filter is sold out; try again in a while".into(),
        Some(prices) => format!(
            "every offer within the price limits is sold out; one is free at {} a second and {} a GiB, or try again in a while",
            prices.per_second, prices.per_gib
        ),
    }
}
