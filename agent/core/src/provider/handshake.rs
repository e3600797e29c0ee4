//! Who is at the other end of a broker link: the checks of the handshake.

use ipsx_market::messages::{
    AgentAuthentication, BrokerAuthentication, BrokerMessage, PROTOCOL_VERSION,
};
use ipsx_metering::TypedData;
use ipsx_metering::{Address, B256, Domain, NetworkId, VerifyError, verify};

use super::settings::Network;

/// The other end is not the broker of this network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotTheBroker {
    /// It speaks another version.
    #[error(
        "it speaks protocol version {0}, this program {PROTOCOL_VERSION}: update the older one"
    )]
    Version(u16),
    /// It runs another network.
    #[error("it runs network {0}, not the one that was joined")]
    Network(NetworkId),
    /// It settles elsewhere.
    #[error("it settles on chain {} at {}, not where the network is", .0.chain_id, .0.contract)]
    Domain(Domain),
    /// It names another operator.
    #[error("it names {0} as operator, which is not the network's")]
    Operator(Address),
    /// It does not hold the operator's key, or somebody sits between.
    #[error("it can't prove the operator's key for this connection: {0}")]
    Signature(#[from] VerifyError),
    /// It said something else.
    #[error("it refused the connection: {0}")]
    Refused(String),
    /// It said something that has no place in a handshake.
    #[error("its answer has no place in a handshake")]
    Unexpected,
}

/// Checks a broker's answer to `Hello` on the connection with this TLS exporter.
pub fn check_welcome(
    message: &BrokerMessage,
    network: &Network,
    session: B256,
) -> Result<(), NotTheBroker> {
    let (version, id, domain, operator, signature) = match message {
        BrokerMessage::Welcome {
            version,
            network,
            domain,
            operator,
            signature,
            ..
        } => (*version, *network, *domain, *operator, signature),
        BrokerMessage::Refused { reason } => return Err(NotTheBroker::Refused(reason.clone())),
        _ => return Err(NotTheBroker::Unexpected),
    };
    if version != PROTOCOL_VERSION {
        return Err(NotTheBroker::Version(version));
    }
    if id != network.id {
        return Err(NotTheBroker::Network(id));
    }
    if domain != network.domain {
        return Err(NotTheBroker::Domain(domain));
    }
    if operator != network.operator {
        return Err(NotTheBroker::Operator(operator));
    }
    let proof = BrokerAuthentication {
        network: id,
        session,
    };
    verify(
        proof.signing_hash(&network.domain),
        signature,
        network.operator,
    )?;
    Ok(())
}

/// What the provider's wallet signs to prove itself on that connection.
pub fn authentication_hash(network: &Network, provider: Address, session: B256) -> B256 {
    AgentAuthentication {
        network: network.id,
        provider,
        session,
    }
    .signing_hash(&network.domain)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::tests::{network, operator};
    use super::*;
    use ipsx_metering::Signature;

    fn welcome(session: B256) -> BrokerMessage {
        let network = network();
        let proof = BrokerAuthentication {
            network: network.id,
            session,
        };
        BrokerMessage::Welcome {
            version: PROTOCOL_VERSION,
            software: "test".into(),
            network: network.id,
            domain: network.domain,
            operator: network.operator,
            signature: operator().sign_hash(proof.signing_hash(&network.domain)),
        }
    }

    #[test]
    fn the_operator_proves_itself_for_this_connection_only() {
        let (network, session) = (network(), B256::repeat_byte(5));
        assert_eq!(check_welcome(&welcome(session), &network, session), Ok(()));
        let relayed = check_welcome(&welcome(session), &network, B256::repeat_byte(6));
        assert!(matches!(relayed, Err(NotTheBroker::Signature(_))));
    }

    #[test]
    fn every_value_must_be_the_one_that_the_chain_confirmed() {
        let (network, session) = (network(), B256::repeat_byte(5));
        type Change = fn(&mut BrokerMessage);
        let changes: [Change; 5] = [
            |m| {
                if let BrokerMessage::Welcome { version, .. } = m {
                    *version += 1
                }
            },
            |m| {
                if let BrokerMessage::Welcome { network, .. } = m {
                    network.0 = B256::ZERO
                }
            },
            |m| {
                if let BrokerMessage::Welcome { domain, .. } = m {
                    domain.chain_id += 1
                }
            },
            |m| {
                if let BrokerMessage::Welcome { operator, .. } = m {
                    *operator = Address::ZERO
                }
            },
            |m| {
                if let BrokerMessage::Welcome { signature, .. } = m {
                    *signature = Signature([0; 65])
                }
            },
        ];
        for change in changes {
            let mut message = welcome(session);
            change(&mut message);
            assert!(check_welcome(&message, &network, session).is_err());
        }
        let refused = BrokerMessage::Refused {
            reason: "full".into(),
        };
        assert_eq!(
            check_welcome(&refused, &network, session),
            Err(NotTheBroker::Refused("full".into()))
        );
    }
}
