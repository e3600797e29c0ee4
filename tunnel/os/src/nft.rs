//! The kernel's packet filter, through the JSON interface of `nft` (libnftables-json(5)).
//!
//! A ruleset given to [`apply`] is one transaction: all of it takes effect at once, or nothing. Every table of this
//! program is of the family `inet`, and its name starts with [`PREFIX`].

use serde::Deserialize;
use serde_json::{Value, json};

use crate::tool::{Tool, ToolError};

/// How the names of this program's tables begin.
pub const PREFIX: &str = "ipsx_";

/// The family of this program's tables: IPv4 and IPv6 together.
pub const FAMILY: &str = "inet";

const NFT: Tool = Tool {
    program: "nft",
    package: "nftables",
};

/// Carries out commands, such as `{"add": {"table": {…}}}`, in one transaction. Blocks for some milliseconds.
pub fn apply(commands: &[Value]) -> Result<(), ToolError> {
    let text = json!({ "nftables": commands }).to_string();
    NFT.run(&["-j", "-f", "-"], &text).map(drop)
}

/// The commands that make an empty table, in place of one of the same name.
pub fn fresh_table(name: &str) -> [Value; 3] {
    let table = json!({ "table": { "family": FAMILY, "name": name } });
    // Only a table that exists can be deleted, and adding one that exists changes nothing.
    [
        json!({ "add": table.clone() }),
        json!({ "delete": table.clone() }),
        json!({ "add": table }),
    ]
}

/// Deletes a table of this program and all that is in it; nothing happens if there is none.
pub fn delete_table(name: &str) -> Result<(), ToolError> {
    let [add, delete, _] = fresh_table(name);
    apply(&[add, delete])
}

/// The names of this program's tables in this network namespace.
pub fn tables() -> Result<Vec<String>, ToolError> {
    let mut names = all_tables()?;
    names.retain(|name| name.starts_with(PREFIX));
    Ok(names)
}

/// Whether this network namespace has a table of this name, whoever made it.
pub fn has_table(name: &str) -> Result<bool, ToolError> {
    Ok(all_tables()?.iter().any(|other| other == name))
}

fn all_tables() -> Result<Vec<String>, ToolError> {
    let listed = list(&["list", "tables", FAMILY])?;
    let name = |object: &Value| Some(object.get("table")?.get("name")?.as_str()?.to_owned());
    Ok(listed.iter().filter_map(name).collect())
}

/// Everything in a table, as libnftables-json(5) describes the objects; an error if there is no such table.
pub fn list_table(name: &str) -> Result<Vec<Value>, ToolError> {
    list(&["list", "table", FAMILY, name])
}

#[derive(Deserialize)]
struct Listing {
    nftables: Vec<Value>,
}

fn list(words: &[&str]) -> Result<Vec<Value>, ToolError> {
    let mut all = vec!["-j"];
    all.extend(words);
    let text = NFT.run(&all, "")?;
    let listing: Listing = serde_json::from_str(&text).map_err(|source| ToolError::Answer {
        program: NFT.program,
        source,
    })?;
    Ok(listing.nftables)
}
