//! `ipsx wallet new --phrase`: words that are shown once, and asked back before anything depends on them.

use std::io::IsTerminal;

use ipsx_settlement::{Phrase, Wallet};
use rand::rngs::OsRng;
use rand::seq::index;

use super::{ask, blocking, created, new_passphrase, refuse_existing};
use crate::config::Settings;
use crate::exit_code::{ExitCode, Failure};
use crate::output::Output;

/// How many of the words are asked back.
const ASKED: usize = 3;

/// Runs it. Nothing is written before the words were given back.
pub(super) async fn create(settings: &Settings, output: &Output) -> Result<(), Failure> {
    let path = settings.wallet_file();
    refuse_existing(&path)?;
    if output.is_json() || !std::io::stdin().is_terminal() || !std::io::stdout().is_terminal() {
        return Err(Failure::new(
            ExitCode::Wallet,
            "a phrase is shown to a person at a terminal, and nowhere else: run it there, without --json",
        ));
    }
    let passphrase = new_passphrase(settings)?;
    let phrase = Phrase::random();
    show(&phrase, output);
    ask("Press Enter when it is written down: ")?;
    // Away from the screen and from what can be scrolled back.
    output.line("\x1b[2J\x1b[3J\x1b[H");
    let words: Vec<&str> = phrase.words().collect();
    let mut places = index::sample(&mut OsRng, words.len(), ASKED).into_vec();
    places.sort_unstable();
    confirm(&words, &places, |place| {
        ask(&format!("Word {}: ", place + 1)).map(|word| word.to_string())
    })?;
    let wallet = blocking(move || Wallet::import_phrase(&path, &phrase, &passphrase)).await?;
    created(&wallet, settings, output);
    Ok(())
}

fn show(phrase: &Phrase, output: &Output) {
    output.line("Write these words down, in this order, on paper. Who has them has the wallet; without them");
    output.line("nobody can restore it. They are shown this once.\n");
    let words: Vec<String> = phrase
        .words()
        .zip(1..)
        .map(|(word, number)| format!("{number:>2} {word:<10}"))
        .collect();
    for row in words.chunks(4) {
        output.line(format!("  {}", row.join("  ")));
    }
    output.line("");
}

/// Asks the words at these places back.
fn confirm(
    words: &[&str],
    places: &[usize],
    mut answer: impl FnMut(usize) -> Result<String, Failure>,
) -> Result<(), Failure> {
    for place in places {
        if answer(*place)?.trim().to_lowercase() != words[*place] {
            return Err(Failure::new(
                ExitCode::Wallet,
                format!(
                    "word {} is another one; no wallet was made, and the next try shows new words",
                    place + 1
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_that_is_asked_must_come_back() {
        let words = ["abandon", "ability", "able", "about"];
        let by_heart = |place: usize| Ok(format!(" {} ", words[place].to_uppercase()));
        assert!(confirm(&words, &[0, 3], by_heart).is_ok());
        let swapped = |place: usize| Ok(words[3 - place].to_string());
        let failure = confirm(&words, &[1, 2], swapped).expect_err("the words are swapped");
        assert_eq!(failure.code, ExitCode::Wallet);
        assert!(
            words.iter().all(|word| !failure.message.contains(word)),
            "{failure}"
        );
        let nobody = |_| Err(Failure::internal("no terminal"));
        assert!(confirm(&words, &[0], nobody).is_err());
    }
}
