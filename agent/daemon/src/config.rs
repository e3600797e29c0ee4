//! Settings: defaults, then the configuration file, then the environment, then the command line.

use std::path::{Path, PathBuf};

use figment::Figment;
use figment::providers::{Env, Format, Serialized, Toml};
use ipsx_metering::Address;
use serde::{Deserialize, Serialize};

use crate::cli::CommonArgs;
use crate::exit_code::Failure;

/// The broker that is asked when none is named.
pub const DEFAULT_BROKER: &str = "http://127.0.0.1:8480";

/// What a configuration file can hold. Every key is also an environment variable with `IPSX_` before it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// URL of the broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    broker: Option<String>,
    /// URL of the chain's JSON-RPC.
    #[serde(skip_serializing_if = "Option::is_none")]
    rpc: Option<String>,
    /// The network operator's address: others are refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    operator: Option<Address>,
    /// File with the wallet's passphrase.
    #[serde(skip_serializing_if = "Option::is_none")]
    passphrase_file: Option<PathBuf>,
}

const KEYS: [&str; 4] = ["broker", "rpc", "operator", "passphrase_file"];

/// The settings of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Folder of the wallet and the records.
    pub data: PathBuf,
    /// URL of the broker, without a slash at its end; with commas between them if there are several.
    pub broker: String,
    /// URL of the chain's JSON-RPC, if not the broker's.
    pub rpc: Option<String>,
    /// The operator that the broker must name, if pinned.
    pub operator: Option<Address>,
    /// File with the wallet's passphrase.
    pub passphrase_file: Option<PathBuf>,
    /// Output for programs.
    pub json: bool,
}

impl Settings {
    /// Reads the configuration and lays the command line over it.
    pub fn load(args: &CommonArgs) -> Result<Self, Failure> {
        let data = match &args.data {
            Some(data) => data.clone(),
            None => default_data()?,
        };
        let flags = File {
            broker: args.broker.clone(),
            rpc: args.rpc.clone(),
            operator: None,
            passphrase_file: args.passphrase_file.clone(),
        };
        let mut layers = Figment::new();
        if let Some(path) = config_file(args.config.as_deref(), &data)? {
            layers = layers.merge(Toml::file_exact(path));
        }
        let file: File = layers
            .merge(Env::prefixed("IPSX_").only(&KEYS))
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|error| Failure::usage(explain(&error)))?;
        let broker = file.broker.unwrap_or_else(|| DEFAULT_BROKER.into());
        Ok(Self {
            data,
            broker: check_urls("broker", &broker)?,
            rpc: file.rpc.map(|rpc| check_url("rpc", &rpc)).transpose()?,
            operator: file.operator,
            passphrase_file: file.passphrase_file,
            json: args.json,
        })
    }

    /// The wallet's keystore.
    pub fn wallet_file(&self) -> PathBuf {
        self.data.join("wallet.json")
    }
}

fn default_data() -> Result<PathBuf, Failure> {
    directories::ProjectDirs::from("", "", "ipsx")
        .map(|dirs| dirs.data_dir().to_path_buf())
        .ok_or_else(|| {
            Failure::usage(
                "this user has no home folder for the wallet; name a folder with --data DIR",
            )
        })
}

/// The file to read: the named one, which must exist, or the one in the data folder if it exists.
fn config_file(named: Option<&Path>, data: &Path) -> Result<Option<PathBuf>, Failure> {
    let path = match named {
        Some(path) => path.to_path_buf(),
        None => {
            let path = data.join("config.toml");
            if !path.try_exists().unwrap_or(true) {
                return Ok(None);
            }
            path
        }
    };
    // Read here because the error of the configuration library hides why a file cannot be read.
    match std::fs::read_to_string(&path) {
        Ok(_) => Ok(Some(path)),
        Err(error) => Err(Failure::usage(format!(
            "the configuration {} cannot be read: {error}; correct --config or the file's permissions",
            path.display()
        ))),
    }
}

fn explain(error: &figment::Error) -> String {
    let source = error
        .metadata
        .as_ref()
        .and_then(|m| m.source.as_ref())
        .map_or_else(
            || "the environment".to_string(),
            |source| source.to_string(),
        );
    let key = if error.path.is_empty() {
        String::new()
    } else {
        format!(" key {:?}:", error.path.join("."))
    };
    let kind = error.kind.to_string();
    let reason = kind
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    format!(
        "configuration in {source}:{key} {reason}; keys are {}, for example broker = \"{DEFAULT_BROKER}\"",
        KEYS.join(", ")
    )
}

/// Several brokers of one network.
fn check_urls(key: &str, urls: &str) -> Result<String, Failure> {
    let checked = urls.split(',').map(|url| check_url(key, url.trim()));
    let checked: Vec<_> = checked.collect::<Result<_, _>>()?;
    Ok(checked.join(","))
}

pub(crate) fn check_url(key: &str, url: &str) -> Result<String, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "{key} = {url:?} {why}; write a URL such as {DEFAULT_BROKER}"
        ))
    };
    if url.starts_with("https://") {
        return Err(wrong(
            "needs TLS, which this program does not speak yet: put a local TLS proxy before it",
        ));
    }
    let parsed: hyper::Uri = url.parse().map_err(|_| wrong("is no URL"))?;
    if parsed.scheme_str() != Some("http") || parsed.host().is_none_or(str::is_empty) {
        return Err(wrong("is no URL that begins with http://"));
    }
    Ok(url.trim_end_matches('/').to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn args(data: &Path) -> CommonArgs {
        CommonArgs {
            data: Some(data.into()),
            ..CommonArgs::default()
        }
    }

    #[test]
    fn flags_beat_the_file_and_the_file_beats_the_default() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args(folder.path());
        assert_eq!(Settings::load(&args).unwrap().broker, DEFAULT_BROKER);
        std::fs::write(
            folder.path().join("config.toml"),
            "broker = \"http://10.0.0.1:80/\"",
        )
        .unwrap();
        assert_eq!(Settings::load(&args).unwrap().broker, "http://10.0.0.1:80");
        args.broker = Some("http://10.0.0.2:80, http://10.0.0.3:80/".into());
        let both = "http://10.0.0.2:80,http://10.0.0.3:80";
        assert_eq!(Settings::load(&args).unwrap().broker, both);
    }

    #[test]
    fn every_mistake_names_the_file_the_key_and_what_to_write() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config.toml");
        for (content, expected) in [
            ("broker = 7", "broker"),
            ("brokr = \"http://x\"", "brokr"),
            ("operator = \"0x12\"", "operator"),
            ("broker = \"ftp://x\"", "http://"),
            ("broker = \"https://x\"", "TLS"),
            ("broker = \"http://x,\"", "URL"),
            ("not toml", "config.toml"),
        ] {
            std::fs::write(&path, content).unwrap();
            let failure = Settings::load(&args(folder.path())).unwrap_err();
            assert_eq!(failure.code, crate::exit_code::ExitCode::Usage);
            assert!(failure.message.contains(expected), "{content}: {failure}");
            assert!(!failure.message.contains('\n'), "{failure}");
        }
    }

    #[test]
    fn a_named_file_must_be_readable() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args(folder.path());
        args.config = Some(folder.path().join("none.toml"));
        assert!(
            Settings::load(&args)
                .unwrap_err()
                .message
                .contains("none.toml")
        );
        args.config = Some(folder.path().into());
        assert!(
            Settings::load(&args)
                .unwrap_err()
                .message
                .contains("cannot be read")
        );
    }
}
