//! The proxy on the way to a registry, by the variables that curl and Docker read.

use tare_sys::{Error, Kind, Result};
use ureq::Proxy;

/// The proxy for addresses of this scheme, or none.
///
/// Errors: [`Kind::Usage`] for a variable that holds no address.
pub(super) fn of(scheme: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<Proxy>> {
    let read = |name: &str| {
        let small = name.to_ascii_lowercase();
        variable(name).or_else(|| variable(&small)).filter(|value| !value.trim().is_empty())
    };
    let own = if scheme == "https" { "HTTPS_PROXY" } else { "HTTP_PROXY" };
    let Some((name, address)) = [own, "ALL_PROXY"].into_iter().find_map(|name| Some((name, read(name)?)))
    else {
        return Ok(None);
    };
    // What is wrong is not printed: it may have a password.
    let wrong = |_| {
        Error::new(Kind::Usage, format!("${name} is not the address of a proxy"))
            .hint(format!("for example: {name}=http://proxy.lan:3128"))
    };
    let proxy = Proxy::new(address.trim()).map_err(wrong)?;
    let mut built = Proxy::builder(proxy.protocol()).host(proxy.host()).port(proxy.port());
    if let Some(name) = proxy.username() {
        built = built.username(name);
    }
    if let Some(password) = proxy.password() {
        built = built.password(password);
    }
    for name in read("NO_PROXY").unwrap_or_default().split([',', ' ']).filter(|name| !name.is_empty()) {
        built = built.no_proxy(name);
        if !name.starts_with(['.', '*']) {
            // A name stands for all below it, too, as in curl.
            built = built.no_proxy(&format!(".{name}"));
        }
    }
    built.build().map(Some).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::Uri;

    fn chosen(scheme: &str, variables: &[(&str, &str)]) -> Result<Option<Proxy>> {
        of(scheme, &|wanted| {
            variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let both = [("HTTP_PROXY", "http://a:1"), ("https_proxy", "http://u:p%40@b:2")];
        let host = |scheme, variables: &[_]| chosen(scheme, variables).unwrap().map(|p| p.host().to_owned());
        assert_eq!(host("http", &both).as_deref(), Some("a"));
        assert_eq!(host("https", &both).as_deref(), Some("b"));
        assert_eq!(chosen("https", &both).unwrap().unwrap().password(), Some("p@"));
        assert_eq!(host("https", &both[..1]), None);
        assert_eq!(host("https", &[("ALL_PROXY", "socks5://c:3")]).as_deref(), Some("c"));
        assert_eq!(host("https", &[("HTTPS_PROXY", "")]), None);
    }

    #[test]
    fn some_hosts_go_without() {
        let variables = [("HTTPS_PROXY", "http://a:1"), ("NO_PROXY", "lan, .example.com")];
        let proxy = chosen("https", &variables).unwrap().unwrap();
        let goes_without = |uri: &str| proxy.is_no_proxy(&uri.parse::<Uri>().unwrap());
        assert!(goes_without("https://lan/") && goes_without("https://x.lan:5000/"));
        assert!(goes_without("https://x.example.com/") && !goes_without("https://quay.io/"));
    }

    #[test]
    fn a_wrong_address_is_said_without_its_password() {
        let err = chosen("https", &[("HTTPS_PROXY", "gopher://me:secret@x")]).unwrap_err();
        assert_eq!(err.kind(), Kind::Usage);
        assert!(err.to_string().contains("HTTPS_PROXY") && !err.to_string().contains("secret"));
    }
}
