//! Whether a registry takes a login.

use tare_sys::{Error, Kind, Result};

use super::credentials::Credentials;
use super::endpoint::Endpoint;
use super::settings::Settings;

/// The registry that a person means: scheme and path are left out, and Docker Hub has several names.
pub fn domain_of(server: &str) -> &str {
    let bare = server.strip_prefix("https://").or_else(|| server.strip_prefix("http://")).unwrap_or(server);
    match bare.split('/').next().unwrap_or_default() {
        "" | "index.docker.io" | "registry-1.docker.io" => "docker.io",
        domain => domain,
    }
}

/// Shows credentials to a registry. Answers with those to keep: a token, if the registry gives one for the password.
///
/// Errors: [`tare_sys::Kind::Permission`] where they are not the right ones; those of reaching the registry.
pub fn check(domain: &str, settings: &Settings, credentials: Credentials) -> Result<Credentials> {
    let endpoint = Endpoint::new(domain, &settings.of(domain), Vec::new(), Some(credentials.clone()))?;
    let token = endpoint.log_in().map_err(|err| match err.kind() {
        Kind::Permission => Error::new(Kind::Permission, format!("unauthorized: {err}"))
            .hint("is the name right, and the password? Some registries want a token in its place"),
        _ => err,
    })?;
    Ok(token.map_or(credentials, Credentials::RefreshToken))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_a_registry() {
        for hub in ["", "docker.io", "https://index.docker.io/v1/", "registry-1.docker.io"] {
            assert_eq!(domain_of(hub), "docker.io", "{hub}");
        }
        assert_eq!(domain_of("https://quay.io/team"), "quay.io");
        assert_eq!(domain_of("localhost:5000"), "localhost:5000");
    }
}
