//! `curl`, as anybody would use it through a proxy or a tunnel.

use std::process::Command;

/// How a proxy is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// SOCKS5, names resolved by the proxy.
    Socks5,
    /// HTTP: absolute-form requests.
    Http,
    /// HTTP CONNECT.
    HttpConnect,
}

/// What came of a fetch.
#[derive(Debug)]
pub struct Fetched {
    /// `curl`'s exit code: 0, or why not.
    pub code: i32,
    /// HTTP status, 0 when there was no answer.
    pub status: u16,
    /// The body, unless it was thrown away.
    pub body: String,
    /// Bytes of the body.
    pub size: u64,
}

/// Fetches a URL through the proxy at `address`.
pub fn fetch(address: &str, through: Through, url: &str) -> Fetched {
    let mut command = Command::new("curl");
    match through {
        Through::Socks5 => command.args(["--proxy", &format!("socks5h://{address}")]),
        Through::Http => command.args(["--proxy", &format!("http://{address}")]),
        Through::HttpConnect => {
            command.args(["--proxytunnel", "--proxy", &format!("http://{address}")])
        }
    };
    run(command.args(["--noproxy", ""]), url)
}

/// Runs a prepared `curl` (it may be one inside a namespace) for one URL.
pub fn run(command: &mut Command, url: &str) -> Fetched {
    let format = "\n%{http_code} %{size_download}";
    let output = command
        .args(["--silent", "--max-time", "30", "--write-out", format, url])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let (body, numbers) = text.rsplit_once('\n').unwrap_or(("", "0 0"));
    let (status, size) = numbers.split_once(' ').unwrap_or(("0", "0"));
    Fetched {
        code: output.status.code().unwrap_or(-1),
        status: status.parse().unwrap_or(0),
        body: body.to_owned(),
        size: size.parse().unwrap_or(0),
    }
}
