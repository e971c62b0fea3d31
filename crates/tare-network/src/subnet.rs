//! Ranges of addresses: `10.88.0.0/24`, `fd00::/64`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tare_sys::{Error, Kind};

/// A subnet: its first address, and how many leading bits are the same in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    /// The first address, all bits beyond the prefix zero.
    pub first: IpAddr,
    /// Length of the common prefix in bits.
    pub prefix: u8,
}

impl Subnet {
    /// The subnet of this length that an address lies in; `None` where the length is more than an address has.
    pub fn of(address: IpAddr, prefix: u8) -> Option<Subnet> {
        let width = width(address);
        if prefix > width {
            return None;
        }
        let mask = if prefix == 0 { 0 } else { u128::MAX << (width - prefix) };
        Some(Subnet { first: from_number(number(address) & mask, address.is_ipv4()), prefix })
    }

    /// Whether an address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4()
            && Subnet::of(address, self.prefix).is_some_and(|of| of.first == self.first)
    }

    /// Whether two subnets have an address in common.
    pub fn overlaps(&self, other: &Subnet) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        let host = width(self.first) - self.prefix;
        let ones = if host == 128 { u128::MAX } else { (1 << host) - 1 };
        from_number(number(self.first) | ones, self.first.is_ipv4())
    }

    /// The address so many after the first; `None` beyond the last.
    pub fn nth(&self, n: u128) -> Option<IpAddr> {
        let found = from_number(number(self.first).checked_add(n)?, self.first.is_ipv4());
        self.contains(found).then_some(found)
    }

    /// It is of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }
}

/// Bits of an address of this family.
pub fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// An address as a number.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

/// A number as an address.
pub fn from_number(number: u128, ipv4: bool) -> IpAddr {
    if ipv4 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() }
}

/// The bytes of an address as they are on the wire.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl FromStr for Subnet {
    type Err = Error;

    /// Reads `ADDRESS/PREFIX`; bits beyond the prefix are dropped, as Docker does.
    fn from_str(text: &str) -> Result<Subnet, Error> {
        let wrong = || {
            Error::new(Kind::Usage, format!("invalid subnet {text:?}: it is no ADDRESS/PREFIX"))
                .hint("for example: 10.20.0.0/24")
        };
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        if prefix.is_empty() || !prefix.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        Subnet::of(address, prefix.parse().map_err(|_| wrong())?).ok_or_else(wrong)
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

impl Serialize for Subnet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Subnet, D::Error> {
        let text = <std::borrow::Cow<'_, str>>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn reads_and_writes_them() {
        assert_eq!(subnet("10.1.2.3/24").to_string(), "10.1.2.0/24");
        assert_eq!(subnet("fd00::5/64").to_string(), "fd00::/64");
        assert_eq!(subnet("0.0.0.0/0").last(), "255.255.255.255".parse::<IpAddr>().unwrap());
        assert_eq!(
            subnet("::/0").last(),
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse::<IpAddr>().unwrap()
        );
        for wrong in
            ["", "/", "10.0.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "x/8", "::/129", "::/-1"]
        {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn knows_what_lies_in_it() {
        let net = subnet("10.1.2.0/24");
        assert!(net.contains("10.1.2.255".parse().unwrap()) && !net.contains("10.1.3.0".parse().unwrap()));
        assert!(net.overlaps(&subnet("10.0.0.0/8")) && subnet("10.0.0.0/8").overlaps(&net));
        assert!(!net.overlaps(&subnet("::/0")) && !net.overlaps(&subnet("10.1.3.0/24")));
        assert_eq!(net.nth(5).unwrap().to_string(), "10.1.2.5");
        assert_eq!(net.nth(256), None);
    }
}
