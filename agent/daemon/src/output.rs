//! Everything that the program prints: text for people or JSON for programs, never both.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::exit_code::Failure;

/// Where the program prints to. Text goes to standard output, problems to standard error.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
    color: bool,
    terminal: bool,
    silent: bool,
}

/// How a piece of text stands out on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// A heading.
    Bold,
    /// Of little weight.
    Dim,
    /// All is well.
    Good,
    /// Something is wrong.
    Bad,
}

impl Output {
    /// Output for programs (`json`) or for people; colours only on a terminal that wants them (no-color.org).
    pub fn new(json: bool) -> Self {
        let terminal = std::io::stdout().is_terminal();
        let wants = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self {
            json,
            color: terminal && wants && !json,
            terminal,
            silent: false,
        }
    }

    /// Output that says nothing: for tests.
    #[cfg(test)]
    pub(crate) const fn silent() -> Self {
        Self {
            json: false,
            color: false,
            terminal: false,
            silent: true,
        }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Whether a person watches, so that lines may be redrawn.
    pub fn is_live(&self) -> bool {
        self.terminal && !self.json
    }

    /// One line for people; nothing in JSON.
    pub fn line(&self, text: impl AsRef<str>) {
        if !self.json {
            self.write(text.as_ref());
        }
    }

    /// One object on one line for programs; nothing for people.
    pub fn json(&self, value: &impl Serialize) {
        if self.json {
            let text = serde_json::to_string(value)
                .unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
            self.write(&text);
        }
    }

    /// The failure on standard error: `error: …`, or an object in JSON.
    pub fn failure(&self, failure: &Failure) {
        let text = if self.json {
            serde_json::json!({ "error": failure.message, "exit_code": failure.code as u8 })
                .to_string()
        } else {
            format!("error: {}", failure.message)
        };
        // Nobody is left to tell when standard error is closed.
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    }

    /// A remark on standard error.
    pub fn note(&self, text: impl AsRef<str>) {
        if !self.json && !self.silent {
            let _ = writeln!(std::io::stderr().lock(), "note: {}", text.as_ref());
        }
    }

    /// `text` in a style, where colours are wanted.
    pub fn paint(&self, style: Style, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        if !self.color {
            return text.into();
        }
        let code = match style {
            Style::Bold => "1",
            Style::Dim => "2",
            Style::Good => "32",
            Style::Bad => "31",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// Rows with aligned columns under a heading; the columns in `right` are aligned to the right.
    pub fn table(&self, heading: &[&str], rows: &[Vec<String>], right: &[usize]) {
        if self.json {
            return;
        }
        let mut widths: Vec<usize> = heading.iter().map(|cell| cell.chars().count()).collect();
        for row in rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let line = |cells: Vec<&str>| {
            let padded = cells
                .iter()
                .zip(&widths)
                .enumerate()
                .map(|(column, (cell, width))| {
                    let fill = " ".repeat(width.saturating_sub(cell.chars().count()));
                    if right.contains(&column) {
                        format!("{fill}{cell}")
                    } else {
                        format!("{cell}{fill}")
                    }
                });
            padded.collect::<Vec<_>>().join("  ").trim_end().to_string()
        };
        self.line(self.paint(Style::Bold, line(heading.to_vec())));
        for row in rows {
            self.line(line(row.iter().map(String::as_str).collect()));
        }
    }

    /// Replaces the line that is being redrawn; only where [`Self::is_live`].
    pub fn redraw(&self, text: &str) {
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "\r\x1b[2K{text}");
        let _ = out.flush();
    }

    /// Ends the line that is being redrawn.
    pub fn redraw_done(&self) {
        self.write("");
    }

    fn write(&self, text: &str) {
        if self.silent {
            return;
        }
        // A closed pipe (`ipsx … | head`) is the reader's wish, not an error.
        let _ = writeln!(std::io::stdout().lock(), "{text}");
    }
}
