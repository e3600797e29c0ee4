//! How the types of this crate look in an OpenAPI document; only with the feature `openapi`.
//!
//! Types that are written as text say by a pattern what text; [`text`] makes such a schema.

use utoipa::openapi::KnownFormat;
use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
pub use utoipa::openapi::{RefOr, Schema};
pub use utoipa::{PartialSchema, ToSchema};

use crate::{
    Amount, ChannelId, DealId, NetworkId, OfferId, PricePerGib, PricePerSecond, RequestId,
    Signature, UnixSeconds,
};

/// A schema of text that matches a pattern (ECMA-262).
pub fn text(description: &str, pattern: &str, example: &str) -> RefOr<Schema> {
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(Some(pattern))
        .examples([example]);
    RefOr::T(Schema::Object(schema.into()))
}

/// Gives types a name and a schema.
#[macro_export]
macro_rules! described {
    ($($type:ty, $name:literal, $schema:expr;)*) => { $(
        impl $crate::openapi::PartialSchema for $type {
            fn schema() -> $crate::openapi::RefOr<$crate::openapi::Schema> {
                $schema
            }
        }

        impl $crate::openapi::ToSchema for $type {
            fn name() -> ::std::borrow::Cow<'static, str> {
                $name.into()
            }
        }
    )* };
}

macro_rules! stands_for {
    ($($(#[$doc:meta])* $name:ident)*) => { $(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug)]
        pub struct $name;
    )* };
}

stands_for! {
    /// For addresses of accounts and contracts.
    AddressText
    /// For 32 bytes.
    HashText
    /// For IP addresses of either version.
    IpText
    /// For IPv4 addresses.
    Ipv4Text
    /// For IPv6 addresses.
    Ipv6Text
    /// For an IP address with a port.
    SocketText
    /// For prefixes of IP addresses.
    PrefixText
}

const HASH: &str = "^0x[0-9a-fA-F]{64}$";
const SOME_HASH: &str = "0x20f347e966ddef9e372583bf06f1437c203138c04ffd69b51036abd972964dbd";
const DECIMAL: &str = "^[0-9]{1,39}$";

fn hash(description: &str) -> RefOr<Schema> {
    text(description, HASH, SOME_HASH)
}

fn units(description: &str) -> RefOr<Schema> {
    text(description, DECIMAL, "250000000000000")
}

fn number(description: &str, maximum: u64) -> RefOr<Schema> {
    let schema = ObjectBuilder::new()
        .schema_type(Type::Integer)
        .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int64)))
        .description(Some(description))
        .minimum(Some(0))
        .maximum(Some(maximum));
    RefOr::T(Schema::Object(schema.into()))
}

described! {
    AddressText, "Address", text(
        "Account or contract on the chain: 20 bytes, in any case of letters.",
        "^0x[0-9a-fA-F]{40}$",
        "0x1563915e194d8cfba1943570603f7606a3115508"
    );
    HashText, "Hash", hash("32 bytes.");
    IpText, "IpAddress", text(
        "IPv4 address in dotted decimal, or IPv6 address (RFC 5952).",
        "^[0-9a-fA-F:.]{2,45}$",
        "203.0.113.5"
    );
    Ipv4Text, "Ipv4Address", text("IPv4 address.", "^[0-9]{1,3}([.][0-9]{1,3}){3}$", "10.64.0.2");
    Ipv6Text, "Ipv6Address", text("IPv6 address (RFC 5952).", "^[0-9a-fA-F:.]{2,45}$", "fd00::2");
    SocketText, "SocketAddress", text(
        "IP address and port; an IPv6 address stands in brackets.",
        "^([0-9.]{7,15}|[[][0-9a-fA-F:.]{2,45}[]]):[0-9]{1,5}$",
        "203.0.113.5:51820"
    );
    PrefixText, "Prefix", text(
        "Prefix of IP addresses (CIDR).",
        "^[0-9a-fA-F:.]{2,45}/[0-9]{1,3}$",
        "203.0.113.0/24"
    );
    Amount, "Amount", units("Amount in the token's smallest unit, below 2^128, as a decimal string.");
    PricePerSecond, "PricePerSecond", units("Units for each second of service, below 2^128.");
    PricePerGib, "PricePerGib", units("Units for each GiB (2^30 bytes), both directions, below 2^128.");
    NetworkId, "NetworkId", hash("A network.");
    ChannelId, "ChannelId", hash("A payment channel: the EIP-712 struct hash of it.");
    DealId, "DealId", hash("A deal: the EIP-712 struct hash of it.");
    OfferId, "OfferId", hash("An offer: the EIP-712 struct hash of it.");
    RequestId, "RequestId", hash("A request: the EIP-712 struct hash of it.");
    UnixSeconds, "UnixSeconds", number("Seconds since 1970-01-01 UTC.", Self::MAX.0);
    Signature, "Signature", text(
        "secp256k1 signature: r, s (low), v (27 or 28), 65 bytes.",
        "^0x[0-9a-fA-F]{130}$",
        "0x41c9a5aaa42f40ca1af427d7a14068de86c41ad2bd6c3cfedcf809988150ac045eb49c8b9e7254bfbc5e01b0b89da7b817912b404a2220d3717bd7d0da9c7c141c"
    );
}
