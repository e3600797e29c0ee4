//! The recovery phrase, at a real terminal: shown once, asked back, and worth the wallet.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test acts and fails by panicking"
)]

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use ipsx_tests::program::built;

const PASSPHRASE: &str = "correct horse battery staple";
const PATIENCE: Duration = Duration::from_secs(60);
/// What clears the screen, and what could be scrolled back to.
const CLEARED: &str = "\x1b[2J\x1b[3J\x1b[H";

/// `ipsx` at a pseudo-terminal, which util-linux's `script` makes.
struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    pieces: Receiver<String>,
    screen: String,
}

impl Terminal {
    fn start(data: &Path, words: &[&str]) -> Self {
        let program = built("ipsx").get_program().to_string_lossy().into_owned();
        let line = format!(
            "'{program}' --data '{}' {}",
            data.display(),
            words.join(" ")
        );
        let mut child = Command::new("script")
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env_remove("IPSX_PASSPHRASE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let keyboard = child.stdin.take().unwrap();
        let mut output = child.stdout.take().unwrap();
        let (send, pieces) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                let piece = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if send.send(piece).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keyboard,
            pieces,
            screen: String::new(),
        }
    }

    /// What was written until `end` of it stood on the screen.
    fn until(&mut self, end: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.screen.find(end) {
                let rest = self.screen.split_off(at + end.len());
                return std::mem::replace(&mut self.screen, rest);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => self.screen.push_str(&piece),
                Err(_) => panic!("no {end:?} after {:?}", self.screen),
            }
        }
    }

    fn enter(&mut self, text: &str) {
        // The program hides what is typed before it reads it; a person is slower than this, too.
        std::thread::sleep(Duration::from_millis(200));
        self.keyboard
            .write_all(format!("{text}\n").as_bytes())
            .unwrap();
        self.keyboard.flush().unwrap();
    }

    /// The passphrase twice, then the words as they are shown.
    fn take_words(&mut self) -> Vec<String> {
        self.until("New passphrase: ");
        self.enter(PASSPHRASE);
        self.until("The same again: ");
        self.enter(PASSPHRASE);
        let shown = self.until("Press Enter when it is written down: ");
        let table = shown.split("shown this once.").nth(1).unwrap();
        let cells: Vec<&str> = table.split_whitespace().collect();
        let numbered: Vec<_> = cells
            .chunks(2)
            .take_while(|pair| pair[0].parse::<usize>().is_ok())
            .collect();
        for (place, pair) in numbered.iter().enumerate() {
            assert_eq!(pair[0].parse::<usize>().unwrap(), place + 1);
        }
        self.enter("");
        self.until(CLEARED);
        numbered.iter().map(|pair| pair[1].to_owned()).collect()
    }

    /// The number of the word that is asked for.
    fn asked(&mut self) -> usize {
        self.until("Word ");
        let number = self.until(": ");
        number.trim_end_matches(": ").parse().unwrap()
    }

    /// Its exit code, and what was left on the screen.
    fn finish(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        while let Ok(piece) = self.pieces.recv_timeout(Duration::from_secs(5)) {
            self.screen.push_str(&piece);
        }
        (status.code(), self.screen)
    }
}

#[test]
fn a_phrase_is_shown_once_and_asked_back() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    let mut terminal = Terminal::start(&first, &["wallet", "new", "--phrase"]);
    let words = terminal.take_words();
    assert_eq!(words.len(), 24, "{words:?}");
    for _ in 0..3 {
        let number = terminal.asked();
        assert!(
            !first.join("wallet.json").exists(),
            "not before the words are back"
        );
        terminal.enter(&words[number - 1]);
    }
    let (code, screen) = terminal.finish();
    assert_eq!(code, Some(0), "{screen}");
    for word in words.iter().filter(|word| word.len() > 4) {
        let again = screen.split_whitespace().any(|shown| shown == word);
        assert!(
            !again,
            "{word} is shown or echoed after the screen was cleared: {screen}"
        );
    }
    let address = |text: &str| {
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("wallet   0x"));
        line.unwrap_or_else(|| panic!("no address in {text}"))
            .trim()
            .to_owned()
    };

    // The words alone restore the wallet.
    let phrase = folder.path().join("phrase");
    std::fs::write(&phrase, words.join(" ")).unwrap();
    let restored = built("ipsx")
        .env("IPSX_PASSPHRASE", PASSPHRASE)
        .arg("--data")
        .arg(&second)
        .args(["wallet", "import", "--phrase-file"])
        .arg(&phrase)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&restored.stdout).into_owned();
    assert!(restored.status.success(), "{restored:?}");
    assert_eq!(address(&said), address(&screen));
}

#[test]
fn a_word_that_does_not_come_back_makes_no_wallet() {
    let folder = tempfile::tempdir().unwrap();
    let mut terminal = Terminal::start(folder.path(), &["wallet", "new", "--phrase"]);
    let words = terminal.take_words();
    let number = terminal.asked();
    let other = words
        .iter()
        .find(|word| **word != words[number - 1])
        .unwrap();
    terminal.enter(&other.clone());
    let (code, screen) = terminal.finish();
    assert_eq!(code, Some(3), "{screen}");
    assert!(screen.contains("no wallet was made"), "{screen}");
    assert!(!folder.path().join("wallet.json").exists());
}
