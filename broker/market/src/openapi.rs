//! How types that are written as text look in an OpenAPI document; the others derive it.

use ipsx_metering::described;
use ipsx_metering::openapi::{RefOr, Schema, text};
use utoipa::PartialSchema;
use utoipa::openapi::schema::ArrayBuilder;

use crate::offer::{Protocol, Protocols};
use crate::place::{City, Country, Region};
use crate::ports::PortRange;
use crate::request::TunnelKey;
use crate::services::ServiceName;

fn protocols() -> RefOr<Schema> {
    let list = ArrayBuilder::new()
        .items(Protocol::schema())
        .description(Some("A set of protocols."));
    RefOr::T(Schema::Array(list.into()))
}

described! {
    Protocols, "Protocols", protocols();
    Country, "Country", text("ISO 3166-1 code of two letters.", "^[A-Za-z]{2}$", "FR");
    Region, "Region", text(
        "ISO 3166-2 code of a country's region.",
        "^[A-Za-z]{2}-[A-Za-z0-9]{1,3}$",
        "FR-IDF"
    );
    City, "City", text(
        "English name of a city, as the database spells it: 1 to 64 bytes without a comma or control characters.",
        "^[^,\\x00-\\x1f\\x7f-\\x9f]{1,64}$",
        "Paris"
    );
    PortRange, "PortRange", text(
        "A TCP port from 1 to 65535, or the first and the last of several.",
        "^[0-9]{1,5}(-[0-9]{1,5})?$",
        "8000-8099"
    );
    ServiceName, "ServiceName", text("A service of the network.", "^[a-z0-9-]{1,32}$", "insurance");
    TunnelKey, "TunnelKey", text(
        "WireGuard public key (Curve25519), 32 bytes.",
        "^0x[0-9a-fA-F]{64}$",
        "0x30d3c865a48fceb3d6118577cf2e5f228d6ff69866264757785b253cb7a4806a"
    );
}
