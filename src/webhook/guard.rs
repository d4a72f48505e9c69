//! Which addresses a delivery may go to (WHK-5).
//!
//! A webhook's URL is written by a customer and called from inside the operator's network, so without a guard it reads
//! whatever that network holds (server-side request forgery). Checked are: the URL when it is written, a literal
//! address before every call, and every address a name resolves to just before it is connected to. What is checked is
//! what is connected to: no second look-up lies between.
//!
//! The ranges are those the IANA special-purpose registries call not globally reachable, plus the metadata services of
//! cloud providers. An IPv6 address that carries an IPv4 address is judged by that one. Of IPv6, what lies outside of
//! `2000::/3` is refused as a whole.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use url::{Host, Url};

use crate::ground::error::Problem;

/// Longest URL of a webhook, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;

/// What the operator allows beyond public addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressPolicy {
    /// Allow every address that can be connected to at all.
    pub allow_private: bool,
    /// Networks that are allowed although they are not public.
    pub allowed: Vec<IpNet>,
}

/// An address that is not allowed, and the range it lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the address {address} is not allowed ({range})")]
pub struct AddressRefused {
    /// The address.
    pub address: IpAddr,
    /// What its range is called.
    pub range: &'static str,
}

impl AddressPolicy {
    /// Whether this address may be connected to.
    ///
    /// # Errors
    /// With the name of the range when it may not.
    pub fn check_ip(&self, address: IpAddr) -> Result<(), AddressRefused> {
        let refused = |range| Err(AddressRefused { address, range });
        // A mapped address is the IPv4 address under another spelling: the same socket.
        let canonical = address.to_canonical();
        if canonical.is_unspecified() {
            return refused("unspecified");
        }
        if canonical.is_multicast() {
            return refused("multicast");
        }
        if self.allow_private || self.allowed.iter().any(|net| net.contains(&canonical) || net.contains(&address)) {
            return Ok(());
        }
        let range = match canonical {
            IpAddr::V4(v4) => special_v4(v4),
            IpAddr::V6(v6) => special_v6(v6),
        };
        range.map_or(Ok(()), refused)
    }

    /// Whether the host of a URL may be called, as far as can be said without a look-up: a literal address is judged,
    /// a name passes unless it means this machine.
    ///
    /// # Errors
    /// With the name of the range when it may not.
    pub fn check_host(&self, url: &Url) -> Result<(), AddressRefused> {
        match url.host() {
            Some(Host::Ipv4(v4)) => self.check_ip(IpAddr::V4(v4)),
            Some(Host::Ipv6(v6)) => self.check_ip(IpAddr::V6(v6)),
            Some(Host::Domain(name)) if is_localhost(name) => {
                // RFC 6761: the name means the loopback addresses, whatever a resolver says.
                self.check_ip(IpAddr::V4(Ipv4Addr::LOCALHOST))
                    .or_else(|refused| self.check_ip(IpAddr::V6(Ipv6Addr::LOCALHOST)).map_err(|_| refused))
            }
            Some(Host::Domain(_)) | None => Ok(()),
        }
    }

    /// Reads the URL of a webhook when it is created or changed.
    ///
    /// # Errors
    /// A problem naming the field `url`. It repeats neither credentials nor the query.
    pub fn check_url(&self, text: &str) -> Result<Url, Problem> {
        let refuse = |limit: String| Err(Problem::field("url", limit, shown(text)));
        if text.len() > URL_BYTES_MAX {
            return refuse(format!("at most {URL_BYTES_MAX} bytes"));
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return refuse("no spaces or control characters".to_owned());
        }
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(error) => return refuse(format!("an absolute URL ({error})")),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("http or https".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("no credentials in the URL; use `auth`".to_owned());
        }
        if url.fragment().is_some() {
            return refuse("no fragment (`#…`)".to_owned());
        }
        if url.host_str().is_none_or(str::is_empty) {
            return refuse("a host".to_owned());
        }
        if url.port() == Some(0) {
            return refuse("a port from 1 to 65535".to_owned());
        }
        // The URL crate lets the text grow (percent-encoding, punycode): the bound holds for what is stored, too.
        if url.as_str().len() > URL_BYTES_MAX {
            return refuse(format!("at most {URL_BYTES_MAX} bytes when encoded"));
        }
        match self.check_host(&url) {
            Ok(()) => Ok(url),
            Err(refused) => refuse(format!("a public address; {} is {}", refused.address, refused.range)),
        }
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// What of a URL may be repeated: nothing before an `@`, nothing after the path. Works on text that is no URL, too,
/// so it cuts on suspicion.
fn shown(text: &str) -> String {
    let (mark, rest) = match text.rsplit_once('@') {
        Some((_, rest)) => ("…@", rest),
        None => ("", text),
    };
    let end = rest.find(['?', '#']).unwrap_or(rest.len());
    format!("{mark}{}", &rest[..end])
}

/// The special range of an IPv4 address; `None` when it is public.
fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    match address.octets() {
        [169, 254, 169, 254] | [168, 63, 129, 16] | [100, 100, 100, 200] => Some("cloud metadata"),
        [0, ..] => Some("this network"),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some("private"),
        [100, 64..=127, ..] => Some("carrier-grade NAT"),
        [127, ..] => Some("loopback"),
        [169, 254, ..] => Some("link-local"),
        [192, 0, 0, _] => Some("IETF protocols"),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some("documentation"),
        [192, 88, 99, _] => Some("6to4 relay"),
        [198, 18..=19, ..] => Some("benchmarking"),
        [224..=239, ..] => Some("multicast"),
        [255, 255, 255, 255] => Some("broadcast"),
        [240..=255, ..] => Some("reserved"),
        _ => None,
    }
}

/// The special range of an IPv6 address that maps no IPv4 address; `None` when it is public.
fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0, 0, 0, 0, 0, 0, ..] => Some("IPv4-compatible"),
        // NAT64 (RFC 6052) is how an IPv6-only host reaches public IPv4 addresses, so it is as good as what it carries.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => special_v4(embedded(high, low)),
        [0x64, 0xff9b, 1, ..] => Some("local NAT64"),
        [0x100, 0, 0, 0, ..] => Some("discard"),
        [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some("cloud metadata"),
        [0xfc00..=0xfdff, ..] => Some("unique local"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("site-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        [0x2001, 0, ..] => Some("Teredo"),
        [0x2001, 2, 0, ..] => Some("benchmarking"),
        [0x2001, 0x10..=0x1f, ..] => Some("ORCHID"),
        [0x2001, 0..=0x1ff, ..] => Some("IETF protocols"),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some("documentation"),
        [0x2002, ..] => Some("6to4"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("reserved"),
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn range(policy: &AddressPolicy, text: &str) -> Option<&'static str> {
        policy.check_ip(ip(text)).err().map(|refused| refused.range)
    }

    fn allowing(nets: &[&str]) -> AddressPolicy {
        let allowed = nets.iter().map(|net| net.parse().expect("a network")).collect();
        AddressPolicy { allow_private: false, allowed }
    }

    #[test]
    fn addresses_that_are_not_public_are_refused_by_range() {
        let cases = [
            ("0.0.0.0", "unspecified"),
            ("0.1.2.3", "this network"),
            ("10.0.0.1", "private"),
            ("100.64.0.1", "carrier-grade NAT"),
            ("100.127.255.255", "carrier-grade NAT"),
            ("100.100.100.200", "cloud metadata"),
            ("127.0.0.1", "loopback"),
            ("127.255.255.254", "loopback"),
            ("168.63.129.16", "cloud metadata"),
            ("169.254.0.1", "link-local"),
            ("169.254.169.254", "cloud metadata"),
            ("172.16.0.1", "private"),
            ("172.31.255.255", "private"),
            ("192.0.0.192", "IETF protocols"),
            ("192.0.2.1", "documentation"),
            ("192.88.99.1", "6to4 relay"),
            ("192.168.1.1", "private"),
            ("198.18.0.1", "benchmarking"),
            ("198.51.100.1", "documentation"),
            ("203.0.113.9", "documentation"),
            ("224.0.0.1", "multicast"),
            ("239.255.255.255", "multicast"),
            ("240.0.0.1", "reserved"),
            ("255.255.255.255", "broadcast"),
            ("::", "unspecified"),
            ("::1", "loopback"),
            ("::127.0.0.1", "IPv4-compatible"),
            ("::ffff:127.0.0.1", "loopback"),
            ("::ffff:0.0.0.0", "unspecified"),
            ("::ffff:224.0.0.1", "multicast"),
            ("::ffff:169.254.169.254", "cloud metadata"),
            ("::ffff:0:127.0.0.1", "reserved"),
            ("64:ff9b::10.0.0.1", "private"),
            ("64:ff9b::7f00:1", "loopback"),
            ("64:ff9b:1::8.8.8.8", "local NAT64"),
            ("100::1", "discard"),
            ("2001::1", "Teredo"),
            ("2001:2::1", "benchmarking"),
            ("2001:10::1", "ORCHID"),
            ("2001:20::1", "IETF protocols"),
            ("2001:db8::1", "documentation"),
            ("2002:7f00:1::", "6to4"),
            ("3fff::1", "documentation"),
            ("4000::1", "reserved"),
            ("fc00::1", "unique local"),
            ("fd12:3456::1", "unique local"),
            ("fd00:ec2::254", "cloud metadata"),
            ("fe80::1", "link-local"),
            ("fec0::1", "site-local"),
            ("ff02::1", "multicast"),
        ];
        for (text, expected) in cases {
            assert_eq!(range(&AddressPolicy::default(), text), Some(expected), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_allowed() {
        let public = [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.17.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "2606:4700::1111",
            "2001:4860:4860::8888",
            "2001:200::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2003::1",
            "3ffe::1",
        ];
        for text in public {
            assert_eq!(range(&AddressPolicy::default(), text), None, "{text}");
        }
    }

    #[test]
    fn allowing_private_networks_allows_all_that_can_be_connected_to() {
        let policy = AddressPolicy { allow_private: true, allowed: Vec::new() };
        for text in ["127.0.0.1", "::1", "10.1.2.3", "169.254.169.254", "::ffff:127.0.0.1", "fd00::1"] {
            assert_eq!(range(&policy, text), None, "{text}");
        }
        for text in ["0.0.0.0", "::", "224.0.0.1", "ff02::1", "::ffff:0.0.0.0"] {
            assert!(range(&policy, text).is_some(), "{text}");
        }
    }

    #[test]
    fn an_allowed_network_opens_itself_and_nothing_else() {
        let policy = allowing(&["10.1.0.0/16", "fd00::/64"]);
        for text in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::5"] {
            assert_eq!(range(&policy, text), None, "{text}");
        }
        for text in ["10.2.0.1", "127.0.0.1", "fd01::5", "64:ff9b::10.1.2.3"] {
            assert!(range(&policy, text).is_some(), "{text}");
        }
        assert_eq!(range(&allowing(&["0.0.0.0/0"]), "224.0.0.1"), Some("multicast"));
    }

    #[test]
    fn every_spelling_of_a_forbidden_host_is_refused() {
        let spellings = [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://[::1]/",
            "http://[::ffff:127.0.0.1]/",
            "http://[::ffff:7f00:1]/",
            "http://[0:0:0:0:0:ffff:127.0.0.1]/",
            "http://127。0。0。1/",
            "http://①②⑦.0.0.1/",
            "http://localhost/",
            "http://LOCALHOST/",
            "http://localhost./",
            "http://127.0.0.1./",
            "http://a.b.localhost/",
            "http://169.254.169.254/latest/meta-data",
            "http://[fd00:ec2::254]/",
            "http://0/",
            "http://0.0.0.0:8080/",
            "http://%31%32%37.0.0.1/",
            "https://10.0.0.1:8443/hook",
            "http:\\\\127.0.0.1\\",
            "http:127.0.0.1",
        ];
        for text in spellings {
            let problem = AddressPolicy::default().check_url(text).expect_err(text);
            assert_eq!(problem.field.as_deref(), Some("url"), "{text}");
            assert!(problem.detail.contains("public address"), "{text}: {problem}");
        }
    }

    #[test]
    fn what_is_no_url_of_a_webhook_is_refused_with_the_reason() {
        let long = format!("https://example.com/{}", "x".repeat(URL_BYTES_MAX));
        let grows = format!("https://example.com/{}", "ü".repeat(700));
        let cases = [
            ("", "absolute URL"),
            ("/hook", "absolute URL"),
            ("example.com/hook", "absolute URL"),
            ("https://", "absolute URL"),
            ("https://exa mple.com", "spaces"),
            ("https://example.com/\r\nx", "spaces"),
            ("ftp://example.com/", "http or https"),
            ("file:///etc/passwd", "http or https"),
            ("javascript:alert(1)", "http or https"),
            ("https://user@example.com/", "credentials"),
            ("https://:secret@example.com/", "credentials"),
            ("https://example.com/#part", "fragment"),
            ("https://example.com:0/", "port"),
            ("https://example.com:70000/", "absolute URL"),
            (long.as_str(), "2048 bytes"),
            (grows.as_str(), "when encoded"),
        ];
        for (text, reason) in cases {
            let problem = AddressPolicy::default().check_url(text).expect_err(text);
            assert!(problem.detail.contains(reason), "{text}: {problem}");
        }
    }

    #[test]
    fn a_refusal_repeats_no_credentials_and_no_query() {
        for text in [
            "https://user:s3cret@example.com/hook?token=s3cret",
            "ftp://user:s3cret@example.com/",
            "https://us@er:s3cret@example.com/",
            "https://user:s3cret@[bad/",
            "https://user:s3?cret@example.com/",
            "ftp://example.com/?token=s3cret",
            "https://user:s3cret@127.0.0.1/",
        ] {
            let problem = AddressPolicy::default().check_url(text).expect_err(text);
            assert!(!problem.to_json().to_string().contains("s3c"), "{text}: {}", problem.to_json());
        }
    }

    #[test]
    fn a_good_url_comes_back_as_it_will_be_called() {
        let policy = AddressPolicy::default();
        let url = policy.check_url("HTTPS://Example.COM:443/hook?a=b").expect("good");
        assert_eq!(url.as_str(), "https://example.com/hook?a=b");
        assert!(policy.check_url("http://8.8.8.8/hook").is_ok());
        let local = AddressPolicy { allow_private: true, allowed: Vec::new() };
        assert!(local.check_url("http://localhost:9000/").is_ok());
        assert!(allowing(&["127.0.0.0/8"]).check_url("http://localhost:9000/").is_ok());
        assert!(allowing(&["::1/128"]).check_url("http://localhost:9000/").is_ok());
        assert!(allowing(&["10.0.0.0/8"]).check_url("http://localhost:9000/").is_err());
    }
}
