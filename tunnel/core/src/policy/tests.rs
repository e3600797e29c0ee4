#![allow(clippy::unwrap_used)]

mod canonical;
mod domains;
mod ranges;
mod rules;

use std::net::SocketAddr;

use super::*;
use RuleProtocol::{Tcp, Udp};

fn open() -> Matcher {
    ExitPolicy::new(Tier::Open).compile(&[])
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

fn check(matcher: &Matcher, address: impl Into<IpAddr>) -> Result<(), DropReason> {
    matcher.check(Tcp, SocketAddr::new(address.into(), 443))
}
