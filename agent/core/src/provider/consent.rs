//! What a person agrees to before others use their address.

use ipsx_metering::{B256, UnixSeconds, keccak256};
use ipsx_tunnel_core::{ExitPolicy, Tier};
use serde::{Deserialize, Serialize};

use super::settings::OfferTerms;

const MEANING: &str = "\
SHARING YOUR ADDRESS

What you are about to do
  People you do not know will reach the internet through this computer. To every website and
  service that they use, the traffic comes from your address, as if you had sent it. They pay you
  by the second. Nothing is stored of what they send or read.
";

const CONSEQUENCES: &str = "\
Law and records
  You answer for your line. If somebody misuses it, the first questions may come to you: from a
  website that blocks your address, from your internet provider, or from the police. Your contract
  with your internet provider, your landlord or your employer may forbid sharing, and some countries
  ask for a licence; check both before you go on. The program keeps, in its data folder: every deal
  with the requester's wallet and both signatures, when it ran, how many bytes it moved, what was
  paid, and this consent. It also keeps, for 30 days unless --record-retention says otherwise, a
  sealed list of connections: when, from which port, to which address, how many bytes; no content.
  `ipsx disclose` shows one of them, with proof whose it was, and none of the others. Show these
  records to whoever has a right to ask.

What you earn and risk
  Payments are signed promises until you claim them on the chain; a lease that stops paying is
  slowed down, stopped and ended within seconds. At worst you have carried that traffic unpaid, and
  the network's operator and a payer acting together can cheat you of what you have not claimed.

How to stop
  Press Ctrl-C, or send the program SIGTERM: running leases end, the market is told, nothing new
  starts. Start it with other limits at any time. After changing what others may reach you are
  asked again.
";

/// The text that a provider accepts, for one exit policy and one set of limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsentText {
    text: String,
    version: B256,
    policy_hash: B256,
}

/// That the text was accepted, for keeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentRecord {
    /// [`ConsentText::version`] of what was shown.
    pub version: B256,
    /// Keccak of the exit policy that it described, with the categories of its domain lists and no domains.
    pub policy_hash: B256,
    /// When.
    pub accepted_at: UnixSeconds,
}

impl ConsentText {
    /// The text for this policy and these terms.
    pub fn new(policy: &ExitPolicy, terms: &OfferTerms) -> Self {
        let reach = reach(policy);
        let limits = limits(terms);
        Self {
            text: [MEANING, &reach, &limits, CONSEQUENCES].join("\n"),
            version: keccak256([MEANING, REFUSED, CONSEQUENCES].concat()),
            policy_hash: policy_hash(&policy.with_any_domains()),
        }
    }

    /// What a person reads.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Keccak of the parts that are the same for everybody; changes when what is agreed to changes.
    pub fn version(&self) -> B256 {
        self.version
    }

    /// Whether an earlier acceptance still holds: same text, same exit policy. Which domains a list has may change.
    pub fn is_covered_by(&self, record: &ConsentRecord) -> bool {
        record.version == self.version && record.policy_hash == self.policy_hash
    }

    /// The record of accepting it now.
    pub fn accept(&self, now: UnixSeconds) -> ConsentRecord {
        ConsentRecord {
            version: self.version,
            policy_hash: self.policy_hash,
            accepted_at: now,
        }
    }
}

/// Keccak of a policy's canonical bytes, as offers and deals carry it.
pub fn policy_hash(policy: &ExitPolicy) -> B256 {
    keccak256(policy.canonical_bytes())
}

const REFUSED: &str = "  \
  Always refused: your own computer and home network, other private networks, link-local, multicast
  and reserved addresses, the metadata services of clouds, and sending mail (ports 25, 465 and 587),
  unless a rule below opens one of them.
";

fn reach(policy: &ExitPolicy) -> String {
    let tier = match policy.tier {
        Tier::Web => "web: websites only (TCP ports 80 and 443) and the name look-ups they need",
        Tier::WebUdp => {
            "web+udp: websites (TCP ports 80 and 443), and UDP on any port: calls, games, QUIC"
        }
        Tier::Open => "open: nearly everything, on any TCP or UDP port",
    };
    let mut text = format!("What others may reach through you\n  {tier}.\n{REFUSED}");
    for (verb, rules) in [("opened", &policy.allow), ("closed", &policy.deny)] {
        for rule in rules {
            text.push_str(&format!("  Besides, {verb} by your own rule: {rule}\n"));
        }
    }
    for (verb, lists) in [
        ("not answered", &policy.deny_domains),
        ("answered in spite of that", &policy.allow_domains),
    ] {
        for list in lists {
            let category = &list.category;
            text.push_str(&format!(
                "  Names on your list {category:?} are {verb}, as the list is at the time.\n"
            ));
        }
    }
    text
}

fn limits(terms: &OfferTerms) -> String {
    let capacity = terms.capacity;
    let month = match capacity.bytes_per_month {
        u64::MAX => "no limit per month (set one with --bytes-per-month)".to_owned(),
        bytes => format!("at most {bytes} bytes in a calendar month"),
    };
    let hours = match terms.weekly_hours.0.count_ones() {
        168 => "at any hour".to_owned(),
        hours => format!("in {hours} of the 168 hours of a week"),
    };
    format!(
        "Your limits\n  At most {} lease(s) at a time, each {} to {} s long, {hours};\n  {month}.\n  Sold are {} Mbit/s up and {} Mbit/s down together; a lease may use more while your line has it.\n",
        capacity.leases, terms.min_seconds, terms.max_seconds, capacity.mbit_up, capacity.mbit_down,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::terms;
    use super::*;

    #[test]
    fn says_what_is_open_and_what_the_limits_are() {
        let mut policy = ExitPolicy::new(Tier::Web);
        policy.allow.push("127.0.0.1/32:tcp/8080".parse().unwrap());
        let consent = ConsentText::new(&policy, &terms());
        for part in [
            "TCP ports 80 and 443",
            "127.0.0.1/32:tcp/8080",
            "4 lease(s)",
            "Ctrl-C",
            "police",
            "mail",
        ] {
            assert!(
                consent.text().contains(part),
                "{part:?} in\n{}",
                consent.text()
            );
        }
    }

    #[test]
    fn holds_for_the_same_text_and_policy_only() {
        let consent = ConsentText::new(&ExitPolicy::new(Tier::Web), &terms());
        let record = consent.accept(UnixSeconds(7));
        assert!(consent.is_covered_by(&record));
        let mut more_leases = terms();
        more_leases.capacity.leases += 1;
        assert!(ConsentText::new(&ExitPolicy::new(Tier::Web), &more_leases).is_covered_by(&record));
        assert!(!ConsentText::new(&ExitPolicy::new(Tier::Open), &terms()).is_covered_by(&record));
        let older = ConsentRecord {
            version: B256::ZERO,
            ..record
        };
        assert!(!consent.is_covered_by(&older));
    }
}
