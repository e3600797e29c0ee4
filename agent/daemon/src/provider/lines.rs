//! Events as people read them: one line each.

use std::net::{IpAddr, SocketAddr};

use ipsx_agent_core::provider::{ProviderEvent, cause_in_words};
use ipsx_market::place::Reachability;
use ipsx_metering::DealId;

use crate::amount::{format, tokens};

/// The line for an event. `offer placed: ` at the start of one tells scripts that leases can be sold from now on.
pub fn line(event: &ProviderEvent) -> String {
    match event {
        ProviderEvent::Connected { observed } => {
            format!("connected to the broker, which sees {observed}")
        }
        ProviderEvent::Reached {
            endpoint,
            reachability,
        } => reached(*endpoint, *reachability),
        ProviderEvent::Disconnected {
            reason,
            retry_in_ms,
        } => format!("no broker: {reason}; trying again in {retry_in_ms} ms, running leases go on"),
        ProviderEvent::OfferPlaced {
            address,
            country,
            asn,
            withheld,
            ..
        } => placed(*address, country.as_deref(), *asn, withheld.as_deref()),
        ProviderEvent::OfferRefused { reason, .. } => {
            format!("the broker refused the offer: {reason}")
        }
        ProviderEvent::OfferWithdrawn { reason } => {
            format!("nothing is for sale for now: {reason}")
        }
        ProviderEvent::PolicyChanged { policy_hash } => {
            format!("a domain file has changed: new leases have the exit policy {policy_hash}")
        }
        ProviderEvent::ProposalAccepted {
            deal_id,
            requester,
            seconds,
            budget,
        } => format!(
            "{} signed: {seconds} s for {requester}, at most {}",
            short(deal_id),
            tokens(*budget)
        ),
        ProviderEvent::ProposalDeclined { requester, reason } => {
            format!("declined a request of {requester}: {reason}")
        }
        ProviderEvent::DealAborted { deal_id } => format!("{} was not bound", short(deal_id)),
        ProviderEvent::Warning { text } => text.clone(),
        ProviderEvent::PacketsDropped { reasons } => {
            let counts: Vec<_> = reasons.iter().map(|(r, n)| format!("{n} {r}")).collect();
            format!("packets dropped: {}", counts.join(", "))
        }
        ProviderEvent::Claimed {
            channels,
            amount,
            fee,
        } => format!(
            "claimed {} from {channels} channel(s), of which {} are the network's fee",
            tokens(*amount),
            tokens(*fee)
        ),
        ProviderEvent::ClaimFailed { reason, retry_in } => {
            format!("the claim did not go through: {reason}; trying again in {retry_in} s")
        }
        lease => lease_line(lease),
    }
}

fn reached(endpoint: SocketAddr, reachability: Option<Reachability>) -> String {
    match reachability {
        Some(Reachability::Direct) => format!("anybody reaches {endpoint}"),
        Some(Reachability::Punched) => format!(
            "behind a NAT: the ipsx client reaches {endpoint} through it, other WireGuard clients only once the UDP port is forwarded"
        ),
        Some(Reachability::Relayed) => format!("{endpoint} is reached through others only"),
        None => format!("whether {endpoint} is reached from outside is not known yet"),
    }
}

fn placed(
    address: IpAddr,
    country: Option<&str>,
    asn: Option<u32>,
    withheld: Option<&str>,
) -> String {
    let country = country.unwrap_or("no known country");
    let asn = asn.map(|asn| format!(", AS{asn}")).unwrap_or_default();
    let withheld = withheld
        .map(|why| format!("; not for sale yet: {why}"))
        .unwrap_or_default();
    format!("offer placed: {address} in {country}{asn}{withheld}")
}

fn lease_line(event: &ProviderEvent) -> String {
    match event {
        ProviderEvent::LeaseBooked {
            lease, starts_at, ..
        } => format!("{} is to start at {starts_at}", short(lease)),
        ProviderEvent::LeaseReady {
            lease,
            exit_address,
            seconds,
            ..
        } => format!(
            "{} ready: {exit_address} for {seconds} s, waits for the first voucher",
            short(lease)
        ),
        ProviderEvent::LeaseRelayed { lease, relay } => {
            format!("{} relayed: its requester comes by {relay}", short(lease))
        }
        ProviderEvent::LeaseServing { lease } => {
            format!("{} paid for, traffic flows", short(lease))
        }
        ProviderEvent::LeaseSecond {
            lease,
            usage,
            due,
            paid,
        } => format!(
            "{} {} s, {} B up, {} B down, due {}, paid {}",
            short(lease),
            usage.secs,
            usage.bytes_up,
            usage.bytes_down,
            format(*due),
            tokens(*paid)
        ),
        ProviderEvent::LeaseThrottled { lease } => {
            format!("{} slowed down: a voucher is late", short(lease))
        }
        ProviderEvent::LeaseOnHold { lease } => {
            format!("{} on hold: vouchers are missing", short(lease))
        }
        ProviderEvent::LeaseResumed { lease } => {
            format!("{} paid again, traffic flows", short(lease))
        }
        ProviderEvent::VoucherRefused { lease, reason } => {
            format!("{} voucher refused: {reason}", short(lease))
        }
        ProviderEvent::LeaseEnded {
            lease,
            cause,
            usage,
            amount,
            paid,
        } => format!(
            "{} ended, because {}: {} s, {} B, cost {}, paid {}",
            short(lease),
            cause_in_words(*cause),
            usage.secs,
            usage.bytes(),
            tokens(*amount),
            tokens(*paid)
        ),
        // The others are the program's own, see above.
        _ => String::new(),
    }
}

/// The first eight digits of a lease's id: enough for a person to tell leases apart.
fn short(lease: &DealId) -> String {
    let id = lease.to_string();
    format!("lease {}", id.get(2..10).unwrap_or(&id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipsx_market::messages::EndCause;
    use ipsx_metering::{Amount, OfferId, Usage};

    #[test]
    fn amounts_are_whole_tokens() {
        let event = ProviderEvent::LeaseEnded {
            lease: DealId(ipsx_metering::B256::repeat_byte(0xab)),
            cause: EndCause::Completed,
            usage: Usage {
                secs: 60,
                bytes_up: 1,
                bytes_down: 2,
            },
            amount: Amount(1_500_000_000_000_000_000),
            paid: Amount(2_000_000_000_000_000_000),
        };
        let expected =
            "lease abababab ended, because its time was up: 60 s, 3 B, cost 1.5 IPSX, paid 2 IPSX";
        assert_eq!(line(&event), expected);
    }

    #[test]
    fn a_relay_is_named() {
        let event = ProviderEvent::LeaseRelayed {
            lease: DealId(ipsx_metering::B256::repeat_byte(0xab)),
            relay: "198.51.100.1:41007".parse().unwrap(),
        };
        let expected = "lease abababab relayed: its requester comes by 198.51.100.1:41007";
        assert_eq!(line(&event), expected);
    }

    #[test]
    fn scripts_can_wait_for_the_offer() {
        let placed = |country: Option<&str>, asn| ProviderEvent::OfferPlaced {
            offer: OfferId::default(),
            address: std::net::Ipv4Addr::new(127, 0, 1, 1).into(),
            country: country.map(String::from),
            asn,
            withheld: asn
                .is_none()
                .then(|| "a probe has to see its address first".into()),
        };
        assert_eq!(
            line(&placed(Some("FR"), Some(3215))),
            "offer placed: 127.0.1.1 in FR, AS3215"
        );
        assert_eq!(
            line(&placed(None, None)),
            "offer placed: 127.0.1.1 in no known country; not for sale yet: a probe has to see its address first"
        );
    }
}
