//! Lines of the log: one for each event, whatever words others put into it.

use std::io::{self, Write};

/// Writes each event to the standard error as one line: line breaks and other control characters in it are escaped, so
/// that nobody's words look like an event of their own or steer a terminal.
pub(crate) struct OneLine {
    /// Whether escape characters are the log's own, for colours; in words of others they are escaped before.
    pub(crate) coloured: bool,
}

impl OneLine {
    fn tidy(&self, event: &str) -> String {
        let mut line = String::with_capacity(event.len() + 1);
        for c in event.strip_suffix('\n').unwrap_or(event).chars() {
            let separates = ['\u{2028}', '\u{2029}'].contains(&c);
            if separates || (c.is_control() && !(self.coloured && c == '\x1b')) {
                line.extend(c.escape_default());
            } else {
                line.push(c);
            }
        }
        line.push('\n');
        line
    }
}

impl Write for OneLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let line = self.tidy(&String::from_utf8_lossy(event));
        io::stderr().lock().write_all(line.as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_do_not_make_lines() {
        let plain = OneLine { coloured: false };
        let event = "an agent said \"x\r\n2026 INFO all paid\u{2028}\x1b[2J\u{85}\t\0\"\n";
        let line = plain.tidy(event);
        assert_eq!(
            line,
            "an agent said \"x\\r\\n2026 INFO all paid\\u{2028}\\u{1b}[2J\\u{85}\\t\\u{0}\"\n"
        );
        let coloured = OneLine { coloured: true };
        assert_eq!(
            coloured.tidy("\x1b[32mgreen\x1b[0m"),
            "\x1b[32mgreen\x1b[0m\n"
        );
    }
}
