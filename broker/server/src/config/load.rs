//! From file, environment and flags to a [`BrokerConfig`].

use std::path::{Path, PathBuf};
use std::str::FromStr;

use figment::Figment;
use figment::error::Kind;
use figment::providers::{Env, Format, Serialized, Toml};

use ipsx_market::fleet::Instance;
use ipsx_metering::{Address, Amount};

use ipsx_settlement::FINALITY;

use super::keys::{NUMBERS, allowed, bad_value};
use super::{
    BrokerConfig, ChainConfig, ConfigError, FleetConfig, ReflectorConfig, Secret, Settings,
    StoreConfig,
};

/// Before every key in the environment.
pub const ENV_PREFIX: &str = "IPSX_BROKER_";
/// Longest name of a broker: each run of it adds 9 characters.
const LONGEST_NAME: usize = 55;
/// The token has 18 decimals.
const UNITS_PER_TOKEN: u128 = 1_000_000_000_000_000_000;
/// The passphrase of the operator's wallet, in the environment; it has no flag, since others can read those.
pub const PASSPHRASE_ENV: &str = "IPSX_BROKER_PASSPHRASE";

/// Reads `file`, then the environment, then `flags`; the later wins.
pub fn load(file: Option<&Path>, flags: &Settings) -> Result<BrokerConfig, ConfigError> {
    let mut figment = Figment::new();
    if let Some(path) = file {
        std::fs::read_to_string(path).map_err(|error| ConfigError::File {
            path: path.display().to_string(),
            reason: error.to_string(),
        })?;
        figment = figment.merge(Toml::file_exact(path));
    }
    // The log filter and the passphrase are read elsewhere and never by flag.
    let environment = Env::prefixed(ENV_PREFIX).ignore(&["passphrase", "log", "config"]);
    let settings: Settings = figment
        .merge(environment)
        .merge(Serialized::defaults(flags))
        .extract()
        .map_err(|error| explain(error, file))?;
    let mut config = check(&settings)?;
    config.passphrase = Env::var(PASSPHRASE_ENV).map(Secret::new);
    Ok(config)
}

/// The first thing that figment has to say, in our words.
fn explain(error: figment::Error, file: Option<&Path>) -> ConfigError {
    let source_name = error.metadata.as_ref().map(|data| match &data.source {
        Some(source) => source.to_string(),
        None => data.name.to_string(),
    });
    let key = error.path.join(".");
    match &error.kind {
        Kind::UnknownField(name, _) => ConfigError::UnknownKey {
            key: name.clone(),
            source_name,
        },
        Kind::InvalidType(actual, _) | Kind::InvalidValue(actual, _) if !key.is_empty() => {
            bad_value(&key, actual, source_name)
        }
        _ => ConfigError::File {
            path: file.map_or_else(|| "of the environment".into(), |p| p.display().to_string()),
            // TOML's errors span lines; one is enough here.
            reason: error
                .to_string()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "),
        },
    }
}

fn parsed<T: FromStr>(key: &str, value: &Option<String>) -> Result<Option<T>, ConfigError> {
    let Some(text) = value else { return Ok(None) };
    let parsed = text.parse();
    parsed
        .map(Some)
        .map_err(|_| bad_value(key, format!("{text:?}"), None))
}

pub(super) fn number<T: TryFrom<u64>>(
    key: &str,
    value: Option<u64>,
    default: T,
) -> Result<T, ConfigError> {
    let Some(value) = value else {
        return Ok(default);
    };
    let range = NUMBERS.iter().find(|(name, ..)| *name == key);
    let fits = range.is_some_and(|(_, least, most, _)| (least..=most).contains(&&value));
    let refused = || bad_value(key, value, None);
    if !fits {
        return Err(refused());
    }
    T::try_from(value).map_err(|_| refused())
}

fn path(value: &Option<String>) -> Option<PathBuf> {
    value.as_ref().map(PathBuf::from)
}

/// A base URL: scheme and authority, nothing else.
fn url(key: &str, value: &Option<String>, with_path: bool) -> Result<Option<String>, ConfigError> {
    let Some(text) = value else { return Ok(None) };
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let base = rest.map(|r| {
        if with_path {
            r
        } else {
            r.trim_end_matches('/')
        }
    });
    match base {
        Some(rest) if !rest.is_empty() && (with_path || !rest.contains(['/', '?', '#', '@'])) => {
            Ok(Some(text.trim_end_matches('/').into()))
        }
        _ => Err(bad_value(key, format!("{text:?}"), None)),
    }
}

fn check(settings: &Settings) -> Result<BrokerConfig, ConfigError> {
    let data_dir = match path(&settings.data_dir) {
        Some(directory) => directory,
        None => default_data_dir()?,
    };
    let mut config = BrokerConfig::new(data_dir);
    config.store = match settings.store.as_deref() {
        None | Some("sqlite") => StoreConfig::Sqlite,
        Some(url) if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            StoreConfig::Postgres(Secret::new(url))
        }
        // It may hold a password, so it is not repeated.
        Some(_) => return Err(bad_value("store", "\"…\"", None)),
    };
    if let Some(listen) = parsed("http_listen", &settings.http_listen)? {
        config.http_listen = listen;
    }
    if let Some(listen) = parsed("agents_listen", &settings.agents_listen)? {
        config.agents_listen = listen;
    }
    config.admin_listen = match settings.admin_listen.as_deref() {
        Some("") => None,
        Some(_) => parsed("admin_listen", &settings.admin_listen)?,
        None => config.admin_listen,
    };
    config.agents_public = parsed("agents_public", &settings.agents_public)?;
    config.reflector = match settings.reflector_listen.as_deref() {
        Some("") => ReflectorConfig::Off,
        Some(_) => parsed("reflector_listen", &settings.reflector_listen)?
            .map_or(ReflectorConfig::Off, ReflectorConfig::At),
        None => ReflectorConfig::Beside,
    };
    if config.agents_listen.ip().is_unspecified() && config.agents_public.is_none() {
        return Err(ConfigError::Missing {
            key: "agents_public".into(),
            because: format!(
                "agents_listen is {}, which nobody can connect to, and agents have to be told an address",
                config.agents_listen
            ),
            example: allowed("agents_public").1,
        });
    }
    config.relay = super::relay::check(settings, &config)?;
    config.public_url = url("public_url", &settings.public_url, false)?;
    let hosts = settings.admin_hosts.iter().map(|text| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if text.is_empty() || !text.bytes().all(plain) {
            return Err(bad_value("admin_hosts", format!("{text:?}"), None));
        }
        Ok(text.to_ascii_lowercase())
    });
    config.admin_hosts = hosts.collect::<Result<_, _>>()?;
    let proxies = settings.trusted_proxies.iter();
    let proxies = proxies.map(|text| {
        let bad = |_| bad_value("trusted_proxies", format!("{text:?}"), None);
        text.parse().map_err(bad)
    });
    config.trusted_proxies = proxies.collect::<Result<_, _>>()?;
    config.country_db = path(&settings.country_db);
    config.city_db = path(&settings.city_db);
    config.asn_db = path(&settings.asn_db);
    config.wallet = path(&settings.wallet);
    config.passphrase_file = path(&settings.passphrase_file);
    config.fee_bps = number("fee_bps", settings.fee_bps, config.fee_bps)?;
    config.treasury = parsed("treasury", &settings.treasury)?;
    if let Some(units) = parsed("credit_line", &settings.credit_line)? {
        config.credit_line = units;
    }
    if let Some(units) = parsed("claim_at_least", &settings.claim_at_least)? {
        config.claim_at_least = units;
    }
    config.chain = check_chain(settings)?;
    config.fund = check_fund(settings, &config.chain)?;
    config.fleet = check_fleet(settings, &config)?;
    check_timers(settings, &mut config)?;
    check_proofs(settings, &mut config)?;
    check_limits(settings, &mut config)?;
    Ok(config)
}

/// One of several brokers has everything that they share in the database and on a chain that none of them hosts.
fn check_fleet(
    settings: &Settings,
    config: &BrokerConfig,
) -> Result<Option<FleetConfig>, ConfigError> {
    let (nats, name) = match (&settings.nats, &settings.name) {
        (None, None) => return Ok(None),
        (Some(nats), Some(name)) => (nats, name),
        (nats, _) => {
            let (key, other) = match nats {
                None => ("nats", "name"),
                Some(_) => ("name", "nats"),
            };
            return Err(ConfigError::Missing {
                key: key.into(),
                because: format!("{other} is set, and a broker among several has both"),
                example: allowed(key).1,
            });
        }
    };
    let server = |url: &str| url.starts_with("nats://") || url.starts_with("tls://");
    if !nats.split(',').all(server) {
        // It may hold a password, so it is not repeated.
        return Err(bad_value("nats", "\"…\"", None));
    }
    if name.len() > LONGEST_NAME || name.parse::<Instance>().is_err() {
        return Err(bad_value("name", format!("{name:?}"), None));
    }
    let missing = |key: &str, because: &str| {
        Err(ConfigError::Missing {
            key: key.into(),
            because: because.into(),
            example: allowed(key).1,
        })
    };
    if config.store == StoreConfig::Sqlite {
        return missing(
            "store",
            "several brokers (nats) share a PostgreSQL database",
        );
    }
    if config.chain == ChainConfig::Embedded {
        return missing(
            "chain",
            "several brokers (nats) share a chain, and each would have an embedded one of its own",
        );
    }
    if config.credit_line != Amount::ZERO {
        return missing(
            "credit_line",
            "it is no bound for several brokers (nats), each of which would lend as much: leave it out",
        );
    }
    Ok(Some(FleetConfig {
        nats: Secret::new(nats),
        name: name.clone(),
    }))
}

fn check_proofs(settings: &Settings, config: &mut BrokerConfig) -> Result<(), ConfigError> {
    let proofs = &mut config.proofs;
    proofs.required = match settings.prove.as_deref() {
        None | Some("optional") => false,
        Some("required") => true,
        Some(other) => return Err(bad_value("prove", format!("{other:?}"), None)),
    };
    let seconds = settings.proof_seconds;
    proofs.validity = number("proof_seconds", seconds, proofs.validity)?;
    Ok(())
}

fn check_timers(settings: &Settings, config: &mut BrokerConfig) -> Result<(), ConfigError> {
    let timers = &mut config.timers;
    timers.propose = number("propose_seconds", settings.propose_seconds, timers.propose)?;
    timers.sign = number("sign_seconds", settings.sign_seconds, timers.sign)?;
    timers.start = number("start_seconds", settings.start_seconds, timers.start)?;
    timers.grace = number("grace_seconds", settings.grace_seconds, timers.grace)?;
    if timers.sign >= timers.start {
        return Err(ConfigError::Value {
            key: "sign_seconds".into(),
            value: timers.sign.to_string(),
            source_name: None,
            allowed: format!("less than start_seconds, {}", timers.start),
            example: "20".into(),
        });
    }
    if timers.propose >= timers.sign {
        return Err(ConfigError::Value {
            key: "propose_seconds".into(),
            value: timers.propose.to_string(),
            source_name: None,
            allowed: format!("less than sign_seconds, {}", timers.sign),
            example: "5".into(),
        });
    }
    Ok(())
}

fn check_limits(settings: &Settings, config: &mut BrokerConfig) -> Result<(), ConfigError> {
    let l = &mut config.limits;
    l.agents = number("max_agents", settings.max_agents, l.agents)?;
    l.offers = number("max_offers", settings.max_offers, l.offers)?;
    l.offers_per_provider = number(
        "max_offers_per_provider",
        settings.max_offers_per_provider,
        l.offers_per_provider,
    )?;
    l.messages_per_second = number(
        "max_messages_per_second",
        settings.max_messages_per_second,
        l.messages_per_second,
    )?;
    l.prefix_connects_per_second = number(
        "max_prefix_connects_per_second",
        settings.max_prefix_connects_per_second,
        l.prefix_connects_per_second,
    )?;
    l.prefix_messages_per_second = number(
        "max_prefix_messages_per_second",
        settings.max_prefix_messages_per_second,
        l.prefix_messages_per_second,
    )?;
    l.unstarted_deals = number(
        "max_unstarted_deals",
        settings.max_unstarted_deals,
        l.unstarted_deals,
    )?;
    l.resting = number(
        "max_resting_requests",
        settings.max_resting_requests,
        l.resting,
    )?;
    l.resting_per_payer = number(
        "max_resting_requests_per_payer",
        settings.max_resting_requests_per_payer,
        l.resting_per_payer,
    )?;
    l.http_requests = number(
        "max_http_requests",
        settings.max_http_requests,
        l.http_requests,
    )?;
    l.address_requests_per_second = number(
        "max_address_requests_per_second",
        settings.max_address_requests_per_second,
        l.address_requests_per_second,
    )?;
    l.wallet_requests_per_second = number(
        "max_wallet_requests_per_second",
        settings.max_wallet_requests_per_second,
        l.wallet_requests_per_second,
    )?;
    l.session_seconds = number(
        "session_seconds",
        settings.session_seconds,
        l.session_seconds,
    )?;
    Ok(())
}

fn check_chain(settings: &Settings) -> Result<ChainConfig, ConfigError> {
    let missing = |key: &str| ConfigError::Missing {
        key: key.into(),
        because: "chain = \"rpc\" needs it".into(),
        example: allowed(key).1,
    };
    let rpc_url = url("rpc_url", &settings.rpc_url, true)?;
    let public_url = url("rpc_public_url", &settings.rpc_public_url, true)?;
    let centralizer = parsed("centralizer", &settings.centralizer)?;
    let network = parsed("network", &settings.network)?;
    match settings.chain.as_deref() {
        None | Some("embedded") => {
            let extra = [
                ("rpc_url", rpc_url.is_some()),
                ("rpc_public_url", public_url.is_some()),
                ("rpc_finality", settings.rpc_finality.is_some()),
                ("centralizer", centralizer.is_some()),
                ("network", network.is_some()),
            ];
            match extra.into_iter().find(|(_, given)| *given) {
                // Silently running on another chain than the one named would be worse than an error.
                Some((key, _)) => Err(ConfigError::Missing {
                    key: "chain".into(),
                    because: format!("{key} is set, which only chain = \"rpc\" uses"),
                    example: "\"rpc\"".into(),
                }),
                None => Ok(ChainConfig::Embedded),
            }
        }
        Some("rpc") => Ok(ChainConfig::Rpc {
            url: rpc_url.ok_or_else(|| missing("rpc_url"))?,
            public_url,
            finality: number("rpc_finality", settings.rpc_finality, FINALITY)?,
            centralizer: centralizer.ok_or_else(|| missing("centralizer"))?,
            network,
        }),
        Some(other) => Err(bad_value("chain", format!("{other:?}"), None)),
    }
}

fn check_fund(
    settings: &Settings,
    chain: &ChainConfig,
) -> Result<Vec<(Address, Amount)>, ConfigError> {
    let grant = |text: &String| {
        let (address, tokens) = text.split_once('=')?;
        let tokens: u64 = tokens.trim().parse().ok()?;
        let amount = u128::from(tokens).checked_mul(UNITS_PER_TOKEN)?;
        let own_chain = *chain == ChainConfig::Embedded;
        Some((address.trim().parse().ok()?, Amount(amount))).filter(|_| own_chain)
    };
    let grants = settings.fund.iter();
    grants
        .map(|text| grant(text).ok_or_else(|| bad_value("fund", format!("{text:?}"), None)))
        .collect()
}

fn default_data_dir() -> Result<PathBuf, ConfigError> {
    directories::ProjectDirs::from("", "", "ipsx-broker")
        .map(|dirs| dirs.data_dir().to_path_buf())
        .ok_or_else(|| ConfigError::Missing {
            key: "data_dir".into(),
            because: "there is no home directory to put it into".into(),
            example: allowed("data_dir").1,
        })
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
