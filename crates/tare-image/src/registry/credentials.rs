//! Names and passwords for registries, where `docker login` and `podman login` keep them.
//!
//! ```text
//! $DOCKER_CONFIG/config.json, ~/.docker/config.json      {"auths": {"HOST": {"auth": base64("NAME:PASSWORD")}},
//! $REGISTRY_AUTH_FILE, $XDG_RUNTIME_DIR/containers/auth.json      "credHelpers": {"HOST": "PROGRAM"},
//!   (or /run/containers/UID/…), ~/.config/containers/auth.json    "credsStore": "PROGRAM"}
//! ```
//!
//! The first file that knows the host counts. `PROGRAM` is asked as `docker-credential-PROGRAM get`. Written is Docker's
//! file alone (`keep`).

mod keep;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use tare_sys::{Context, Error, Kind, Result};

pub use keep::Keeper;

/// What Docker writes for `docker.io`.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// What a helper gives as the name of somebody whose secret is a refresh token.
const TOKEN_USER: &str = "<token>";

/// What one shows to a registry.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A name and a password.
    Password {
        /// The name.
        name: String,
        /// The password.
        password: String,
    },
    /// An OAuth2 refresh token (`identitytoken`).
    RefreshToken(String),
}

/// Where to look, and where to write.
#[derive(Clone, Debug, Default)]
pub struct CredentialFiles {
    docker: Option<PathBuf>,
    /// podman's.
    others: Vec<PathBuf>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: BTreeMap<String, Auth>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Helped {
    username: String,
    secret: String,
}

impl CredentialFiles {
    /// Those of the user that this environment describes.
    pub fn of_environment(variable: &dyn Fn(&str) -> Option<OsString>) -> CredentialFiles {
        let path = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let home = path("HOME");
        let below = |folder: Option<PathBuf>, rest: &str| folder.map(|folder| folder.join(rest));
        let docker = below(path("DOCKER_CONFIG"), "config.json")
            .or_else(|| below(home.clone(), ".docker/config.json"));
        let user = rustix::process::getuid().as_raw();
        let runtime = below(path("XDG_RUNTIME_DIR"), "containers/auth.json")
            .or_else(|| Some(PathBuf::from(format!("/run/containers/{user}/auth.json"))));
        let config = below(path("XDG_CONFIG_HOME").or(below(home, ".config")), "containers/auth.json");
        let others = [path("REGISTRY_AUTH_FILE"), runtime, config].into_iter().flatten().collect();
        CredentialFiles { docker, others }
    }

    /// The credentials for a repository of a registry.
    ///
    /// Errors: [`Kind::Corrupt`] for a file that cannot be understood; a helper that fails.
    pub fn find(&self, domain: &str, repository: &str) -> Result<Option<Credentials>> {
        for path in self.docker.iter().chain(&self.others) {
            let bytes = match fs::read(path) {
                Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => continue,
                bytes => bytes.doing(|| format!("read {}", path.display()))?,
            };
            let found = in_file(&bytes, domain, repository)
                .map_err(|err| err.context(format!("look for a login to {domain} in {}", path.display())))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn in_file(bytes: &[u8], domain: &str, repository: &str) -> Result<Option<Credentials>> {
    let config: Config = serde_json::from_slice(bytes)
        .map_err(|err| Error::new(Kind::Corrupt, format!("it is not understood: {err}")))?;
    if let Some(helper) = config.helper(domain) {
        return ask(helper, server_of(domain));
    }
    // The longest name counts (containers-auth.json(5)): a login may be for a part of a registry.
    let whole = format!("{domain}/{repository}");
    let scopes = std::iter::successors(Some(whole.as_str()), |name| Some(name.rsplit_once('/')?.0));
    let keys = scopes.map(str::to_owned).chain(keys_of(domain));
    for key in keys {
        if let Some(auth) = config.auths.get(&key) {
            return auth.read();
        }
    }
    Ok(None)
}

/// What a registry is called in the files, and by helpers.
fn server_of(domain: &str) -> &str {
    if domain == "docker.io" { DOCKER_HUB } else { domain }
}

/// All that a registry may be called in the files.
fn keys_of(domain: &str) -> [String; 6] {
    [
        domain.to_owned(),
        server_of(domain).to_owned(),
        format!("https://{domain}"),
        format!("https://{domain}/"),
        format!("https://{domain}/v1/"),
        format!("https://{domain}/v2/"),
    ]
}

impl Config {
    /// The helper that keeps the login to a registry.
    fn helper(&self, domain: &str) -> Option<&str> {
        let own = self.cred_helpers.get(server_of(domain)).or_else(|| self.cred_helpers.get(domain));
        own.or(self.creds_store.as_ref()).map(String::as_str).filter(|name| !name.is_empty())
    }
}

impl Auth {
    fn read(&self) -> Result<Option<Credentials>> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Ok(Some(Credentials::RefreshToken(token.clone())));
        }
        if let Some(auth) = self.auth.as_ref().filter(|auth| !auth.is_empty()) {
            // What is wrong is not printed: it is a secret.
            let refuse = || Error::new(Kind::Corrupt, "its `auth` is not base64 of NAME:PASSWORD");
            let text = STANDARD.decode(auth.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text = text.ok_or_else(refuse)?;
            let (name, password) = text.split_once(':').ok_or_else(refuse)?;
            let password = password.trim_end_matches('\0').to_owned();
            return Ok(Some(Credentials::Password { name: name.to_owned(), password }));
        }
        let (Some(name), Some(password)) = (self.username.clone(), self.password.clone()) else {
            return Ok(None);
        };
        Ok(Some(Credentials::Password { name, password }))
    }
}

/// Asks a helper for a login.
fn ask(helper: &str, server: &str) -> Result<Option<Credentials>> {
    let Some(said) = call(helper, "get", server)? else { return Ok(None) };
    let helped: Helped = serde_json::from_slice(&said).map_err(|_| {
        Error::new(Kind::Corrupt, format!("`docker-credential-{helper} get` does not answer with JSON"))
    })?;
    if helped.username.is_empty() && helped.secret.is_empty() {
        return Ok(None);
    }
    Ok(Some(match helped.username.as_str() {
        TOKEN_USER => Credentials::RefreshToken(helped.secret),
        _ => Credentials::Password { name: helped.username, password: helped.secret },
    }))
}

/// Calls a helper (docker-credential-helpers' protocol): what it is to know goes to stdin, what it knows comes from
/// stdout. `None`: it has no such login.
fn call(helper: &str, verb: &str, given: &str) -> Result<Option<Vec<u8>>> {
    if Path::new(helper).components().count() != 1 {
        return Err(Error::new(Kind::Corrupt, format!("the credential helper {helper:?} is not a name")));
    }
    let program = format!("docker-credential-{helper}");
    let what = || format!("run `{program} {verb}`");
    let mut child = Command::new(&program)
        .arg(verb)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .doing(what)
        .map_err(|err| {
            err.hint("install it, or take credsStore and credHelpers out of the file of logins")
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read has said so by its exit code.
        let _ = stdin.write_all(given.as_bytes());
    }
    let out = child.wait_with_output().doing(what)?;
    if out.status.success() {
        return Ok(Some(out.stdout));
    }
    let said = String::from_utf8_lossy(&out.stdout);
    // Their word for "no login" (docker-credential-helpers, credentials/error.go).
    if said.trim() == "credentials not found in native keychain" {
        return Ok(None);
    }
    Err(Error::new(Kind::Permission, format!("`{program} {verb}` failed: {}", said.trim())))
}

/// The `Authorization` header of name and password.
pub fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{name}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn password(name: &str, password: &str) -> Option<Credentials> {
        Some(Credentials::Password { name: name.to_owned(), password: password.to_owned() })
    }

    #[test]
    fn the_longest_name_counts() {
        let file = br#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnB3"},
            "localhost:5000": {"auth": "YWxsOnA6dw=="},
            "localhost:5000/team": {"auth": "dGVhbTpwdw=="},
            "ghcr.io": {"identitytoken": "refresh"},
            "empty.io": {}
        }}"#;
        let find = |domain: &str, repository: &str| in_file(file, domain, repository).unwrap();
        assert!(find("docker.io", "library/busybox") == password("hub", "pw"));
        assert!(find("localhost:5000", "app") == password("all", "p:w"));
        assert!(find("localhost:5000", "team/app") == password("team", "pw"));
        assert!(find("ghcr.io", "a/b") == Some(Credentials::RefreshToken("refresh".to_owned())));
        assert!(find("empty.io", "a").is_none() && find("quay.io", "a").is_none());
    }

    #[test]
    fn what_is_wrong_is_said_without_the_secret() {
        for file in [
            &b"{"[..],
            br#"{"auths": {"a.b": {"auth": "c2VjcmV0"}}}"#,
            br#"{"auths": {"a.b": {"auth": "%"}}}"#,
        ] {
            let err = in_file(file, "a.b", "c").err().expect("an error");
            assert_eq!(err.kind(), Kind::Corrupt);
            assert!(!err.to_string().contains("c2VjcmV0") && !err.to_string().contains("secret"));
        }
        assert!(ask("../x", "a.b").is_err_and(|err| err.kind() == Kind::Corrupt));
    }

    #[test]
    fn a_registry_with_a_helper_asks_it() {
        let err =
            in_file(br#"{"credHelpers": {"a.b": "tare-has-none"}}"#, "a.b", "c").err().expect("an error");
        assert!(err.to_string().contains("docker-credential-tare-has-none get"), "{err}");
    }
}
