//! Texts with a form of their own: durations, addresses, upstreams, networks, hosts, times. Each parser says what is
//! wrong, and where in the text.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use ipnet::IpNet;
use toml::value::Datetime;

use super::address::{Address, Endpoint, Scheme, Upstream};
use crate::diag::Span;

/// Why a text does not have its form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    /// What is wrong, to stand under the text.
    pub(super) label: String,
    /// The bytes of the text at fault; `None`: all of it.
    pub(super) at: Option<Span>,
    /// What to write instead.
    pub(super) help: Option<String>,
}

impl Problem {
    /// A problem of the whole text.
    pub(super) fn new(label: impl Into<String>) -> Self {
        Self { label: label.into(), at: None, help: None }
    }

    /// The same, of a part of the text.
    fn at(self, start: usize, length: usize) -> Self {
        Self { at: Some(start..start + length), ..self }
    }

    /// The same, with what to write instead.
    fn help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// A duration such as `30s`, at least `least` and at most 24 hours.
pub(super) fn duration(text: &str, least: Duration) -> Result<Duration, Problem> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Problem::new("a duration starts with a whole number"));
    }
    let millis = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => {
            return Err(
                Problem::new("the unit is missing").help(format!("write `\"{number}s\"` for seconds"))
            );
        }
        _ => return Err(Problem::new("the unit must be `ms`, `s`, `m` or `h`").at(digits, unit.len())),
    };
    let total =
        number.parse().ok().and_then(|number: u64| number.checked_mul(millis)).map(Duration::from_millis);
    match total {
        Some(total) if total < least => Err(Problem::new("it must be longer than nothing")),
        Some(total) if total <= LONGEST => Ok(total),
        _ => Err(Problem::new("it is longer than 24 hours")),
    }
}

/// The longest duration that means one: more is a mistake.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// A number of bytes such as `64KiB`, within a range.
pub(super) fn size(text: &str, range: RangeInclusive<u64>) -> Result<u64, Problem> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(Problem::new("a size starts with a whole number"));
    }
    let factor = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "" => {
            let problem = Problem::new("the unit is missing");
            return Err(problem.help(format!("write `\"{number}B\"` for bytes")));
        }
        _ => return Err(Problem::new("the unit must be `B`, `KiB`, `MiB` or `GiB`").at(digits, unit.len())),
    };
    let total = number.parse().ok().and_then(|number: u64| number.checked_mul(factor));
    total.filter(|total| range.contains(total)).ok_or_else(|| {
        Problem::new(format!("it must be from {} to {}", said_size(*range.start()), said_size(*range.end())))
    })
}

/// A size in the largest unit in which it is a whole number.
fn said_size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(bits, _)| bytes > 0 && bytes.trailing_zeros() >= *bits);
    unit.map_or_else(|| format!("{bytes}B"), |(bits, unit)| format!("{}{unit}", bytes >> bits))
}

/// A status such as `200`, or a range such as `200-399`.
pub(super) fn statuses(text: &str) -> Result<RangeInclusive<u16>, Problem> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let status = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|status| digits && (100..=599).contains(status))
    };
    match (status(first), status(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        (Some(_), Some(_)) => Err(Problem::new("the range ends before it begins")),
        _ => Err(Problem::new("a status is a number from 100 to 599")),
    }
}

/// A path with or without a query, as a request's target has it.
pub(super) fn raw_target(text: &str) -> Result<String, Problem> {
    let path = text.split_once('?').map_or(text, |(path, _)| path);
    raw_path(path)?;
    match text.char_indices().find(|(_, c)| !c.is_ascii_graphic() || *c == '#') {
        Some((at, c)) => Err(Problem::new("this must be percent-encoded").at(at, c.len_utf8())),
        None => Ok(text.to_owned()),
    }
}

/// An address to listen on; paths are joined to the folder.
pub(super) fn address(text: &str, folder: &Path) -> Result<Address, Problem> {
    if let Some(path) = text.strip_prefix("unix:") {
        return socket_path(path, folder).map(Address::Unix);
    }
    if let Ok(address) = text.parse() {
        return Ok(Address::Tcp(address));
    }
    if let Some(at) = text.find("://") {
        let problem = Problem::new("an address to listen on has no scheme").at(0, at + 3);
        return Err(problem.help("with `tls` the listener speaks https, else http"));
    }
    if text.parse::<IpAddr>().is_ok() {
        return Err(
            Problem::new("the port is missing").help(format!("write `\"{}\"`", with_port(text, "8080")))
        );
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return Err(Problem::new("it is neither an IP address with a port nor `unix:` and a path"));
    };
    let at = host.len() + 1;
    if port.parse::<u16>().is_err() {
        return Err(Problem::new("the port must be a number from 0 to 65535").at(at, port.len()));
    }
    let problem = match host {
        "" | "*" => Problem::new("the IP address is missing")
            .help(format!("write `\"0.0.0.0:{port}\"` to listen on every address")),
        "localhost" => {
            Problem::new("it must be an IP address, not a name").help(format!("write `\"127.0.0.1:{port}\"`"))
        }
        host if host.contains(':') && host.parse::<IpAddr>().is_ok() => {
            Problem::new("an IPv6 address stands in brackets").help(format!("write `\"[{host}]:{port}\"`"))
        }
        _ => Problem::new("this is not an IP address"),
    };
    Err(problem.at(0, host.len().max(1)))
}

fn with_port(ip: &str, port: &str) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

/// The path of a Unix socket, joined to the folder.
fn socket_path(path: &str, folder: &Path) -> Result<PathBuf, Problem> {
    // Linux's `sun_path` has 108 bytes, the last one a NUL.
    const MOST: usize = 107;
    if path.is_empty() || path.contains('\0') {
        return Err(Problem::new("a path must follow `unix:`"));
    }
    let joined = folder.join(path);
    if joined.as_os_str().len() > MOST {
        return Err(Problem::new(format!("the path of a socket has at most {MOST} bytes, folder included")));
    }
    Ok(joined)
}

/// An upstream; paths are joined to the folder.
pub(super) fn upstream(text: &str, folder: &Path) -> Result<Upstream, Problem> {
    if let Some(path) = text.strip_prefix("unix:") {
        let endpoint = Endpoint::Unix(socket_path(path, folder)?);
        return Ok(Upstream { scheme: Scheme::Http, endpoint });
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        let problem = Problem::new("the scheme is missing");
        return Err(if authority(text, 0, 80).is_ok() {
            problem.help(format!("write `\"http://{text}\"`"))
        } else {
            problem
        });
    };
    let (scheme, port) = match scheme.to_ascii_lowercase().as_str() {
        "http" => (Scheme::Http, 80),
        "https" => (Scheme::Https, 443),
        "h2c" => (Scheme::H2c, 80),
        _ => {
            return Err(Problem::new("the scheme must be `http`, `https` or `h2c`").at(0, scheme.len()));
        }
    };
    let from = text.len() - rest.len();
    if let Some(at) = rest.find(['/', '?', '#']) {
        let what = match rest.as_bytes().get(at) {
            Some(b'/') => "path",
            Some(b'?') => "query",
            _ => "fragment",
        };
        let problem = Problem::new(format!("an upstream has no {what}: requests keep their own"));
        let help = format!("write `\"{}\"`", &text[..from + at]);
        return Err(problem.at(from + at, rest.len() - at).help(help));
    }
    if let Some(at) = rest.rfind('@') {
        return Err(Problem::new("an upstream has no user and no password").at(from, at + 1));
    }
    Ok(Upstream { scheme, endpoint: authority(rest, from, port)? })
}

/// A host with an optional port, from `text` that stands at `from` in a longer one.
fn authority(text: &str, from: usize, default_port: u16) -> Result<Endpoint, Problem> {
    if text.parse::<std::net::Ipv6Addr>().is_ok() {
        let help = format!("write `[{text}]`");
        return Err(Problem::new("an IPv6 address stands in brackets").at(from, text.len()).help(help));
    }
    let bare = text.ends_with(']') || !text.contains(':');
    let (host, port) = match text.rsplit_once(':').filter(|_| !bare) {
        None => (text, default_port),
        Some((host, port)) => match port.parse() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => (host, number),
            _ => {
                let problem = Problem::new("the port must be a number from 1 to 65535");
                return Err(problem.at(from + host.len() + 1, port.len()));
            }
        },
    };
    let problem = |label: &str| Problem::new(label).at(from, host.len().max(1));
    if let Some(ip) = host.strip_prefix('[') {
        let ip = ip.strip_suffix(']').and_then(|ip| ip.parse().ok());
        return match ip {
            Some(ip) => Ok(Endpoint::Address(SocketAddr::new(IpAddr::V6(ip), port))),
            None => Err(problem("this is not an IPv6 address in brackets")),
        };
    }
    match host.parse::<Ipv4Addr>() {
        Ok(ip) => Ok(Endpoint::Address(SocketAddr::new(IpAddr::V4(ip), port))),
        Err(_) => Ok(Endpoint::Name { host: name(host).map_err(|label| problem(&label))?, port }),
    }
}

/// A DNS name in lower case, without its final dot.
fn name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err("the host is missing".to_owned());
    }
    if name.len() > 253 || name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err("a host name has labels of 1 to 63 characters and at most 253 in all".to_owned());
    }
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(bad) = name.chars().find(|c| !good(*c)) {
        let hint = if bad.is_ascii() { "" } else { "; write international names in their xn-- form" };
        return Err(format!("{bad:?} does not occur in a host name{hint}"));
    }
    // Names that end in a number are read as IPv4 addresses by some resolvers and refused by others.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("this is neither an IPv4 address nor a host name".to_owned());
    }
    Ok(name.to_ascii_lowercase())
}

/// A host without port: a name or an IP address (IPv6 with or without brackets, which are dropped), in lower case.
pub(super) fn host(text: &str) -> Result<String, Problem> {
    let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    match inner.parse::<IpAddr>() {
        Ok(ip) => Ok(ip.to_string()),
        Err(_) => name(text).map_err(Problem::new),
    }
}

/// A `Host` header: a host with or without port, as written but in lower case.
pub(super) fn host_header(text: &str) -> Result<String, Problem> {
    authority(text, 0, 80).map(|_| text.to_ascii_lowercase())
}

/// A network; an address is a network of one. IPv4 networks in IPv6 form become IPv4, as peers' addresses do.
pub(super) fn network(text: &str) -> Result<IpNet, Problem> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(ip.to_canonical()));
    }
    let Some((ip, prefix)) = text.split_once('/') else {
        return Err(Problem::new("this is neither an IP address nor a network"));
    };
    let Ok(ip) = ip.parse::<IpAddr>() else {
        return Err(Problem::new("this is not an IP address").at(0, ip.len().max(1)));
    };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let length = prefix.parse().ok().filter(|_| prefix.bytes().all(|byte| byte.is_ascii_digit()));
    let Some(network) = length.and_then(|length| IpNet::new(ip, length).ok()) else {
        let label = format!("the length of the prefix must be a number from 0 to {most}");
        return Err(Problem::new(label).at(text.len() - prefix.len(), prefix.len().max(1)));
    };
    if network.trunc() != network {
        let problem = Problem::new("the address has bits behind the prefix");
        return Err(
            problem.help(format!("write `\"{}\"` for the network, or the address alone", network.trunc()))
        );
    }
    match (ip.to_canonical(), network.prefix_len()) {
        (IpAddr::V4(ip), length @ 96..) if network.addr().is_ipv6() => {
            IpNet::new(IpAddr::V4(ip), length - 96).map_err(|_| Problem::new("this is not a network"))
        }
        _ => Ok(network),
    }
}

/// A path that requests are compared with byte for byte.
pub(super) fn raw_path(text: &str) -> Result<String, Problem> {
    if !text.starts_with('/') {
        return Err(Problem::new("a path starts with `/`").help(format!("write `\"/{text}\"`")));
    }
    if let Some(at) = text.find(['?', '#']) {
        return Err(Problem::new("a query or fragment is not part of the path").at(at, text.len() - at));
    }
    match text.char_indices().find(|(_, c)| !c.is_ascii_graphic()) {
        Some((at, c)) => Err(Problem::new("this must be percent-encoded").at(at, c.len_utf8())),
        None => Ok(text.to_owned()),
    }
}

/// A date-time with an offset, in the form of RFC 3339.
pub(super) fn date_time(text: &str) -> Result<String, Problem> {
    match Datetime::from_str(text) {
        Ok(time) => rfc3339(time, text),
        Err(_) => Err(Problem::new("this is not a date-time")),
    }
}

/// A date-time as written, or in the form of RFC 3339 where TOML allows more than that (a space, no seconds).
pub(super) fn rfc3339(mut value: Datetime, written: &str) -> Result<String, Problem> {
    let (Some(_), Some(time)) = (&value.date, &mut value.time) else {
        return Err(Problem::new("this is only half a date-time"));
    };
    let seconds = time.second.is_some();
    time.second.get_or_insert(0);
    if value.offset.is_none() {
        return Err(Problem::new("the offset is missing").help(format!("write `{written}Z` for UTC")));
    }
    Ok(if seconds && written.contains('T') { written.to_owned() } else { value.to_string() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn label<T>(result: Result<T, Problem>) -> String {
        result.map_or_else(|problem| problem.label, |_| "good".to_owned())
    }

    #[test]
    fn durations_are_whole_numbers_with_a_unit_up_to_a_day() {
        let parse = |text| duration(text, Duration::from_millis(1)).ok().map(|d| d.as_millis());
        for (text, millis) in
            [("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000), ("24h", 86_400_000)]
        {
            assert_eq!(parse(text), Some(millis), "{text}");
        }
        for bad in [
            "",
            "5",
            "s",
            "0s",
            "-1s",
            "1.5s",
            "1d",
            "25h",
            "1 s",
            "99999999999999999999h",
            "5 µs",
            "9999999999999999h",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(duration("0s", Duration::ZERO), Ok(Duration::ZERO));
    }

    #[test]
    fn addresses_are_ip_and_port_or_a_socket() {
        let folder = Path::new("/etc/gradual");
        for good in ["127.0.0.1:0", "[::1]:8080", "0.0.0.0:65535"] {
            assert_eq!(address(good, folder).map(|a| a.to_string()), Ok(good.to_owned()));
        }
        assert_eq!(
            address("unix:a.sock", folder).map(|a| a.to_string()),
            Ok("unix:/etc/gradual/a.sock".to_owned())
        );
        for bad in [
            "",
            ":80",
            "localhost:80",
            "1.2.3.4",
            "::1:80",
            "1.2.3.4:65536",
            "http://1.2.3.4:80",
            "unix:",
            "x",
            "é:1",
        ] {
            assert!(address(bad, folder).is_err(), "{bad}");
        }
        assert!(label(address(&format!("unix:{}", "x".repeat(100)), folder)).contains("107"));
    }

    #[test]
    fn upstreams_have_a_scheme_a_host_and_a_port() {
        let folder = Path::new("/srv");
        for (text, normal) in [
            ("http://127.0.0.1:3001", "http://127.0.0.1:3001"),
            ("http://App.internal.", "http://app.internal:80"),
            ("HTTPS://[::1]", "https://[::1]:443"),
            ("h2c://a_b:8080", "h2c://a_b:8080"),
            ("unix:app.sock", "unix:/srv/app.sock"),
        ] {
            assert_eq!(upstream(text, folder).map(|u| u.to_string()), Ok(normal.to_owned()), "{text}");
        }
        for bad in [
            "",
            "a:80",
            "ftp://a",
            "http://",
            "http://:80",
            "http://a:0",
            "http://a:+1",
            "http://a:99999",
            "http://a/",
            "http://a/x",
            "http://a?x",
            "http://a#x",
            "http://u:p@a",
            "http://::1",
            "http://[::1",
            "http://a b",
            "http://bücher.de",
            "http://1.2.3",
            "http://a..b",
            "unix:",
            "http://[::1]x:80",
            "http://a:",
        ] {
            assert!(upstream(bad, folder).is_err(), "{bad}");
        }
        assert_eq!(upstream("http://a/x", folder).unwrap_err().at, Some(8..10));
    }

    #[test]
    fn networks_have_no_bits_behind_the_prefix() {
        for (text, normal) in [
            ("10.0.0.0/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("::1", "::1/128"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(network(text).map(|n| n.to_string()), Ok(normal.to_owned()), "{text}");
        }
        for bad in ["", "/", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "x/8", "localhost"] {
            assert!(network(bad).is_err(), "{bad}");
        }
        assert_eq!(
            network("10.1.0.0/8").unwrap_err().help.unwrap(),
            "write `\"10.0.0.0/8\"` for the network, or the address alone"
        );
    }

    #[test]
    fn times_have_an_offset_and_are_written_as_rfc_3339_says() {
        for (text, normal) in [
            ("2026-11-20T12:00:00Z", "2026-11-20T12:00:00Z"),
            ("2026-11-20 12:00:00+01:00", "2026-11-20T12:00:00+01:00"),
            ("2026-11-20T12:00Z", "2026-11-20T12:00:00Z"),
        ] {
            assert_eq!(date_time(text), Ok(normal.to_owned()), "{text}");
        }
        for bad in ["", "2026-11-20", "12:00:00", "2026-11-20T12:00:00", "2026-13-20T12:00:00Z", "now"] {
            assert!(date_time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hosts_are_names_or_addresses_in_lower_case() {
        assert_eq!(host("Gradual.Internal").as_deref(), Ok("gradual.internal"));
        assert_eq!(host("[::1]").as_deref(), Ok("::1"));
        assert_eq!(host_header("App:8080").as_deref(), Ok("app:8080"));
        for bad in ["", "a:80", "http://a", "a/b"] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_health_path_is_a_raw_path() {
        assert_eq!(raw_path("/healthz").as_deref(), Ok("/healthz"));
        for bad in ["", "healthz", "/a?b", "/a#b", "/a b", "/é"] {
            assert!(raw_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_has_a_unit_and_stays_in_its_range() {
        assert_eq!(size("64KiB", 0..=1 << 20), Ok(65_536));
        assert_eq!(size("0B", 0..=1), Ok(0));
        for bad in ["64", "64KB", "KiB", "2MiB", "99999999999999999999B", "99999999999999GiB", "-1B", ""] {
            assert!(size(bad, 1..=1 << 20).is_err(), "{bad}");
        }
        let out_of_range = size("2MiB", 65_535..=1 << 20).unwrap_err();
        assert_eq!(out_of_range.label, "it must be from 65535B to 1MiB");
    }

    #[test]
    fn statuses_are_one_or_a_range() {
        assert_eq!(statuses("204"), Ok(204..=204));
        assert_eq!(statuses("200-399"), Ok(200..=399));
        for bad in ["", "99", "600", "+20", "399-200", "200-", "200-2990", "2xx"] {
            assert!(statuses(bad).is_err(), "{bad}");
        }
    }
}
