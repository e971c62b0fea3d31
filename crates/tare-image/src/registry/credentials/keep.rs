//! Writing logins down, where `docker login` does, and as it does.
//!
//! With a `credsStore` or a helper for the registry its program keeps the secret, and the file only an empty entry;
//! else the file keeps it, readable for its owner alone. What else is in the file stays.

use std::fs::{self, DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustix::fs::FlockOperation;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tare_sys::{Context, Error, Kind, Result};

use super::{Config, CredentialFiles, Credentials, TOKEN_USER, call, keys_of, server_of};

/// Who keeps a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// A file, as plain text.
    File(PathBuf),
    /// A credential helper: `docker-credential-NAME`.
    Helper(String),
}

impl CredentialFiles {
    /// Keeps the login of `name` to a registry in Docker's file, or with the helper that this file names.
    ///
    /// Errors: [`Kind::Usage`] where it is not known whose file that is; [`Kind::Corrupt`] for a file that is not understood,
    /// which stays as it is; a helper that fails.
    pub fn keep(&self, domain: &str, name: &str, credentials: &Credentials) -> Result<Keeper> {
        let file = self.docker_file()?;
        file.change(|config| {
            let server = server_of(domain);
            let Some(helper) = file.known(config)?.helper(domain).map(str::to_owned) else {
                let auth = |password: &str| STANDARD.encode(format!("{name}:{password}"));
                let entry = match credentials {
                    Credentials::Password { password, .. } => json!({ "auth": auth(password) }),
                    Credentials::RefreshToken(token) => json!({ "auth": auth(""), "identitytoken": token }),
                };
                insert(config, server, entry);
                return Ok(Keeper::File(file.path.clone()));
            };
            let (name, secret) = match credentials {
                Credentials::Password { password, .. } => (name, password),
                Credentials::RefreshToken(token) => (TOKEN_USER, token),
            };
            let given = json!({ "ServerURL": server, "Username": name, "Secret": secret });
            call(&helper, "store", &given.to_string())?;
            insert(config, server, json!({}));
            Ok(Keeper::Helper(helper))
        })
    }

    /// Forgets the login to a registry, in Docker's file and with the helper that it names. `false`: there was none.
    ///
    /// Errors: as [`keep`](CredentialFiles::keep).
    pub fn forget(&self, domain: &str) -> Result<bool> {
        let file = self.docker_file()?;
        if !file.path.exists() {
            return Ok(false);
        }
        file.change(|config| {
            let helper = file.known(config)?.helper(domain).map(str::to_owned);
            let mut there = false;
            if let Some(Value::Object(auths)) = config.get_mut("auths") {
                for key in keys_of(domain) {
                    there |= auths.remove(&key).is_some();
                }
            }
            if let Some(helper) = helper {
                // One that knows of none may fail; what the file tells of has to go.
                match call(&helper, "erase", server_of(domain)) {
                    Err(err) if there => return Err(err),
                    erased => there |= erased.is_ok_and(|said| said.is_some()),
                }
            }
            Ok(there)
        })
    }

    fn docker_file(&self) -> Result<ConfigFile> {
        let path = self.docker.clone().ok_or_else(|| {
            Error::new(Kind::Usage, "nobody's file of logins: neither $HOME nor $DOCKER_CONFIG is set")
                .hint("set one of them")
        })?;
        // A link (to a folder with dot files) stays one.
        Ok(ConfigFile { path: fs::canonicalize(&path).unwrap_or(path) })
    }
}

struct ConfigFile {
    path: PathBuf,
}

impl ConfigFile {
    /// Reads, changes and writes it, alone.
    fn change<T>(&self, change: impl FnOnce(&mut Map<String, Value>) -> Result<T>) -> Result<T> {
        let path = &self.path;
        let folder = path.parent().unwrap_or(Path::new("/"));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .doing(|| format!("mkdir({folder:?})"))?;
        let lock = File::open(folder).doing(|| format!("open({folder:?})"))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).doing(|| format!("flock({folder:?})"))?;
        let mut config = match fs::read(path) {
            Err(err) if err.kind() == ErrorKind::NotFound => Map::new(),
            Ok(bytes) if bytes.trim_ascii().is_empty() => Map::new(),
            bytes => serde_json::from_slice(&bytes.doing(|| format!("read {}", path.display()))?)
                .map_err(|err| not_understood(path, &err))?,
        };
        let before = config.clone();
        let answer = change(&mut config)?;
        if config != before {
            self.write(&config)?;
        }
        Ok(answer)
    }

    fn write(&self, config: &Map<String, Value>) -> Result<()> {
        let what = || format!("write {}", self.path.display());
        // Docker indents by tabs.
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        config
            .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, formatter))
            .map_err(|err| Error::new(Kind::Kernel, format!("{}: {err}", what())))?;
        let temporary = self.path.with_extension(format!("json.{}.new", std::process::id()));
        let written = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&bytes).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, &self.path));
        if written.is_err() {
            // The failure is the one to report.
            let _ = fs::remove_file(&temporary);
        }
        written.doing(what)
    }

    /// What this house reads of it.
    fn known(&self, config: &Map<String, Value>) -> Result<Config> {
        serde_json::from_value(Value::Object(config.clone())).map_err(|err| not_understood(&self.path, &err))
    }
}

fn not_understood(path: &Path, err: &serde_json::Error) -> Error {
    Error::new(Kind::Corrupt, format!("{} is not understood: {err}", path.display()))
        .hint("mend it, or move it away")
}

/// Puts an entry under `auths`, in place of one that may be there.
fn insert(config: &mut Map<String, Value>, server: &str, entry: Value) {
    match config.get_mut("auths") {
        Some(Value::Object(auths)) => {
            auths.insert(server.to_owned(), entry);
        }
        _ => {
            config.insert("auths".to_owned(), json!({ server: entry }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> CredentialFiles {
        CredentialFiles { docker: Some(folder.join(".docker/config.json")), others: Vec::new() }
    }

    fn password(name: &str, password: &str) -> Credentials {
        Credentials::Password { name: name.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn a_login_is_written_as_docker_writes_it_and_all_else_stays() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let path = folder.path().join(".docker/config.json");
        let keeper = files.keep("docker.io", "anna", &password("anna", "p:w")).unwrap();
        assert_eq!(keeper, Keeper::File(path.canonicalize().unwrap()));
        let text = "{\n\t\"auths\": {\n\t\t\"https://index.docker.io/v1/\": {\n\t\t\t\"auth\": \"YW5uYTpwOnc=\"\n\t\t}\n\t}\n}";
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        fs::write(&path, r#"{"psFormat": "x", "auths": {"a.b": {"auth": "eA=="}}}"#).unwrap();
        files.keep("c.d:5000", "", &Credentials::RefreshToken("refresh".to_owned())).unwrap();
        assert!(
            files.find("c.d:5000", "x").unwrap() == Some(Credentials::RefreshToken("refresh".to_owned()))
        );
        assert!(files.forget("c.d:5000").unwrap() && !files.forget("c.d:5000").unwrap());
        let left: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(left, json!({ "psFormat": "x", "auths": { "a.b": { "auth": "eA==" } } }));
    }

    #[test]
    fn a_file_that_is_not_understood_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let files = files(folder.path());
        let path = folder.path().join(".docker/config.json");
        fs::create_dir(folder.path().join(".docker")).unwrap();
        for text in ["{", "[]", r#"{"auths": 1}"#] {
            fs::write(&path, text).unwrap();
            let err = files.keep("a.b", "anna", &password("anna", "secret")).unwrap_err();
            assert_eq!(err.kind(), Kind::Corrupt);
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
