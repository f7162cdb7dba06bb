//! Where the nodes are.

use crate::error::Error;

const PORT: u16 = 6789;
const ADDRESSES_MAX: usize = 64;

/// One node: a host name or IP address, and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            return write!(f, "[{}]:{}", self.host, self.port);
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// Reads `tcp://host:port[,host:port]`. The scheme may be left out, and the port.
pub(crate) fn parse_url(url: &str) -> Result<Vec<Address>, Error> {
    let list = match url.split_once("://") {
        Some(("tcp", list)) => list.trim_end_matches('/'),
        Some((scheme, _)) => return Err(invalid(url, &format!("{scheme} instead of tcp"))),
        None => url,
    };
    let addresses = list.split(',').map(parse).collect::<Result<Vec<_>, _>>()?;
    if addresses.len() > ADDRESSES_MAX {
        return Err(invalid(url, &format!("more than {ADDRESSES_MAX} addresses")));
    }
    Ok(addresses)
}

fn parse(text: &str) -> Result<Address, Error> {
    let text = text.trim();
    let (host, port) = split(text).ok_or_else(|| invalid(text, "no host"))?;
    let port = match port {
        Some(port) => port.parse().map_err(|_| invalid(text, "no port number"))?,
        None => PORT,
    };
    if host.is_empty() || host.contains(['/', '@', ' ']) {
        return Err(invalid(text, "no host"));
    }
    Ok(Address { host: host.to_owned(), port })
}

/// Host and port, where the host may be an IPv6 address in brackets.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    let Some(bracketed) = text.strip_prefix('[') else {
        return Some(match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        });
    };
    let (host, rest) = bracketed.split_once(']')?;
    match rest.strip_prefix(':') {
        Some(port) => Some((host, Some(port))),
        None => rest.is_empty().then_some((host, None)),
    }
}

fn invalid(text: &str, reason: &str) -> Error {
    Error::Address { detail: format!("{text:?}: {reason}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_one_or_several_nodes() {
        for (url, read) in [
            ("tcp://a:1", "a:1"),
            ("tcp://a:1,b:2", "a:1 b:2"),
            ("tcp://a, b:2/", "a:6789 b:2"),
            ("localhost", "localhost:6789"),
            ("[::1]:7000,[::2]", "[::1]:7000 [::2]:6789"),
        ] {
            let addresses = parse_url(url).unwrap();
            let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            assert_eq!(shown.join(" "), read, "{url}");
        }
    }

    #[test]
    fn what_names_no_node_is_refused() {
        for url in ["", "tcp://", "http://a:1", "a:", "a:99999", ":1", "a:1,,b:1", "[::1", "a b:1"]
        {
            assert!(matches!(parse_url(url), Err(Error::Address { .. })), "{url}");
        }
    }

    #[test]
    fn the_number_of_nodes_is_bounded() {
        let hosts = |count| vec!["a"; count].join(",");
        assert_eq!(parse_url(&hosts(ADDRESSES_MAX)).unwrap().len(), ADDRESSES_MAX);
        assert!(parse_url(&hosts(ADDRESSES_MAX + 1)).is_err());
    }
}
