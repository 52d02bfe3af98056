//! Conditions on socket addresses: networks, Unix socket names, ports.

use std::{
    net::{IpAddr, Ipv4Addr},
    ops::RangeInclusive,
};

use ipnet::{IpNet, Ipv4Net};
use serde::{Serialize, Serializer};

use super::{
    fault::Fault,
    pattern::{Pattern, PatternOf},
};

/// One entry of a rule's `address`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressPattern {
    /// Every address of every family.
    Any,
    /// The IPv4 or IPv6 addresses of one network.
    Network(IpNet),
    /// Unix sockets whose path matches.
    UnixPath(Pattern),
    /// Unix sockets whose abstract name (with its `@`) matches.
    UnixAbstract(Pattern),
    /// Unix sockets of every name.
    UnixAny,
}

impl AddressPattern {
    /// Reads `any`, an IP address, a network such as `10.0.0.0/8`, `unix:GLOB`, `unix:@GLOB` or `unix:*`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(source: &str) -> Result<Self, Fault> {
        if source == "any" {
            return Ok(Self::Any);
        }
        if let Some(name) = source.strip_prefix("unix:") {
            return match name {
                "*" | "**" => Ok(Self::UnixAny),
                name if name.starts_with('@') => Pattern::new(name, PatternOf::Word).map(Self::UnixAbstract),
                name if name.starts_with('/') => Pattern::new(name, PatternOf::Path).map(Self::UnixPath),
                _ => Err(Fault::new(
                    format!("{source:?} names no Unix socket"),
                    "write `unix:/PATH`, `unix:@NAME` for an abstract name, or `unix:*` for all",
                )),
            };
        }
        let bad = || {
            Fault::new(
                format!("{source:?} is no address"),
                "write an IP address, a network such as 10.0.0.0/8 or fd00::/8, `unix:/PATH`, or `any`",
            )
        };
        if let Ok(ip) = source.parse::<IpAddr>() {
            return Ok(Self::Network(IpNet::from(ip.to_canonical())));
        }
        let Some((ip, length)) = source.split_once('/') else { return Err(bad()) };
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let most = if ip.is_ipv4() { 32 } else { 128 };
        let network = length.parse().ok().and_then(|length| IpNet::new(ip, length).ok()).ok_or_else(|| {
            Fault::new(
                format!("{length:?} is no prefix length of an {} network", if ip.is_ipv4() { "IPv4" } else { "IPv6" }),
                format!("write a number from 0 to {most} behind the `/`"),
            )
        })?;
        if network.trunc() != network {
            return Err(Fault::new(
                format!("{source:?} has address bits behind its prefix length"),
                format!("write {}, or {ip} without a length for that one address", network.trunc()),
            ));
        }
        Ok(Self::Network(unmapped(network)))
    }

    /// Whether it can match addresses that are neither IPv4 nor IPv6.
    pub fn is_beyond_ip(&self) -> bool {
        !matches!(self, Self::Network(_))
    }

    /// Whether an IP address matches. `doubtful`: an unspecified address (`0.0.0.0`, `::`) stands for others, so it may
    /// match, and that counts.
    pub(super) fn matches_ip(&self, ip: IpAddr, doubtful: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Network(network) => network.contains(&ip) || (doubtful && ip.is_unspecified()),
            Self::UnixPath(_) | Self::UnixAbstract(_) | Self::UnixAny => false,
        }
    }

    /// Whether the name of a Unix socket matches. `doubtful`: a path that is not absolute or not plain may lead to what
    /// the pattern names, and that counts.
    pub(super) fn matches_unix(&self, name: &[u8], doubtful: bool) -> bool {
        match self {
            Self::Any | Self::UnixAny => true,
            Self::Network(_) => false,
            Self::UnixAbstract(pattern) => name.starts_with(b"@") && pattern.matches(name),
            Self::UnixPath(_) if name.is_empty() || name.starts_with(b"@") => false,
            Self::UnixPath(pattern) => {
                if is_plain_path(name) {
                    pattern.matches(name)
                } else {
                    doubtful
                }
            }
        }
    }
}

impl Serialize for AddressPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Any => serializer.serialize_str("any"),
            Self::Network(network) => serializer.collect_str(network),
            Self::UnixPath(pattern) | Self::UnixAbstract(pattern) => {
                serializer.collect_str(&format_args!("unix:{}", pattern.source()))
            }
            Self::UnixAny => serializer.serialize_str("unix:*"),
        }
    }
}

/// A network of IPv4 addresses inside IPv6 as the IPv4 network that it is, because actions give such addresses as IPv4.
fn unmapped(network: IpNet) -> IpNet {
    match network {
        IpNet::V6(inner) if inner.prefix_len() >= 96 => match inner.network().to_ipv4_mapped() {
            Some(ip) => Ipv4Net::new(ip, inner.prefix_len() - 96).map_or(network, IpNet::V4),
            None => network,
        },
        _ => network,
    }
}

/// Whether a path is absolute and has no component that a lookup would skip or take back.
fn is_plain_path(path: &[u8]) -> bool {
    path.strip_prefix(b"/")
        .is_some_and(|rest| rest.split(|byte| *byte == b'/').all(|component| !matches!(component, b"" | b"." | b"..")))
}

/// `bind` takes an address without a family as IPv4, for programs older than the field.
pub(super) fn ip_without_family(data: &[u8]) -> Option<(IpAddr, u16)> {
    let port = data.first_chunk::<2>()?;
    let ip: [u8; 4] = *data.get(2..)?.first_chunk()?;
    Some((IpAddr::V4(Ipv4Addr::from(ip)), u16::from_be_bytes(*port)))
}

/// Ports of a rule: single ones and ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PortSet(Vec<RangeInclusive<u16>>);

impl PortSet {
    /// A set of these ranges.
    pub fn new(ranges: Vec<RangeInclusive<u16>>) -> Self {
        Self(ranges)
    }

    /// Reads a range such as `8000-9000`, or a single port.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn range(source: &str) -> Result<RangeInclusive<u16>, Fault> {
        let bad = || {
            Fault::new(
                format!("{source:?} is no port"),
                "write a number from 0 to 65535, or a range such as \"8000-9000\"",
            )
        };
        let port = |text: &str| {
            let digits = text.trim();
            if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(bad());
            }
            digits.parse::<u16>().map_err(|_| bad())
        };
        let Some((first, last)) = source.split_once('-') else { return port(source).map(|port| port..=port) };
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(Fault::new(format!("the range {source:?} is reversed"), format!("write \"{last}-{first}\"")));
        }
        Ok(first..=last)
    }

    /// Whether `port` is in it.
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(&port))
    }

    /// How many ports it names; one named twice counts twice.
    pub fn count(&self) -> usize {
        self.0.iter().map(ExactSizeIterator::len).sum()
    }

    /// Each port it names.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.iter().cloned().flatten()
    }
}
