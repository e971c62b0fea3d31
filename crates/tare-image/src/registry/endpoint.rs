//! One server of a registry: requests with its credentials, again where it may help.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tare_sys::{Context, Error, Kind, Result};
use ureq::config::RedirectAuthHeaders;
use ureq::http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, RequestBuilder};

use super::challenge::Challenge;
use super::credentials::{Credentials, basic};
use super::failure::{self, asked_pause, is_busy, may_pass, read_limited};
use super::proxy;
use super::settings::{HostSettings, is_loopback};

/// A request that fails is made this often, all in all.
const TRIES: u32 = 5;
/// Between the first two tries; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Whatever the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Without a byte.
const SILENCE: Duration = Duration::from_secs(30);
/// Until somebody takes a call.
const RING: Duration = Duration::from_secs(10);
/// After this no request is made again.
const PATIENCE: Duration = Duration::from_secs(90);

/// A server that has one repository.
pub(super) struct Endpoint {
    agent: Agent,
    /// As in image names.
    pub(super) domain: String,
    /// `https://HOST`.
    origin: String,
    /// `repository:NAME:pull`.
    scopes: Vec<String>,
    credentials: Option<Credentials>,
    /// The header that the server took last.
    authorization: Mutex<Option<String>>,
    /// It could not be reached.
    pub(super) is_dead: AtomicBool,
}

/// Makes one request, and may be changed by it: of an address, with what is to be shown.
pub(super) type Once<'a> = dyn FnMut(&Agent, &str, Option<&str>) -> Result<Response<Body>, ureq::Error> + 'a;

/// What is asked for.
#[derive(Clone, Copy, Default)]
pub(super) struct Ask<'a> {
    /// After the origin: `/v2/…`.
    pub(super) path: &'a str,
    pub(super) accept: &'a [&'a str],
    /// The first byte.
    pub(super) from: u64,
}

/// Makes a request once: with this agent, to this address, with this header.
type Attempt<'a> = dyn Fn(&Agent, &str, Option<&str>) -> Result<Response<Body>, ureq::Error> + 'a;

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    refresh_token: Option<String>,
}

impl Token {
    fn shown(self) -> Option<String> {
        let token = self.token.or(self.access_token).filter(|token| !token.is_empty())?;
        Some(format!("Bearer {token}"))
    }
}

impl Endpoint {
    /// Speaks to nobody yet.
    ///
    /// Errors: certificates that cannot be read.
    pub(super) fn new(
        domain: &str,
        settings: &HostSettings,
        scopes: Vec<String>,
        credentials: Option<Credentials>,
    ) -> Result<Endpoint> {
        let http = settings.is_http(domain);
        // Docker's registry has another name than its images.
        let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
        let roots = match &settings.ca {
            None => RootCerts::PlatformVerifier,
            Some(path) => {
                let pem = fs::read(path).doing(|| {
                    format!("read the certificates of registry {domain} from {}", path.display())
                })?;
                let certificates = parse_pem(&pem).filter_map(|item| match item {
                    Ok(PemItem::Certificate(certificate)) => Some(certificate),
                    _ => None,
                });
                RootCerts::from(certificates)
            }
        };
        let tls = TlsConfig::builder().root_certs(roots).disable_verification(settings.insecure).build();
        let scheme = if http { "http" } else { "https" };
        let proxy = match is_loopback(domain) {
            true => None,
            false => proxy::of(scheme, &|name| std::env::var(name).ok())?,
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // One that begins with TLS stays with it, whatever it redirects to.
            .https_only(!http)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("tare/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(RING))
            .timeout_connect(Some(RING))
            .timeout_recv_response(Some(SILENCE))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .max_idle_connections_per_host(8)
            .tls_config(tls)
            .proxy(proxy)
            .build();
        Ok(Endpoint {
            agent: config.new_agent(),
            domain: domain.to_owned(),
            origin: format!("{scheme}://{host}"),
            scopes,
            credentials,
            authorization: Mutex::default(),
            is_dead: AtomicBool::new(false),
        })
    }

    /// Asks for something.
    pub(super) fn get(&self, ask: Ask<'_>) -> Result<Response<Body>> {
        self.send("GET", ask.path, &|agent, url, shown| {
            let mut request = with(agent.get(url), shown);
            for media_type in ask.accept {
                request = request.header("Accept", *media_type);
            }
            if ask.from > 0 {
                request = request.header("Range", format!("bytes={}-", ask.from));
            }
            request.call()
        })
    }

    /// An address of this server; one that it gave itself may be whole.
    fn url(&self, path: &str) -> String {
        if path.starts_with('/') { format!("{}{path}", self.origin) } else { path.to_owned() }
    }

    /// Checks an address that the server gave: what is sent there, with credentials, goes to nobody else.
    pub(super) fn own<'a>(&self, address: &'a str) -> Result<&'a str> {
        let own = address.strip_prefix(&self.origin).is_some_and(|rest| rest.starts_with('/'));
        if own || (address.starts_with('/') && !address.starts_with("//")) {
            return Ok(address);
        }
        Err(Error::new(Kind::Corrupt, format!("registry {} sends us elsewhere: {address:?}", self.domain)))
    }

    /// Makes a request, [`with`] what is to be shown, until there is an answer that is none of `401`, `429` and `5xx`.
    pub(super) fn send(&self, method: &str, path: &str, attempt: &Attempt<'_>) -> Result<Response<Body>> {
        let url = &self.url(path);
        let mut shown = self.authorization();
        let mut authorized = false;
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        let begun = Instant::now();
        loop {
            tries += 1;
            let last = tries == TRIES || begun.elapsed() > PATIENCE;
            let wait = match attempt(&self.agent, url, shown.as_deref()) {
                Err(err) if last || !may_pass(&err) => return Err(failure::unreachable(method, url, &err)),
                Err(_) => pause,
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    authorized = true;
                    shown = Some(self.authorize(&answer)?);
                    continue;
                }
                Ok(answer) if !last && is_busy(answer.status()) => asked_pause(&answer).unwrap_or(pause),
                Ok(answer) => return Ok(answer),
            };
            std::thread::sleep(wait.min(LONGEST_PAUSE) + jitter(pause));
            pause *= 2;
        }
    }

    /// Makes a request once, and once more where the server wants to see something first. `Err` inside: it broke off, and
    /// may go better.
    pub(super) fn once(
        &self,
        method: &str,
        path: &str,
        attempt: &mut Once<'_>,
    ) -> Result<Result<Response<Body>>> {
        let url = &self.url(path);
        let mut shown = self.authorization();
        for authorized in [false, true] {
            match attempt(&self.agent, url, shown.as_deref()) {
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    shown = Some(self.authorize(&answer)?);
                }
                Ok(answer) => return Ok(Ok(answer)),
                Err(err) if may_pass(&err) => return Ok(Err(failure::unreachable(method, url, &err))),
                Err(err) => return Err(failure::unreachable(method, url, &err)),
            }
        }
        Err(self.no_login())
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(|err| err.into_inner()).clone()
    }

    /// Finds out what the server wants to see.
    fn authorize(&self, response: &Response<Body>) -> Result<String> {
        let header = match self.challenge(response)? {
            Challenge::Bearer { realm, service } => {
                let token = self.token(&realm, service.as_deref(), false)?;
                token.shown().ok_or_else(|| self.no_token(&realm))?
            }
            Challenge::Basic => match &self.credentials {
                Some(Credentials::Password { name, password }) => basic(name, password),
                _ => return Err(self.no_login()),
            },
        };
        *self.authorization.lock().unwrap_or_else(|err| err.into_inner()) = Some(header.clone());
        Ok(header)
    }

    /// Shows the credentials, and nothing else is wanted. Answers with a refresh token, if the server gives one to keep in
    /// place of the password.
    ///
    /// Errors: [`Kind::Permission`] where they are not the right ones.
    pub(super) fn log_in(&self) -> Result<Option<String>> {
        let url = self.url("/v2/");
        let get = |shown: Option<&str>| {
            let answer = with(self.agent.get(&url), shown).call();
            answer.map_err(|err| failure::unreachable("GET", &url, &err))
        };
        let first = get(None)?;
        let (shown, refresh) = match first.status() {
            StatusCode::UNAUTHORIZED => match self.challenge(&first)? {
                Challenge::Bearer { realm, service } => {
                    let mut token = self.token(&realm, service.as_deref(), true)?;
                    let refresh = token.refresh_token.take().filter(|token| !token.is_empty());
                    (token.shown().ok_or_else(|| self.no_token(&realm))?, refresh)
                }
                Challenge::Basic => match &self.credentials {
                    Some(Credentials::Password { name, password }) => (basic(name, password), None),
                    _ => return Err(self.no_login()),
                },
            },
            // Anybody may.
            _ => return Ok(None),
        };
        let mut answer = get(Some(&shown))?;
        match answer.status() {
            StatusCode::OK => Ok(refresh),
            _ => Err(self.refused(&mut answer, format!("log in to {}", self.domain))),
        }
    }

    /// What the server wants, the better way where there are several.
    fn challenge(&self, response: &Response<Body>) -> Result<Challenge> {
        let mut challenges: Vec<Challenge> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .collect();
        challenges.sort_by_key(|challenge| !matches!(challenge, Challenge::Bearer { .. }));
        challenges.into_iter().next().ok_or_else(|| {
            let what = format!("registry {} wants a login of a kind that is not known", self.domain);
            Error::new(Kind::Unsupported, what)
        })
    }

    /// Has a token made (distribution, auth/token.md and auth/oauth.md). `to_keep`: with a refresh token, if there are such.
    fn token(&self, realm: &str, service: Option<&str>, to_keep: bool) -> Result<Token> {
        let what = || format!("ask {realm:?} for a token for registry {}", self.domain);
        let uri: Uri = realm.parse().map_err(|_| {
            Error::new(Kind::Corrupt, format!("registry {} sends for tokens to {realm:?}", self.domain))
        })?;
        // What is shown to the registry under TLS is not shown to anybody without.
        if uri.scheme_str() != Some("https") && self.origin.starts_with("https:") {
            return Err(Error::new(
                Kind::Permission,
                format!("registry {} sends for tokens to {realm:?}, which has no TLS", self.domain),
            ));
        }
        let service = service.unwrap_or_default();
        let answer = match &self.credentials {
            Some(Credentials::RefreshToken(token)) => self.agent.post(realm).send_form([
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", "tare"),
                ("scope", &self.scopes.join(" ")),
                ("refresh_token", token),
            ]),
            credentials => {
                let scopes = self.scopes.iter().map(|scope| ("scope", scope));
                let mut request = self.agent.get(realm).query_pairs(scopes);
                if !service.is_empty() {
                    request = request.query("service", service);
                }
                if let Some(Credentials::Password { name, password }) = credentials {
                    request = request.header(AUTHORIZATION, basic(name, password));
                    if to_keep {
                        request = request.query("account", name).query("client_id", "tare");
                        request = request.query("offline_token", "true");
                    }
                }
                request.call()
            }
        };
        let mut answer = answer.map_err(|err| failure::unreachable("ask", realm, &err))?;
        if !answer.status().is_success() {
            return Err(self.refused(&mut answer, what()));
        }
        let bytes = read_limited(&mut answer).doing(what)?;
        serde_json::from_slice(&bytes).map_err(|_| self.no_token(realm))
    }

    fn no_token(&self, realm: &str) -> Error {
        let what =
            format!("ask {realm:?} for a token for registry {}: there is none in its answer", self.domain);
        Error::new(Kind::Corrupt, what)
    }

    /// An answer that is not what was asked for.
    pub(super) fn refused(&self, response: &mut Response<Body>, what: String) -> Error {
        failure::refused(&self.domain, response, &what)
    }

    fn no_login(&self) -> Error {
        Error::new(Kind::Permission, format!("registry {} wants a name and a password", self.domain))
            .hint(format!("`tare login {}` logs in; logins of Docker and Podman count as well", self.domain))
    }
}

/// A request with what is to be shown.
pub(super) fn with<B>(request: RequestBuilder<B>, authorization: Option<&str>) -> RequestBuilder<B> {
    match authorization {
        Some(header) => request.header(AUTHORIZATION, header),
        None => request,
    }
}

/// Up to a quarter of a pause, so that many who were sent away do not come back at the same moment.
fn jitter(pause: Duration) -> Duration {
    let mut byte = [0u8];
    // Without chance it goes as well.
    let _ = rustix::rand::getrandom(&mut byte, rustix::rand::GetRandomFlags::NONBLOCK);
    pause * u32::from(byte[0]) / 1024
}
