//! One server of a registry: requests with its credentials, again where it may help.

use std::fs;
use std::io::{self, Read};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tare_sys::{Context, Error, Kind, Result};
use ureq::config::RedirectAuthHeaders;
use ureq::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use ureq::http::{Response, StatusCode, Uri};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body, Proxy, RequestBuilder};

use super::challenge::Challenge;
use super::credentials::{Credentials, basic};
use super::settings::{HostSettings, is_loopback};

/// A request that fails is made this often, all in all.
const TRIES: u32 = 5;
/// Between the first two tries; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Whatever the server asks for.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Without a byte.
const SILENCE: Duration = Duration::from_secs(30);
/// In which [`SLOWEST`] bytes have to come; slower than that is a server that only keeps us busy.
const WINDOW: Duration = Duration::from_secs(30);
const SLOWEST: u64 = 30 << 10;
/// Of an answer that is an error, or a token.
const LONGEST_ANSWER: u64 = 1 << 20;

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
}

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
        let proxy = if is_loopback(domain) { None } else { Proxy::try_from_env() };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            // One that begins with TLS stays with it, whatever it redirects to.
            .https_only(!http)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .user_agent(concat!("tare/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(SILENCE))
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
            origin: format!("{}://{host}", if http { "http" } else { "https" }),
            scopes,
            credentials,
            authorization: Mutex::default(),
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
        loop {
            tries += 1;
            let last = tries == TRIES;
            let wait = match attempt(&self.agent, url, shown.as_deref()) {
                Err(err) if last || !may_pass(&err) => return Err(self.unreachable(method, url, &err)),
                Err(_) => pause,
                Ok(answer) if answer.status() == StatusCode::UNAUTHORIZED && !authorized => {
                    authorized = true;
                    shown = Some(self.authorize(&answer)?);
                    continue;
                }
                Ok(answer) if !last && is_busy(answer.status()) => asked_pause(&answer).unwrap_or(pause),
                Ok(answer) => return Ok(answer),
            };
            std::thread::sleep(wait.min(LONGEST_PAUSE));
            pause *= 2;
        }
    }

    fn authorization(&self) -> Option<String> {
        self.authorization.lock().unwrap_or_else(|err| err.into_inner()).clone()
    }

    /// Finds out what the server wants to see.
    fn authorize(&self, response: &Response<Body>) -> Result<String> {
        let challenges: Vec<Challenge> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| Challenge::parse(value.to_str().ok()?))
            .collect();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Challenge::Bearer { .. }));
        let header = match bearer.or(challenges.first()) {
            None => {
                let what = format!("registry {} wants a login of a kind that is not known", self.domain);
                return Err(Error::new(Kind::Unsupported, what));
            }
            Some(Challenge::Bearer { realm, service }) => {
                format!("Bearer {}", self.token(realm, service.as_deref())?)
            }
            Some(Challenge::Basic) => match &self.credentials {
                Some(Credentials::Password { name, password }) => basic(name, password),
                _ => return Err(self.no_login()),
            },
        };
        *self.authorization.lock().unwrap_or_else(|err| err.into_inner()) = Some(header.clone());
        Ok(header)
    }

    /// Has a token made (distribution, auth/token.md and auth/oauth.md).
    fn token(&self, realm: &str, service: Option<&str>) -> Result<String> {
        let what = || format!("ask {realm} for a token for registry {}", self.domain);
        let uri: Uri = realm.parse().map_err(|_| {
            Error::new(Kind::Corrupt, format!("registry {} sends for tokens to {realm:?}", self.domain))
        })?;
        // What is shown to the registry under TLS is not shown to anybody without.
        if uri.scheme_str() != Some("https") && self.origin.starts_with("https:") {
            return Err(Error::new(
                Kind::Permission,
                format!("registry {} sends for tokens to {realm}, which has no TLS", self.domain),
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
                }
                request.call()
            }
        };
        let mut answer = answer.map_err(|err| self.unreachable("ask", realm, &err))?;
        if !answer.status().is_success() {
            return Err(self.refused(&mut answer, what()));
        }
        let bytes = read_limited(&mut answer).doing(what)?;
        let token: Token = serde_json::from_slice(&bytes)
            .map_err(|_| Error::new(Kind::Corrupt, format!("{}: its answer is no token", what())))?;
        token
            .token
            .or(token.access_token)
            .filter(|token| !token.is_empty())
            .ok_or_else(|| Error::new(Kind::Corrupt, format!("{}: its answer has no token", what())))
    }

    /// An answer that is not what was asked for.
    pub(super) fn refused(&self, response: &mut Response<Body>, what: String) -> Error {
        let status = response.status();
        let said = said(&read_limited(response).unwrap_or_default());
        let said = if said.is_empty() { String::new() } else { format!(": {said}") };
        let text = format!("{what}: {status}{said}");
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::new(Kind::Permission, text).hint(format!(
                "the repository is private, or not there: `docker login {0}` and `podman login {0}` keep a login \
                 that tare reads",
                self.domain
            )),
            StatusCode::NOT_FOUND => Error::new(Kind::NotFound, text),
            StatusCode::TOO_MANY_REQUESTS => Error::new(Kind::Exhausted, text)
                .hint("the registry limits how much one may ask: wait, log in, or set up a mirror"),
            _ => Error::new(Kind::Network, text),
        }
    }

    fn no_login(&self) -> Error {
        Error::new(Kind::Permission, format!("registry {} wants a name and a password", self.domain)).hint(
            format!("`docker login {0}` and `podman login {0}` keep a login that tare reads", self.domain),
        )
    }

    fn unreachable(&self, method: &str, url: &str, err: &ureq::Error) -> Error {
        let text = format!("{method} {url}: {err}");
        let hint = if text.contains("CaUsedAsEndEntity") {
            "the registry shows the certificate of an authority as its own: make it with `openssl req -x509 -addext \
             basicConstraints=critical,CA:FALSE …`, or have one signed by that authority"
        } else if text.contains("certificate") {
            "a certificate that this machine does not know can be named in registries.toml: ca = \"FILE\""
        } else if self.origin.starts_with("https:") {
            "is the name right, and the registry up? One without TLS is named in registries.toml: http = true"
        } else {
            "is the registry running, and does it listen there?"
        };
        Error::new(Kind::Network, text).hint(hint)
    }
}

/// Whether it may go better next time: not with a certificate or an address that is wrong.
fn may_pass(err: &ureq::Error) -> bool {
    match err {
        ureq::Error::Io(err) => {
            // rustls' own errors come as this.
            !matches!(err.kind(), io::ErrorKind::InvalidData | io::ErrorKind::ConnectionRefused)
        }
        ureq::Error::Timeout(_) | ureq::Error::ConnectionFailed | ureq::Error::Protocol(_) => true,
        _ => false,
    }
}

fn is_busy(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// A request with what is to be shown.
pub(super) fn with<B>(request: RequestBuilder<B>, authorization: Option<&str>) -> RequestBuilder<B> {
    match authorization {
        Some(header) => request.header(AUTHORIZATION, header),
        None => request,
    }
}

fn asked_pause(response: &Response<Body>) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

fn read_limited(response: &mut Response<Body>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    Patient::new(response.body_mut().as_reader()).take(LONGEST_ANSWER).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What an error's body says (distribution-spec, error codes), or its beginning.
fn said(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Line>,
    }
    #[derive(Deserialize)]
    #[serde(default)]
    #[derive(Default)]
    struct Line {
        code: String,
        message: String,
    }
    let text = match serde_json::from_slice::<Errors>(body) {
        Ok(Errors { errors }) => {
            let lines = errors.iter().map(|line| match line.message.is_empty() {
                true => line.code.clone(),
                false => line.message.clone(),
            });
            lines.collect::<Vec<_>>().join("; ")
        }
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    // From a stranger, for a terminal.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(200).collect::<String>().trim().to_owned()
}

/// Fails where bytes come too slowly to ever be all.
pub(super) struct Patient<R> {
    inner: R,
    since: Instant,
    bytes: u64,
}

impl<R> Patient<R> {
    pub(super) fn new(inner: R) -> Patient<R> {
        Patient { inner, since: Instant::now(), bytes: 0 }
    }
}

impl<R: Read> Read for Patient<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.bytes += read as u64;
        if self.since.elapsed() >= WINDOW {
            if read > 0 && self.bytes < SLOWEST {
                let what = format!("only {} bytes came in {} s", self.bytes, WINDOW.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, what));
            }
            (self.since, self.bytes) = (Instant::now(), 0);
        }
        Ok(read)
    }
}
