//! Which addresses belong to the public internet. Pure.
//!
//! The ranges are those of IANA's registries of special-purpose addresses, and whatever has not been
//! given out for the public at all.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Who can be behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Anybody.
    Public,
    /// Only this machine, or its own network; or an address that hides another one in itself.
    Private,
    /// Nobody in particular: no connection goes there.
    Never,
}

pub(crate) fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => reach_v6(address),
    }
}

fn reach_v4(address: Ipv4Addr) -> Reach {
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() {
        return Reach::Never;
    }
    let private = match address.octets() {
        // This network, private networks, carrier-grade NAT, loopback, link-local.
        [0 | 10 | 127, ..] | [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] => {
            true
        }
        // Protocol assignments, the relays of 6to4, benchmarks, documentation.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] | [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => {
            true
        }
        // Reserved.
        [240..=255, ..] => true,
        _ => false,
    };
    if private { Reach::Private } else { Reach::Public }
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    if address.is_unspecified() || address.is_multicast() {
        return Reach::Never;
    }
    if let Some(inner) = address.to_ipv4_mapped()
        && reach_v4(inner) == Reach::Never
    {
        return Reach::Never;
    }
    let public = match address.segments() {
        // Protocol assignments (Teredo among them), documentation, 6to4, documentation again.
        [0x2001, 0..=0x01ff, ..] | [0x2001, 0x0db8, ..] | [0x2002, ..] | [0x3fff, 0..=0x0fff, ..] => false,
        // All that is given out for the public. Loopback, link-local, unique-local, and the forms with
        // an IPv4 address in them (mapped, compatible, NAT64) lie outside of it.
        [0x2000..=0x3fff, ..] => true,
        _ => false,
    };
    if public { Reach::Public } else { Reach::Private }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_public_internet_is_public() {
        let check = |addresses: &str, expect| {
            for address in addresses.split_whitespace() {
                assert_eq!(reach(address.parse().unwrap()), expect, "{address}");
            }
        };
        check(
            "1.1.1.1 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 \
             169.253.255.255 172.15.255.255 172.32.0.0 192.0.1.0 192.167.1.1 198.17.0.1 \
             198.20.0.1 203.0.114.1 223.255.255.255 2606:4700::1111 2001:4860:4860::8888 2a00::1 \
             2001:200::1",
            Reach::Public,
        );
        check(
            "0.0.0.1 10.0.0.1 100.64.0.1 127.0.0.1 127.255.255.254 169.254.169.254 172.16.0.1 \
             172.31.255.255 192.168.1.1 192.0.0.8 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 \
             198.51.100.1 203.0.113.1 240.0.0.1 ::1 ::2 ::ffff:127.0.0.1 ::ffff:1.1.1.1 \
             ::127.0.0.1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 fc00::1 fd12::1 fe80::1 fec0::1 \
             2001:db8::1 2001::1 2002:7f00:1:: 3fff::1 4000::1 5f00::1",
            Reach::Private,
        );
        check("0.0.0.0 224.0.0.1 239.1.1.1 255.255.255.255 :: ff02::1 ::ffff:0.0.0.0", Reach::Never);
    }
}
