//! How an address is written on the command line.

use std::fmt;
use std::str::FromStr;

/// A host and a port. Read from `http://host:port`, `host:port` or `:port`; written as `host:port`.
///
/// `:port` means every IPv4 interface, that is `0.0.0.0:port`; every interface of both families is `[::]:port`. An IPv6
/// address stands in brackets. Host names are allowed and resolved when the address is used, not here.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name, an IPv4 address, or an IPv6 address in brackets.
    host: String,
    port: u16,
}

/// Why a text is not an [`Address`], and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no port, or not a number up to 65535.
    #[error("the port is missing or is not a number from 0 to 65535; write http://host:port, host:port or :port")]
    Port,
    /// A scheme other than http.
    #[error("the scheme {0}:// is not served; write http://host:port, host:port or :port")]
    Scheme(String),
    /// A path, a query, a user.
    #[error("there is more than a host and a port; write http://host:port, host:port or :port")]
    More,
    /// A host that is neither a name nor an IP address.
    #[error("{0:?} is not a host name or an IP address; an IPv6 address stands in brackets, as in [::1]:2380")]
    Host(String),
}

impl Address {
    /// The address of a socket.
    pub fn from_socket(socket: std::net::SocketAddr) -> Self {
        let host = match socket.ip() {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { host, port: socket.port() }
    }

    /// This port of this machine's loopback interface.
    pub fn loopback(port: u16) -> Self {
        Self { host: "127.0.0.1".to_owned(), port }
    }

    /// This port of every IPv4 interface.
    pub fn every(port: u16) -> Self {
        Self { host: "0.0.0.0".to_owned(), port }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it means every interface: good to listen at, useless to dial.
    pub fn is_wildcard(&self) -> bool {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_unspecified())
    }

    /// As a client on this machine dials it: every interface is the loopback interface, too.
    #[must_use]
    pub fn dialled(&self) -> Self {
        if self.is_wildcard() { self.at_loopback() } else { self.clone() }
    }

    /// The same host with another port.
    #[must_use]
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port }
    }

    /// The same port at the host of `other`.
    #[must_use]
    pub fn at_host_of(&self, other: &Self) -> Self {
        Self { host: other.host.clone(), port: self.port }
    }

    /// The same port at this machine's loopback interface.
    #[must_use]
    pub fn at_loopback(&self) -> Self {
        Self::loopback(self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => rest.strip_suffix('/').unwrap_or(rest),
            Some((scheme, _)) => return Err(AddressError::Scheme(scheme.to_owned())),
            None => text,
        };
        if rest.contains(['/', '?', '#', '@']) {
            return Err(AddressError::More);
        }
        let (host, port) = rest.rsplit_once(':').ok_or(AddressError::Port)?;
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError::Port);
        }
        let port = port.parse().map_err(|_| AddressError::Port)?;
        let host = if host.is_empty() { "0.0.0.0" } else { host };
        if !is_host(host) {
            return Err(AddressError::Host(host.to_owned()));
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

fn is_host(host: &str) -> bool {
    if let Some(v6) = host.strip_prefix('[') {
        return v6.strip_suffix(']').is_some_and(|v6| v6.parse::<std::net::Ipv6Addr>().is_ok());
    }
    let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    host.len() <= 253 && host.bytes().all(is_name_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_has_one_canonical_form() {
        for (text, canonical) in [
            ("http://127.0.0.1:2380", "127.0.0.1:2380"),
            ("HTTP://n1.example.com:80/", "n1.example.com:80"),
            ("localhost:1", "localhost:1"),
            ("my_node-1:0", "my_node-1:0"),
            (":8080", "0.0.0.0:8080"),
            ("http://:8080", "0.0.0.0:8080"),
            ("[::1]:2380", "[::1]:2380"),
            ("http://[::]:65535", "[::]:65535"),
        ] {
            let address: Address = text.parse().expect(text);
            assert_eq!(address.to_string(), canonical);
            assert_eq!(canonical.parse(), Ok(address));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for (text, error) in [
            ("", AddressError::Port),
            ("localhost", AddressError::Port),
            ("localhost:", AddressError::Port),
            ("localhost:http", AddressError::Port),
            ("localhost:+80", AddressError::Port),
            ("localhost:65536", AddressError::Port),
            ("https://localhost:1", AddressError::Scheme("https".into())),
            ("http://localhost:1/path", AddressError::More),
            ("http://user@localhost:1", AddressError::More),
            ("::1:2380", AddressError::Host("::1".into())),
            ("[::1:2380", AddressError::Host("[::1".into())),
            ("[nope]:1", AddressError::Host("[nope]".into())),
            ("a b:1", AddressError::Host("a b".into())),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text}");
        }
    }

    #[test]
    fn wildcards_are_known() {
        for (text, wildcard) in [(":1", true), ("[::]:1", true), ("127.0.0.1:1", false), ("localhost:1", false)] {
            assert_eq!(text.parse::<Address>().expect(text).is_wildcard(), wildcard, "{text}");
        }
    }
}
