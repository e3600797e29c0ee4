//! What the program's exit code says, and the one error type that carries it.

use std::fmt;

/// Exit codes of `ipsx`. They are part of its interface: scripts rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Something that should not happen.
    Internal = 1,
    /// The command line or the configuration is wrong.
    Usage = 2,
    /// No wallet, a wallet that cannot be read, or a wrong passphrase.
    Wallet = 3,
    /// The broker or the chain does not answer.
    Unreachable = 4,
    /// No offer passes the filters.
    NoMatch = 5,
    /// Offers pass the filters, but all cost more.
    PriceTooLow = 6,
    /// The deposit, the tokens or the gas do not suffice.
    Balance = 7,
    /// A local address cannot be listened on.
    PortInUse = 8,
    /// The lease failed on the provider's side.
    LeaseFailed = 9,
    /// The records of a lease do not add up.
    Statement = 10,
    /// The broker or the contract refused what was asked.
    Refused = 11,
    /// Every matching offer is sold out for now.
    SoldOut = 12,
    /// A file in the data directory cannot be read or written.
    Storage = 13,
    /// The user ended it before it was done.
    Interrupted = 14,
}

impl ExitCode {
    /// Every code but 0.
    pub const ALL: [Self; 14] = [
        Self::Internal,
        Self::Usage,
        Self::Wallet,
        Self::Unreachable,
        Self::NoMatch,
        Self::PriceTooLow,
        Self::Balance,
        Self::PortInUse,
        Self::LeaseFailed,
        Self::Statement,
        Self::Refused,
        Self::SoldOut,
        Self::Storage,
        Self::Interrupted,
    ];

    /// What the code means, in one line.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Internal => "internal error: please report it",
            Self::Usage => "the command line or the configuration is wrong",
            Self::Wallet => "no wallet, an unreadable wallet, or a wrong passphrase",
            Self::Unreachable => "the broker or the chain does not answer",
            Self::NoMatch => "no offer passes the filters",
            Self::PriceTooLow => "offers pass the filters, but all cost more",
            Self::Balance => "the deposit, the tokens or the gas do not suffice",
            Self::PortInUse => "a local address cannot be listened on",
            Self::LeaseFailed => "the lease failed on the provider's side",
            Self::Statement => "the records of a lease do not add up",
            Self::Refused => "the broker or the contract refused what was asked",
            Self::SoldOut => "every matching offer is sold out for now",
            Self::Storage => "a file in the data directory cannot be read or written",
            Self::Interrupted => "ended by the user before it was done",
        }
    }

    /// The codes as `ipsx help exit-codes` shows them.
    pub fn table() -> String {
        let mut table = String::from("Exit codes:\n   0  success");
        for code in Self::ALL {
            table.push_str(&format!("\n  {:>2}  {}", code as u8, code.meaning()));
        }
        table
    }
}

/// Why a command did not do what it was asked: one line for a person and one code for a script.
#[derive(Debug)]
pub struct Failure {
    /// The program's exit code.
    pub code: ExitCode,
    /// What happened, to what, and what to do; without `error:` before it.
    pub message: String,
}

impl Failure {
    /// A failure with this code and line.
    pub fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// Something that should not happen.
    pub fn internal(what: impl fmt::Display) -> Self {
        Self::new(ExitCode::Internal, what.to_string())
    }

    /// A wrong argument or setting.
    pub fn usage(what: impl fmt::Display) -> Self {
        Self::new(ExitCode::Usage, what.to_string())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_distinct_and_in_order() {
        for (index, code) in ExitCode::ALL.into_iter().enumerate() {
            assert_eq!(code as usize, index + 1);
        }
        assert_eq!(ExitCode::table().lines().count(), ExitCode::ALL.len() + 2);
    }
}
