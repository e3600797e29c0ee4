//! What a filter must be like.

use super::{MAX_CIRCLES, MAX_LIST, MAX_SERVICES, Unusable, field};
use crate::geo::{Circle, FURTHEST_KM};
use crate::place::{AddressType, MAX_REPUTATION};
use crate::request::Filter;
use crate::services::ServiceName;

/// What is asked of an offer.
pub(super) fn check_filter(filter: &Filter) -> Result<(), Unusable> {
    let avoid = &filter.avoid;
    let lists = [
        ("filter.countries", filter.countries.len(), MAX_LIST),
        ("filter.regions", filter.regions.len(), MAX_LIST),
        ("filter.cities", filter.cities.len(), MAX_LIST),
        ("filter.circles", filter.circles.len(), MAX_CIRCLES),
        ("filter.asns", filter.asns.len(), MAX_LIST),
        ("filter.prefixes", filter.prefixes.len(), MAX_LIST),
        ("filter.ports", filter.ports.len(), MAX_LIST),
        ("filter.avoid.prefixes", avoid.prefixes.len(), MAX_LIST),
        ("filter.avoid.asns", avoid.asns.len(), MAX_LIST),
        ("filter.avoid.providers", avoid.providers.len(), MAX_LIST),
        (
            "filter.address_types",
            filter.address_types.len(),
            AddressType::ALL.len(),
        ),
    ];
    for (name, entries, most) in lists {
        if entries > most {
            let value = format!("a list of {entries}");
            return Err(field(name, value, format!("at most {most} entries")));
        }
    }
    let possible = |c: &Circle| c.center.is_valid() && (1..=FURTHEST_KM).contains(&c.km);
    if let Some(circle) = filter.circles.iter().find(|circle| !possible(circle)) {
        let allowed = format!("points of the earth, with 1 to {FURTHEST_KM} km around them");
        return Err(field("filter.circles", circle, allowed));
    }
    if filter.ports.contains(&0) {
        return Err(field("filter.ports", 0, "ports from 1 to 65535"));
    }
    if filter.min_reputation > MAX_REPUTATION {
        let allowed = format!("at most {MAX_REPUTATION}");
        return Err(field(
            "filter.min_reputation",
            filter.min_reputation,
            allowed,
        ));
    }
    check_services("filter.services", &filter.services)
}

pub(super) fn check_services(name: &'static str, services: &[ServiceName]) -> Result<(), Unusable> {
    let twice = (1..services.len()).any(|at| services[..at].contains(&services[at]));
    if services.len() > MAX_SERVICES || twice {
        let allowed = format!("at most {MAX_SERVICES} names, each once");
        return Err(field(name, format!("{services:?}"), allowed));
    }
    Ok(())
}
