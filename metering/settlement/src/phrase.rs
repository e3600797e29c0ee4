//! Recovery phrases (BIP-39), and the key that wallets derive from them (BIP-32, BIP-44).

use ethers_signers::MnemonicBuilder;
use ethers_signers::coins_bip39::{English, Mnemonic};
use rand::rngs::OsRng;
use zeroize::Zeroizing;

use crate::{KeystoreError, Wallet};

/// The first account of the first wallet, as every Ethereum wallet derives it.
const PATH: &str = "m/44'/60'/0'/0/0";

/// English words that stand for a key. Erased when dropped; never printed.
pub struct Phrase(Zeroizing<String>);

impl Phrase {
    /// 24 words from the operating system's randomness: 256 bits.
    pub fn random() -> Self {
        let drawn = Mnemonic::<English>::new_with_count(&mut OsRng, 24);
        Self(Zeroizing::new(
            drawn.expect("24 words are allowed").to_phrase(),
        ))
    }

    /// Reads words, however they are spaced and capitalised, and checks them. The error never quotes them.
    pub fn parse(text: &str) -> Result<Self, KeystoreError> {
        let mut words = Zeroizing::new(String::with_capacity(text.len()));
        for word in text.split_whitespace() {
            if !words.is_empty() {
                words.push(' ');
            }
            words.extend(word.chars().flat_map(char::to_lowercase));
        }
        // The library would take any number of words.
        if ![12, 15, 18, 21, 24].contains(&words.split(' ').count()) {
            return Err(KeystoreError::NotAPhrase);
        }
        match Mnemonic::<English>::new_from_phrase(&words) {
            Ok(_) => Ok(Self(words)),
            Err(_) => Err(KeystoreError::NotAPhrase),
        }
    }

    /// The words, in order.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ')
    }

    /// The wallet that they stand for.
    pub fn wallet(&self) -> Result<Wallet, KeystoreError> {
        let builder = MnemonicBuilder::<English>::default().phrase(self.0.as_str());
        let derived = builder.derivation_path(PATH).and_then(|path| path.build());
        derived
            .map(Wallet::from_local)
            .map_err(|_| KeystoreError::NotAPhrase)
    }
}

impl std::fmt::Debug for Phrase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Phrase(…)")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Signer;

    /// The accounts that every development node shows for this phrase.
    #[test]
    fn the_path_is_everybody_elses() {
        let text = "test test test test test test test test test test test junk";
        let wallet = Phrase::parse(text).unwrap().wallet().unwrap();
        assert_eq!(
            wallet.address().to_string(),
            "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"
        );
        let shouted =
            Phrase::parse(&format!("  {}\n", text.to_uppercase().replace(' ', "  "))).unwrap();
        assert_eq!(shouted.wallet().unwrap().address(), wallet.address());
    }

    #[test]
    fn random_phrases_differ_and_come_back() {
        let (one, other) = (Phrase::random(), Phrase::random());
        assert_eq!(one.words().count(), 24);
        let address = |phrase: &Phrase| phrase.wallet().unwrap().address();
        assert_ne!(address(&one), address(&other));
        let typed = one.words().collect::<Vec<_>>().join(" ");
        assert_eq!(address(&Phrase::parse(&typed).unwrap()), address(&one));
    }

    #[test]
    fn wrong_words_are_refused_without_being_quoted() {
        let good = "test test test test test test test test test test test junk";
        for bad in [
            "",
            "test",
            "test test test test test test test test test test test test",
            &good.replace("junk", "jnuk"),
            &format!("{good} junk"),
            &good.replacen("test ", "", 1),
        ] {
            let error = Phrase::parse(bad).unwrap_err().to_string();
            assert!(
                !error.contains("test") && !error.contains("junk"),
                "{error}"
            );
        }
        assert_eq!(format!("{:?}", Phrase::parse(good).unwrap()), "Phrase(…)");
    }
}
