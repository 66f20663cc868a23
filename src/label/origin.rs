//! Which requests come from the page itself. A page of another site can make a browser send requests here, or
//! reach this address under a name of its own (DNS rebinding): such requests have a foreign `Origin` or
//! `Host`.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName};

use crate::http::Refusal;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// The names of this service.
#[derive(Debug)]
pub(super) struct Hosts {
    port: u16,
    /// In lower case, with or without a port.
    names: Vec<String>,
}

impl Hosts {
    /// Addresses and `localhost` are names of this service, and so are the name of `--listen` and those of
    /// `--host`.
    pub(super) fn new(port: u16, listen: &str, more: &[String]) -> Self {
        let own = listen.rsplit_once(':').map(|(name, _)| format!("{name}:{port}"));
        let names = own.iter().chain(more).map(|name| name.to_ascii_lowercase()).collect();
        Self { port, names }
    }

    fn includes(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        if self.names.contains(&host) {
            return true;
        }
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.contains(']') => (name, port),
            _ => (host.as_str(), "80"),
        };
        let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
        let is_known =
            name == "localhost" || address.parse::<IpAddr>().is_ok() || self.names.iter().any(|own| own == name);
        is_known && port.parse() == Ok(self.port)
    }

    /// Refuses requests of other sites.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let mut hosts = headers.get_all(HOST).iter();
        let host = hosts.next().and_then(|host| host.to_str().ok()).unwrap_or_default();
        if hosts.next().is_some() || !self.includes(host) {
            let what = "the Host of the request is not this service, expected its address, or --host with this name";
            return Err(Refusal::forbidden(what));
        }
        let is_own = |origin: &str| {
            let origin = origin.to_ascii_lowercase();
            let origin = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
            origin == Some(&host.to_ascii_lowercase())
        };
        let mut origins = headers.get_all(ORIGIN).iter();
        if !origins.all(|origin| origin.to_str().is_ok_and(is_own)) {
            return Err(Refusal::forbidden("the request comes from another site, expected this service's own page"));
        }
        Ok(())
    }

    /// Refuses requests for data that another site makes a browser send.
    pub(super) fn check_data(headers: &HeaderMap) -> Result<(), Refusal> {
        let site = headers.get(SEC_FETCH_SITE).map(|site| site.as_bytes());
        match site {
            None | Some(b"same-origin" | b"none") => Ok(()),
            Some(_) => Err(Refusal::forbidden("the request comes from another site, expected this service's own page")),
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn allows(hosts: &Hosts, host: &str, origin: Option<&str>) -> bool {
        let mut headers = HeaderMap::from_iter([(HOST, HeaderValue::from_str(host).unwrap())]);
        headers.extend(origin.map(|origin| (ORIGIN, HeaderValue::from_str(origin).unwrap())));
        hosts.check(&headers).is_ok()
    }

    #[test]
    fn other_names_and_other_sites_are_refused() {
        let hosts = Hosts::new(8090, "127.0.0.1:8090", &["labels.example".to_owned(), "proxy.example:444".to_owned()]);
        for own in ["127.0.0.1:8090", "localhost:8090", "LocalHost:8090", "[::1]:8090", "192.0.2.7:8090"] {
            assert!(allows(&hosts, own, None) && allows(&hosts, own, Some(&format!("http://{own}"))), "{own}");
        }
        for own in ["labels.example", "labels.example:8090", "proxy.example:444"] {
            assert!(allows(&hosts, own, Some(&format!("https://{own}"))), "{own}");
        }
        for foreign in
            ["", "evil.example", "evil.example:8090", "127.0.0.1:9", "127.0.0.1", "localhost", "proxy.example"]
        {
            assert!(!allows(&hosts, foreign, None), "{foreign}");
        }
        for foreign in
            ["null", "http://evil.example", "http://127.0.0.1:8091", "http://127.0.0.1:8090.evil.example", ""]
        {
            assert!(!allows(&hosts, "127.0.0.1:8090", Some(foreign)), "{foreign}");
        }
        assert!(!allows(&hosts, "localhost:8090", Some("http://127.0.0.1:8090")), "another origin");
    }
}
