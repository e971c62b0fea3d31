//! `tare system boot` and `service`, `tare generate systemd`: containers and the start of the machine.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use tare_engine::Engine;
use tare_sys::{Context, Error, Kind, Result, rootless};

use crate::print::failure;
use crate::print::terminal::{complain, say};
use crate::words::flag::{Flag, Given};
use crate::words::parse;
use crate::words::tree::Verb;

pub static BOOT: Verb = Verb {
    about: "Start the containers that are to run after a boot",
    operands: "",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[],
    act: boot,
    failed: 1,
};

pub static SERVICE: Verb = Verb {
    about: "Have the machine, or your own systemd, run 'tare system boot' when it starts",
    operands: "[OPTIONS]",
    least: |_| 0,
    most: 0,
    words_end_options: false,
    flags: &[
        Flag::one("init", "string", "systemd", "Write for systemd, openrc or cron (default: what runs here)"),
        Flag::one("output", "file", "tare.service", "Write to this file, and switch nothing on").short('o'),
        Flag::switch("print", "Print it, and change nothing"),
        Flag::switch("remove", "Take it away again"),
    ],
    act: service,
    failed: 1,
};

pub static GENERATE: Verb = Verb {
    about: "Write a systemd unit for each of one or more containers",
    operands: "[OPTIONS] CONTAINER [CONTAINER...]",
    least: |_| 1,
    most: usize::MAX,
    words_end_options: false,
    flags: &[
        Flag::switch("files", "Write container-NAME.service into this folder instead of printing").short('f'),
        Flag::switch("name", "Use the container's name instead of its ID").short('n'),
        Flag::one(
            "restart-policy",
            "string",
            "always",
            "When systemd starts it again (default: as the container's)",
        ),
        Flag::one("time", "int", "30", "Seconds that stopping may take (default: the container's)")
            .short('t'),
    ],
    act: generate,
    failed: 1,
};

fn boot(engine: &Engine, _: &Given) -> Result<u8> {
    let mut code = 0;
    for booted in engine.boot()? {
        match booted.result {
            Ok(warnings) => {
                warnings.iter().for_each(|warning| failure::warn(warning));
                say(&format!("{}\n", booted.name))?;
            }
            Err(error) => {
                code = 1;
                failure::print(&error);
            }
        }
    }
    Ok(code)
}

/// What starts this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Init {
    Systemd,
    OpenRc,
    Cron,
}

impl Init {
    fn parse(text: &str) -> Result<Init, String> {
        match text {
            "systemd" => Ok(Init::Systemd),
            "openrc" => Ok(Init::OpenRc),
            "cron" => Ok(Init::Cron),
            _ => Err("it is systemd, openrc or cron".to_owned()),
        }
    }

    /// By what is there: systemd says that it runs (sd_booted(3)), OpenRC has its program.
    fn here() -> Init {
        if Path::new("/run/systemd/system").is_dir() {
            Init::Systemd
        } else if Path::new("/sbin/openrc-run").exists() {
            Init::OpenRc
        } else {
            Init::Cron
        }
    }

    fn name(self) -> &'static str {
        match self {
            Init::Systemd => "systemd",
            Init::OpenRc => "OpenRC",
            Init::Cron => "cron",
        }
    }

    fn place(self) -> PathBuf {
        PathBuf::from(match self {
            Init::Systemd => "/etc/systemd/system/tare.service",
            Init::OpenRc => "/etc/init.d/tare",
            Init::Cron => "/etc/cron.d/tare",
        })
    }

    /// Where an ordinary user's own init looks (systemd.unit(5), "User Unit Search Path"). Only systemd has a folder of
    /// theirs.
    fn place_of_user(self) -> Result<PathBuf> {
        if self != Init::Systemd {
            let what = format!("write a service for {}: an ordinary user has none there", self.name());
            return Err(Error::new(Kind::Unsupported, what)
                .hint("`tare system service --init cron --print` shows lines for `crontab -e`"));
        }
        let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let config = folder("XDG_CONFIG_HOME").or_else(|| folder("HOME").map(|home| home.join(".config")));
        let config = config.ok_or_else(|| {
            Error::new(
                Kind::NotFound,
                "find the folder of your units: neither XDG_CONFIG_HOME nor HOME is set",
            )
            .hint("log in, or choose a file with --output")
        })?;
        Ok(config.join("systemd/user/tare.service"))
    }

    /// What is written, for an ordinary user or for root.
    fn text(self, user: bool, tare: &str, roots: &[String]) -> String {
        let call = [&[tare.to_owned()], roots].concat().join(" ");
        match self {
            // The user's systemd knows nothing of the machine's targets.
            Init::Systemd if user => format!(
                "[Unit]\nDescription=Containers of tare that run after a boot\n\n\
                 [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={call} system boot\n\
                 # Monitors live on when the service is stopped or restarted.\nKillMode=process\n\n\
                 [Install]\nWantedBy=default.target\n"
            ),
            Init::Cron if user => format!(
                "# Containers of tare that run after a boot.\n\
                 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n@reboot {call} system boot\n"
            ),
            Init::Systemd => format!(
                "[Unit]\nDescription=Containers of tare that run after a boot\nWants=network-online.target\n\
                 After=network-online.target local-fs.target time-sync.target\n\n\
                 [Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart={call} system boot\n\
                 # Monitors live on when the service is stopped or restarted.\nKillMode=process\n\n\
                 [Install]\nWantedBy=multi-user.target\n"
            ),
            Init::OpenRc => format!(
                "#!/sbin/openrc-run\n\ndescription=\"Containers of tare that run after a boot\"\n\n\
                 depend() {{\n\tneed localmount\n\tuse net\n\tafter bootmisc\n}}\n\n\
                 start() {{\n\tebegin \"Starting containers\"\n\t{call} system boot\n\teend $?\n}}\n"
            ),
            Init::Cron => format!(
                "# Containers of tare that run after a boot.\n\
                 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n@reboot root {call} system boot\n"
            ),
        }
    }
}

fn service(engine: &Engine, given: &Given) -> Result<u8> {
    let init = given.value("init", Init::parse)?.unwrap_or_else(Init::here);
    let user = is_user();
    let text = init.text(user, &own_path()?, &roots(engine));
    if given.on("print")? {
        say(&text)?;
        return Ok(0);
    }
    let asked = given.text("output").map(PathBuf::from);
    let place = match &asked {
        Some(file) => file.clone(),
        None if user => init.place_of_user()?,
        None => init.place(),
    };
    if given.on("remove")? {
        if asked.is_none() {
            switch(init, user, false);
        }
        match fs::remove_file(&place) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                complain(&format!("{} is not there: nothing to remove\n", place.display()));
            }
            removed => {
                removed.doing(|| format!("remove {}", place.display()))?;
                say(&format!("Removed {}\n", place.display()))?;
            }
        }
        return Ok(0);
    }
    if user
        && asked.is_none()
        && let Some(folder) = place.parent()
    {
        fs::create_dir_all(folder).doing(|| format!("make {}", folder.display()))?;
    }
    write(&place, &text, init == Init::OpenRc)?;
    say(&format!("Wrote {} for {}\n", place.display(), init.name()))?;
    if asked.is_some() {
        return Ok(0);
    }
    for line in switch(init, user, true) {
        say(&format!("{line}\n"))?;
    }
    if user && !lingers() {
        say(
            "Your systemd starts with your first login, and ends with the last. To have it run from boot on: \
             loginctl enable-linger\n",
        )?;
    }
    Ok(0)
}

/// Whether an ordinary user calls, in their machine or not.
fn is_user() -> bool {
    rootless::is_outside() || rootless::is_on()
}

/// Whether the user's systemd runs without a login (loginctl(1)).
fn lingers() -> bool {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let words = ["show-user", &uid, "--property=Linger", "--value"];
    Command::new("loginctl").args(words).output().is_ok_and(|output| output.stdout.trim_ascii() == b"yes")
}

/// Switches it on or off by the programs of the init; answers what was done, or what is left to do.
fn switch(init: Init, user: bool, on: bool) -> Vec<String> {
    let calls: &[&[&str]] = match (init, on) {
        (Init::Systemd, true) if user => {
            &[&["systemctl", "--user", "daemon-reload"], &["systemctl", "--user", "enable", "tare.service"]]
        }
        (Init::Systemd, false) if user => &[&["systemctl", "--user", "disable", "tare.service"]],
        (Init::Systemd, true) => &[&["systemctl", "daemon-reload"], &["systemctl", "enable", "tare.service"]],
        (Init::Systemd, false) => &[&["systemctl", "disable", "tare.service"]],
        (Init::OpenRc, true) => &[&["rc-update", "add", "tare", "default"]],
        (Init::OpenRc, false) => &[&["rc-update", "del", "tare", "default"]],
        // Cron looks at its folder by itself.
        (Init::Cron, _) => &[],
    };
    calls
        .iter()
        .map(|call| {
            let line = call.join(" ");
            match Command::new(call[0]).args(&call[1..]).output() {
                Ok(output) if output.status.success() => format!("Ran {line}"),
                _ => format!("Could not run {line}: do it yourself, or it will not start at boot"),
            }
        })
        .collect()
}

fn write(place: &Path, text: &str, executable: bool) -> Result<()> {
    let what = || format!("write {}", place.display());
    fs::write(place, text).doing(what).map_err(|err| match err.kind() {
        Kind::NotFound => {
            err.hint("is this init the one of this machine? choose with --init, or a file with --output")
        }
        _ => err,
    })?;
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(place, fs::Permissions::from_mode(mode)).doing(what)
}

/// How to call this very program later.
fn own_path() -> Result<String> {
    let what = || "find this program's own path";
    let mut path = std::env::current_exe().doing(what)?;
    if !path.is_file() {
        // In a user's machine it has been executed from a mount that has no place. It is found as it was by who called it.
        path = called_as().ok_or_else(|| {
            Error::new(Kind::NotFound, what()).hint("call it by its whole path, as /usr/local/bin/tare")
        })?;
    }
    let path = path.to_string_lossy().into_owned();
    match path.contains(char::is_whitespace) {
        true => Err(Error::new(
            Kind::Usage,
            format!("{path:?}: a unit cannot name a program with a space in its path"),
        )),
        false => Ok(path),
    }
}

/// The file by whose name we were called, if it is this very program.
fn called_as() -> Option<PathBuf> {
    let own = fs::metadata("/proc/self/exe").ok()?;
    let name = PathBuf::from(std::env::args_os().next()?);
    let candidates = if name.components().count() > 1 {
        vec![std::path::absolute(&name).ok()?]
    } else {
        std::env::split_paths(&std::env::var_os("PATH")?).map(|folder| folder.join(&name)).collect()
    };
    let is_own = |file: &PathBuf| {
        fs::metadata(file).is_ok_and(|meta| (meta.dev(), meta.ino()) == (own.dev(), own.ino()))
    };
    candidates.into_iter().find(is_own)
}

/// The options that name the folders in use, where they are not the usual ones. What is usual for an ordinary user depends
/// on variables that their init may not have.
fn roots(engine: &Engine) -> Vec<String> {
    let (here, usual) = (engine.folders(), tare_engine::default_roots());
    let mut words = Vec::new();
    for (flag, here, usual) in [("--root", &here.state, &usual.state), ("--run-root", &here.run, &usual.run)]
    {
        if here != usual || is_user() {
            words.push(format!("{flag}={}", here.display()));
        }
    }
    words
}

fn generate(engine: &Engine, given: &Given) -> Result<u8> {
    let policy = given.value("restart-policy", restart)?;
    let time = given.value("time", parse::number(0, i64::from(u32::MAX)))?;
    let by_name = given.on("name")?;
    let (tare, roots) = (own_path()?, roots(engine));
    for word in given.words() {
        let container = engine.inspect(word)?;
        let text =
            |pointer: &str| container.pointer(pointer).and_then(|value| value.as_str()).unwrap_or_default();
        let name = text("/Name").trim_start_matches('/');
        let id = if by_name { name } else { text("/Id") };
        let own = match text("/HostConfig/RestartPolicy/Name") {
            "always" | "unless-stopped" => "always",
            "on-failure" => "on-failure",
            _ => "no",
        };
        let stop = container.pointer("/Config/StopTimeout").and_then(|value| value.as_i64()).unwrap_or(10);
        let call = [std::slice::from_ref(&tare), &*roots].concat().join(" ");
        let policy = policy.as_deref().unwrap_or(own);
        let unit = unit(is_user(), &call, name, id, policy, time.unwrap_or(stop));
        if given.on("files")? {
            let file = format!("container-{id}.service");
            let place = std::env::current_dir().doing(|| "find the folder we are in")?.join(file);
            write(&place, &unit, false)?;
            say(&format!("{}\n", place.display()))?;
        } else {
            say(&unit)?;
        }
    }
    Ok(0)
}

fn restart(text: &str) -> Result<String, String> {
    match text {
        "no" | "always" | "on-success" | "on-failure" | "on-abnormal" | "on-abort" | "on-watchdog" => {
            Ok(text.to_owned())
        }
        _ => Err("it is what Restart= of systemd can be: no, always, on-failure, …".to_owned()),
    }
}

/// A unit that is as long active as the container runs, and fails as it fails.
fn unit(user: bool, call: &str, name: &str, id: &str, policy: &str, stop: i64) -> String {
    let patience = stop.saturating_add(20);
    // The user's systemd knows nothing of the machine's targets; and what holds the user's machine may have been started
    // here, for all containers.
    let (network, kill) = match user {
        true => ("", "KillMode=process\n"),
        false => ("Wants=network-online.target\nAfter=network-online.target\n", ""),
    };
    format!(
        "# container-{id}.service\n# Written by 'tare generate systemd'\n\n\
         [Unit]\nDescription=Container {name} of tare\n{network}\n\
         [Service]\nType=exec\nRestart={policy}\nTimeoutStopSec={patience}\n{kill}\
         ExecStart={call} start --attach {id}\nExecStop={call} stop --timeout {stop} {id}\n\
         # However it ended: only systemd starts it again, not a restart policy of its own.\n\
         ExecStopPost=-{call} stop --timeout {stop} {id}\n\n\
         [Install]\nWantedBy=default.target\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_init_gets_a_call_of_boot() {
        for init in [Init::Systemd, Init::OpenRc, Init::Cron] {
            for user in [false, true] {
                let text = init.text(user, "/usr/bin/tare", &["--root=/x".to_owned()]);
                assert!(text.contains("/usr/bin/tare --root=/x system boot\n"), "{text}");
            }
            assert_eq!(Init::parse(&init.name().to_lowercase()), Ok(init));
        }
        assert!(Init::parse("upstart").is_err());
    }

    #[test]
    fn a_container_gets_a_unit() {
        let text = unit(false, "/usr/bin/tare", "web", "abc", "on-failure", 10);
        for line in ["ExecStart=/usr/bin/tare start --attach abc", "Restart=on-failure", "TimeoutStopSec=30"]
        {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert!(restart("sometimes").is_err());
    }
}
