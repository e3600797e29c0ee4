//! The market's signed messages as EIP-712 sees them.

use alloy_primitives::aliases::U40;
use ipsx_metering::{CounterSource, UnixSeconds};

/// Solidity's view; names and fields make the type hashes.
pub(crate) mod sol {
    #![allow(missing_docs)]
    alloy_sol_types::sol! {
        struct Offer {
            bytes32 network; address provider; uint64 nonce; string[] prefixes; uint32 protocols;
            bytes32 policyHash; string tier; string[] ports; string[] services; uint32 leases; uint32 mbitUp; uint32 mbitDown; uint64 bytesPerMonth;
            uint128 pricePerSecond; uint128 pricePerGib; uint32 minSeconds; uint32 maxSeconds;
            uint256 weeklyHours; uint40 expiresAt;
        }
        struct Filter {
            string[] countries; string[] regions; string[] cities; Circle[] circles; uint32[] asns;
            string[] prefixes; string[] addressTypes; uint8 ipVersion; uint32 protocols; string tier;
            uint16[] ports; string[] services; uint32 mbitUp; uint32 mbitDown; uint16 maxLatencyMs;
            uint16 minReputation; string reachability; Avoid avoid;
        }
        struct Avoid { string[] prefixes; uint32[] asns; address[] providers; }
        struct Circle { int32 latitude; int32 longitude; uint32 km; }
        // `numSeconds`, because `seconds` is a reserved unit in Solidity.
        struct Request {
            bytes32 network; address requester; uint64 nonce; Filter filter;
            uint128 maxPricePerSecond; uint128 maxPricePerGib; uint128 budget; uint32 numSeconds; uint40 startEarliest; uint40 startLatest; uint64 expectedBytes;
            address payer; address payerSigner; bytes32 channelSalt; bytes32 tunnelKey; uint8 counterSource;
            uint40 expiresAt; uint40 restUntil; Bundle bundle;
        }
        struct Bundle { Leg[] legs; string distinct; bool allOrNothing; }
        struct Leg { bytes32 tunnelKey; bytes32 channelSalt; }
        struct Deal {
            bytes32 network; bytes32 request; uint8 leg; bytes32 offer; address requester; address provider;
            address payer; address payerSigner; address payout; bytes32 channelSalt; address agentKey;
            bytes32 providerTunnelKey; bytes32 requesterTunnelKey; string exitAddress; bytes32 policyHash;
            uint128 pricePerSecond; uint128 pricePerGib; uint128 budget; uint32 numSeconds;
            uint8 counterSource; uint40 signBy; uint40 startsAt; uint40 startBy; bytes32 salt;
        }
        struct Outcome { bytes32 dealId; uint8 outcome; }
        struct Appeal { bytes32 network; address provider; string seen; string addressType; string text; uint40 at; }
        struct Echo { bytes32 network; bytes32 nonce; string seen; uint40 at; }
        struct AgentAuthentication { bytes32 network; address provider; bytes32 session; }
        struct BrokerAuthentication { bytes32 network; bytes32 session; }
    }
}

/// A `uint40`; later times are the latest that fits.
pub(crate) fn uint40(time: UnixSeconds) -> U40 {
    U40::from(time.0.min(UnixSeconds::MAX.0))
}

/// Whose byte counts are paid, as it is signed.
pub(crate) fn counter_source(source: CounterSource) -> u8 {
    match source {
        CounterSource::Both => 0,
        CounterSource::Provider => 1,
    }
}
