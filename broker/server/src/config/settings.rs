//! The keys as they are written down, in the file, the environment and the flags alike.

use clap::Args;
use serde::{Deserialize, Serialize};

/// The keys as they are written down; each stands in the file, the environment and the flags alike.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Directory of the store, the wallet and the embedded chain [default: ~/.local/share/ipsx-broker]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_dir: Option<String>,
    /// Where deals and promises are kept: sqlite, which is broker.db in data-dir, or the URL of a PostgreSQL database, which
    /// several brokers may share; one with a password belongs in the file or the environment [default: sqlite]
    #[arg(long, value_name = "STORE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<String>,
    /// URLs of the NATS servers, with commas between them, by which this broker and others on the same PostgreSQL database
    /// are one; needs name [default: none, this broker is alone]
    #[arg(long, value_name = "URLS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nats: Option<String>,
    /// This broker's name among those that share a database: 1 to 55 of a-z, 0-9, - and _; needs nats
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Address and port for requesters (HTTP) [default: 127.0.0.1:8480]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_listen: Option<String>,
    /// Address and port for agents (QUIC, UDP) [default: 127.0.0.1:8481]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents_listen: Option<String>,
    /// Address and port of metrics, health and the operator's actions (HTTP), for nobody else; "" for none
    /// [default: 127.0.0.1:8482]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin_listen: Option<String>,
    /// Address and port that agents are told to connect to, behind a NAT [default: agents-listen]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents_public: Option<String>,
    /// Address and port (UDP) where agents and requesters ask what a NAT shows of them, and from whose address agents'
    /// endpoints are tried; "" for nowhere [default: agents-listen's address, with port 8483 beside 8481, else any free one]
    #[arg(long, value_name = "IP:PORT")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reflector_listen: Option<String>,
    /// UDP ports at agents-listen's address by which leases are relayed whose sides can't reach each other, one for each
    /// [default: none, nothing is relayed]
    #[arg(long, value_name = "FIRST-LAST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relay_ports: Option<String>,
    /// URL by which requesters reach this broker; sign-in messages name it [default: http://<http-listen>]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    /// Name by which admin-listen may be asked besides its address and localhost; repeat for more [default: none]
    #[arg(long, value_name = "NAME")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub admin_hosts: Vec<String>,
    /// Address of a proxy before http-listen, whose X-Forwarded-For is believed; repeat for more [default: none]
    #[arg(long, value_name = "IP")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// MaxMind database (.mmdb) that knows countries [default: none, no address has a country]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub country_db: Option<String>,
    /// MaxMind database (.mmdb) that knows regions, cities and coordinates, and countries if there is no country-db
    /// [default: none]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub city_db: Option<String>,
    /// MaxMind database (.mmdb) that knows autonomous systems [default: none]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asn_db: Option<String>,
    /// Keystore of the operator's wallet [default: operator.json in data-dir, made on the first start]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wallet: Option<String>,
    /// File whose first line opens the keystore; or set IPSX_BROKER_PASSPHRASE [default: with the embedded
    /// chain, operator.passphrase in data-dir, made on the first start, mode 0600]
    #[arg(long, value_name = "FILE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<String>,
    /// Where deposits and claims are: embedded or rpc [default: embedded]
    #[arg(long, value_name = "KIND")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
    /// URL of the node's JSON-RPC; with chain = rpc
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_url: Option<String>,
    /// URL of a JSON-RPC that agents and requesters are told, if rpc-url holds a secret [default: rpc-url]
    #[arg(long, value_name = "URL")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_public_url: Option<String>,
    /// Blocks on top of one that is taken for final, 0 to 10000: deposits count from then on [default: 12]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rpc_finality: Option<u64>,
    /// Address of the Centralizer contract; with chain = rpc
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centralizer: Option<String>,
    /// Id of the network to run; with chain = rpc [default: one is created and remembered]
    #[arg(long, value_name = "ID")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// With the embedded chain: hands out this many whole tokens, once; repeat for more [default: none]
    #[arg(long, value_name = "ADDRESS=TOKENS")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fund: Vec<String>,
    /// Fee of a network that is created, in hundredths of a percent, 0 to 1000 [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_bps: Option<u64>,
    /// Who receives the fee of a network that is created [default: the operator]
    #[arg(long, value_name = "ADDRESS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub treasury: Option<String>,
    /// Token units that are promised again on a provider's word that it claims no more; what the operator can
    /// afford to lose to a provider and a payer who lie together [default: 0]
    #[arg(long, value_name = "UNITS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credit_line: Option<String>,
    /// Token units from which on a claim is submitted for a provider that is away, 12 h before it would lapse; less
    /// is not worth the gas [default: 1]
    #[arg(long, value_name = "UNITS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claim_at_least: Option<String>,
    /// Seconds that a provider has to answer a proposal, 1 to 60 [default: 5]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub propose_seconds: Option<u64>,
    /// Seconds from a proposal until both must have signed, 5 to 600 [default: 20]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sign_seconds: Option<u64>,
    /// Seconds from a proposal until the lease must have started, 10 to 3600 [default: 60]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_seconds: Option<u64>,
    /// Seconds that a vanished agent's leases wait for its return, 1 to 3600 [default: 30]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<u64>,
    /// Proofs of addresses by ipsx probe: optional, which sells an address until a probe sees something else, or required,
    /// which sells only what a probe has seen: nothing without a prober [default: optional]
    #[arg(long, value_name = "RULE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prove: Option<String>,
    /// Seconds that a proof of an address counts, 60 to 2592000; it is probed again meanwhile [default: 86400]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proof_seconds: Option<u64>,
    /// Agents connected at the same time, 1 to 1000000 [default: 25000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_agents: Option<u64>,
    /// Offers in the book, 1 to 1000000 [default: 100000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_offers: Option<u64>,
    /// Offers of one provider, 1 to 100000 [default: 256]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_offers_per_provider: Option<u64>,
    /// Messages a second from one agent, 1 to 100000 [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_messages_per_second: Option<u64>,
    /// Connections a second from agents of one network (a /24 of IPv4, a /48 of IPv6), 0 to 1000000; bursts of ten times
    /// as many; 0 for any number [default: 50]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prefix_connects_per_second: Option<u64>,
    /// Messages a second from all agents of one such network, in the same way; more wait [default: 2000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_prefix_messages_per_second: Option<u64>,
    /// Bytes a second that are relayed in all, 1000 to 100000000000; each comes in once and goes out once
    /// [default: 12500000, 100 Mbit/s]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_relay_bytes_per_second: Option<u64>,
    /// Bytes a second that are relayed of one lease, both directions together, 1000 to 100000000000
    /// [default: 1250000, 10 Mbit/s]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_lease_relay_bytes_per_second: Option<u64>,
    /// Relayed leases at once that one deposit pays for, and that one provider lends, 1 to 65535 [default: 16, or a quarter of
    /// relay-ports if that is less, but at least 2]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_relayed_leases_per_wallet: Option<u64>,
    /// Deals of one requester that are proposed or not yet started, 1 to 10000 [default: 8]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_unstarted_deals: Option<u64>,
    /// Requests that wait for an offer, 0 to 1000000; 0 for none, one for several leases counts as so many [default: 100000]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_resting_requests: Option<u64>,
    /// Of these, those that one payer is to pay, 0 to 100000 [default: 32]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_resting_requests_per_payer: Option<u64>,
    /// HTTP requests at work at the same time, 1 to 1000000 [default: 1024]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_http_requests: Option<u64>,
    /// HTTP requests a second from one address (IPv6: one /64), 0 to 1000000; bursts of ten times as many; 0 for any
    /// number [default: 200]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_address_requests_per_second: Option<u64>,
    /// HTTP requests a second from one wallet, in the same way [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_wallet_requests_per_second: Option<u64>,
    /// Seconds that a requester's session counts, 60 to 86400 [default: 3600]
    #[arg(long, value_name = "SECONDS")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_seconds: Option<u64>,
}
