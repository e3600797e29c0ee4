//! A policy as bytes that are equal exactly when two policies mean the same.

use super::{DomainList, ExitPolicy, Rule};

/// The first byte: changes whenever the same policy comes to mean something else.
const VERSION: u8 = 1;

/// The first byte of a policy with domain lists.
const VERSION_WITH_DOMAINS: u8 = 2;

impl ExitPolicy {
    /// The policy as bytes that are equal exactly when two policies mean the same, for hashing: a version, the
    /// tier's name, then the allow and the deny rules, each as a count and sorted distinct texts with 16-bit
    /// big-endian lengths. If there are domain lists, those that allow and those that deny follow, each as a count
    /// and, sorted, each once, the category's text and the 32 bytes of [`digest`](super::DomainSet::digest).
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let with_domains = !self.allow_domains.is_empty() || !self.deny_domains.is_empty();
        let mut bytes = vec![if with_domains {
            VERSION_WITH_DOMAINS
        } else {
            VERSION
        }];
        put_text(&mut bytes, self.tier.as_str());
        for rules in [&self.allow, &self.deny] {
            put_all(&mut bytes, rules.iter().map(rule));
        }
        if with_domains {
            for lists in [&self.allow_domains, &self.deny_domains] {
                put_all(&mut bytes, lists.iter().map(list));
            }
        }
        bytes
    }
}

fn rule(rule: &Rule) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_text(&mut bytes, &rule.to_string());
    bytes
}

fn list(list: &DomainList) -> Vec<u8> {
    let mut bytes = Vec::new();
    put_text(&mut bytes, &list.category);
    bytes.extend(list.names.digest());
    bytes
}

fn put_all(bytes: &mut Vec<u8>, parts: impl Iterator<Item = Vec<u8>>) {
    let mut parts: Vec<_> = parts.collect();
    // By the texts themselves, not by the lengths before them.
    parts.sort_unstable_by(|one, other| one[2..].cmp(&other[2..]));
    parts.dedup();
    bytes.extend_from_slice(&(parts.len() as u32).to_be_bytes());
    bytes.extend(parts.concat());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&(text.len() as u16).to_be_bytes());
    bytes.extend_from_slice(text.as_bytes());
}
