//! Which addresses count as one peer: an IPv4 address, or an IPv6 network of 64 bits, which is what one customer gets.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The addresses that one peer may well have all to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct AddressBlock(Ipv6Addr);

impl AddressBlock {
    pub(crate) fn of(address: IpAddr) -> AddressBlock {
        AddressBlock(match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped(),
            IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv4Addr::LOCALHOST.to_ipv6_mapped(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & NETWORK_64),
        })
    }

    /// Whether many peers may hide behind this address: a proxy on this machine, or the developer who tries things out.
    pub(crate) fn is_shared(self) -> bool {
        self.0 == Ipv4Addr::LOCALHOST.to_ipv6_mapped()
    }
}

const NETWORK_64: u128 = !(u64::MAX as u128);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_is_an_address_of_version_4_and_a_network_of_version_6() {
        let block = |text: &str| AddressBlock::of(text.parse().unwrap());
        assert_ne!(block("192.0.2.1"), block("192.0.2.2"));
        assert_eq!(block("192.0.2.1"), block("::ffff:192.0.2.1"));
        assert_eq!(block("2001:db8:0:1::1"), block("2001:db8:0:1:ffff::2"));
        assert_ne!(block("2001:db8:0:1::1"), block("2001:db8:0:2::1"));
        assert!(block("127.0.0.1").is_shared() && block("::1").is_shared());
        assert!(!block("127.0.0.2").is_shared() && !block("192.0.2.1").is_shared());
    }
}
