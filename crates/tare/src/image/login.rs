//! `tare login` and `tare logout`.

use std::io::{self, IsTerminal, Read};

use tare_engine::{Engine, Keeper, Login};
use tare_sys::{Context, Error, Kind, Result};

use crate::print::failure::warn;
use crate::print::prompt;
use crate::print::terminal::{complain, say};
use crate::words::flag::{Flag, Given};
use crate::words::tree::Verb;

pub static LOGIN: Verb = Verb {
    about: "Authenticate to a registry",
    operands: "[OPTIONS] [SERVER]",
    least: |_| 0,
    most: 1,
    words_end_options: false,
    flags: &[
        Flag::one(
            "password",
            "string",
            "…",
            "Password or token, where others can see it; see --password-stdin",
        )
        .short('p'),
        Flag::switch("password-stdin", "Take the password or token from stdin"),
        Flag::one("username", "string", "anna", "Username").short('u'),
    ],
    act: login,
    failed: 1,
};

pub static LOGOUT: Verb = Verb {
    about: "Log out from a registry",
    operands: "[SERVER]",
    least: |_| 0,
    most: 1,
    words_end_options: false,
    flags: &[],
    act: logout,
    failed: 1,
};

/// Bytes that a password from stdin may have.
const LONGEST: u64 = 64 << 10;

fn login(engine: &Engine, given: &Given) -> Result<u8> {
    let server = given.words().first().copied().unwrap_or_default();
    let name = given.text("username").filter(|name| !name.is_empty());
    let password = given_password(given, name)?;
    if name.is_none() && password.is_none() {
        match engine.check_login(server) {
            Ok(None) => {}
            Ok(Some(())) => {
                complain("Authenticating with existing credentials...\n");
                return say("Login Succeeded\n").map(|()| 0);
            }
            Err(err) if err.kind() == Kind::Permission => {
                complain("The login that is kept is not taken any more.\n");
            }
            Err(err) => return Err(err),
        }
    }
    let missing = name.is_none() || password.is_none();
    if missing && !io::stdin().is_terminal() {
        return Err(Error::new(Kind::Usage, "cannot perform an interactive login from a non TTY device")
            .hint("for example: tare login --username anna --password-stdin SERVER < FILE"));
    }
    let name = name.map_or_else(|| prompt::line("Username: "), |name| Ok(name.to_owned()))?;
    let password = password.map_or_else(|| prompt::secret("Password: "), Ok)?;
    match engine.login(&Login { server, name: &name, password: &password })? {
        Keeper::Helper(_) => {}
        Keeper::File(path) => warn(&format!(
            "the password is kept as plain text in {}; a credential helper (\"credsStore\" there) keeps it better",
            path.display()
        )),
    }
    say("Login Succeeded\n").map(|()| 0)
}

/// The password, where it was not left to be asked for.
fn given_password(given: &Given, name: Option<&str>) -> Result<Option<String>> {
    let usage = |what: &str| Err(Error::new(Kind::Usage, what));
    let password = given.text("password").filter(|password| !password.is_empty()).map(str::to_owned);
    if !given.on("password-stdin")? {
        if password.is_some() {
            warn("using --password via the CLI is insecure: others see it; use --password-stdin");
        }
        return Ok(password);
    }
    if password.is_some() {
        return usage("--password and --password-stdin are mutually exclusive");
    }
    if name.is_none() {
        return usage("must provide --username with --password-stdin");
    }
    let mut text = String::new();
    io::stdin().lock().take(LONGEST).read_to_string(&mut text).doing(|| "read the password from stdin")?;
    let password = text.trim_end_matches(['\n', '\r']);
    if password.is_empty() {
        return usage("the password from stdin is empty");
    }
    Ok(Some(password.to_owned()))
}

fn logout(engine: &Engine, given: &Given) -> Result<u8> {
    let server = given.words().first().copied().unwrap_or_default();
    let shown = if server.is_empty() { "docker.io" } else { server };
    let (was, others) = engine.logout(server)?;
    if was {
        say(&format!("Removing login credentials for {shown}\n"))?;
    } else {
        say(&format!("Not logged in to {shown}\n"))?;
    }
    if others {
        warn("podman's file still has a login, which counts here as well: `podman logout` removes it");
    }
    Ok(0)
}
