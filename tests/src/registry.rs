//! Registries on loopback: Debian's, and a little server that does what a test wants.

pub mod stock;
pub mod tunnel;

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{eventually, stretched};

/// How long a server waits for a test that is at something else; the test's own limits are shorter.
const PATIENCE: Duration = Duration::from_secs(60);

/// A `docker-registry` of one's own. It ends with this.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    folder: TempDir,
    /// `127.0.0.1:PORT`, as it stands in image names.
    pub address: String,
    login: Option<String>,
}

/// The one user of a registry with passwords.
pub const USER: &str = "anna";
/// Her password.
pub const PASSWORD: &str = "pass:word";

impl Registry {
    /// One that anybody may use, without TLS.
    #[track_caller]
    pub fn open() -> Registry {
        Registry::start(false, false)
    }

    /// One for [`USER`] alone.
    #[track_caller]
    pub fn with_password() -> Registry {
        Registry::start(true, false)
    }

    /// One with TLS, by a certificate ([`certificate`](Registry::certificate)) that nobody else knows.
    #[track_caller]
    pub fn with_tls() -> Registry {
        Registry::start(false, true)
    }

    #[track_caller]
    fn start(password: bool, tls: bool) -> Registry {
        crate::machine::own_network();
        let folder =
            tempfile::Builder::new().prefix("tare-test-registry-").tempdir_in("/var/tmp").expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        let mut lines = format!(
            "version: 0.1\nlog: {{ level: info, formatter: json }}\n\
             storage: {{ filesystem: {{ rootdirectory: {} }}, delete: {{ enabled: true }} }}\n",
            at("data")
        );
        if password {
            let out = tool(Command::new("htpasswd").args(["-Bbn", USER, PASSWORD]));
            fs::write(at("passwords"), out).expect("a file");
            lines += &format!("auth: {{ htpasswd: {{ realm: here, path: {} }} }}\n", at("passwords"));
        }
        lines += "http:\n  addr: 127.0.0.1:0\n";
        if tls {
            let (key, certificate) = (at("key.pem"), at("certificate.pem"));
            let request =
                ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"];
            let what = ["-addext", "basicConstraints=critical,CA:FALSE"];
            let name = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", &key, "-out", &certificate];
            tool(Command::new("openssl").args(request).args(what).args(name));
            lines += &format!("  tls: {{ certificate: {certificate}, key: {key} }}\n");
        }
        fs::write(at("config.yml"), lines).expect("a file");
        let log = File::create(at("log")).expect("a log");
        let server = Command::new("docker-registry")
            .args(["serve", &at("config.yml")])
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log again"))
            .stderr(log)
            .spawn()
            .expect("docker-registry");
        let mut address = None;
        eventually("the registry listens", || {
            let text = fs::read_to_string(at("log")).unwrap_or_default();
            // With `, tls` after the address, where there is TLS.
            address = text.split("listening on ").nth(1).and_then(|rest| {
                let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
                Some(rest[..end].to_owned())
            });
            address.is_some()
        });
        let address = address.expect("it listens");
        let login = password.then(|| format!("{USER}:{PASSWORD}"));
        Registry { server, folder, address, login }
    }

    /// Where its certificate is.
    pub fn certificate(&self) -> PathBuf {
        self.folder.path().join("certificate.pem")
    }

    /// Has skopeo bring an image (`docker-archive:FILE`) there, under a name without the registry's address.
    #[track_caller]
    pub fn receive(&self, image: &str, name: &str) {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"]);
        if let Some(login) = &self.login {
            command.args(["--dest-creds", login]);
        }
        tool(command.args([image, &format!("docker://{}/{name}", self.address)]));
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // Its port and its folder are all it has.
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// A request that a [`Server`] got.
#[derive(Clone, Debug)]
pub struct Request {
    /// `GET`.
    pub method: String,
    /// `/v2/…`, with what follows a `?`.
    pub path: String,
    /// By names in lower case.
    pub headers: HashMap<String, String>,
    /// What came with it.
    pub body: Vec<u8>,
}

/// What a [`Server`] answers.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// `200`.
    pub status: u16,
    /// Without `Content-Length`, which is that of the body, if it is not here.
    pub headers: Vec<(String, String)>,
    /// The bytes.
    pub body: Vec<u8>,
    /// The connection ends after so many of them.
    pub cut: Option<usize>,
    /// After them come zeros, for ever.
    pub endless: bool,
    /// After so many of them it waits until there is such a file, and sends the rest then.
    pub pause: Option<(usize, PathBuf)>,
}

impl Answer {
    /// All of the body.
    pub fn ok(body: impl Into<Vec<u8>>) -> Answer {
        Answer { status: 200, body: body.into(), ..Answer::default() }
    }

    /// Nothing but a status.
    pub fn status(status: u16) -> Answer {
        Answer { status, ..Answer::default() }
    }

    /// With one more header.
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// A server on loopback that answers as it is told, one request a connection. It ends with this.
#[derive(Debug)]
pub struct Server {
    /// `127.0.0.1:PORT`.
    pub address: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers by this function.
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Server {
        crate::machine::own_network();
        Server::deaf(answer, |_| None)
    }

    /// The same, but of some requests it hears only so many bytes, and then breaks off.
    pub fn deaf(
        answer: impl Fn(&Request) -> Answer + Send + Sync + 'static,
        hears: impl Fn(&Request) -> Option<u64> + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new((answer, hears)));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let Some((request, whole)) = read(&stream, &answer.1) else { return };
                    seen.lock().expect("no panic while held").push(request.clone());
                    if whole {
                        // The other side may have gone.
                        let _ = write(stream, &answer.0(&request));
                    }
                });
            }
        });
        Server { address, requests }
    }

    /// What it was asked so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("no panic while held").clone()
    }
}

/// A request, and whether all of it was heard.
fn read(stream: &TcpStream, hears: &dyn Fn(&Request) -> Option<u64>) -> Option<(Request, bool)> {
    let mut lines = BufReader::new(stream);
    let mut line = String::new();
    lines.read_line(&mut line).ok()?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
    let mut request = Request { method, path, headers, body: Vec::new() };
    let heard = hears(&request).unwrap_or(length).min(length);
    lines.take(heard).read_to_end(&mut request.body).ok()?;
    let whole = request.body.len() as u64 == length;
    Some((request, whole))
}

fn write(mut stream: TcpStream, answer: &Answer) -> std::io::Result<()> {
    let mut head = format!("HTTP/1.1 {} Answer\r\nConnection: close\r\n", answer.status);
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let says_length = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !says_length && !answer.endless {
        head += &format!("Content-Length: {}\r\n", answer.body.len());
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    let body = &answer.body[..answer.cut.unwrap_or(answer.body.len())];
    let (now, later) = body.split_at(answer.pause.as_ref().map_or(body.len(), |(bytes, _)| *bytes));
    stream.write_all(now)?;
    if let Some((_, gate)) = &answer.pause {
        let begun = Instant::now();
        while !gate.exists() && begun.elapsed() < stretched(PATIENCE) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    stream.write_all(later)?;
    if !answer.endless {
        return Ok(());
    }
    loop {
        stream.write_all(&[0; 64 << 10])?;
    }
}

#[track_caller]
fn tool(command: &mut Command) -> String {
    let out = command.output().unwrap_or_else(|err| panic!("{command:?}: {err}"));
    assert!(out.status.success(), "{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}
