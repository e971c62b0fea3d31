//! What is to be executed: found as execvp(3) would, refused in the words that callers of runc look for.

use std::ffi::CString;
use std::path::Path;

use oci_spec::runtime::Process;
use rustix::fs::FileType;
use rustix::io::Errno;
use tare_sys::process;
use tare_sys::{Error, Kind, Result};

use crate::program;
use crate::user::User;

/// What is to be executed.
pub struct Command {
    args: Vec<CString>,
    env: Vec<CString>,
    path: String,
}

impl Command {
    /// Reads it from the spec.
    pub fn of(process: &Process, user: &User) -> Result<Command> {
        let nul = |what: &str| Error::new(Kind::Usage, format!("{what} with a NUL byte in it"));
        let args = process.args().as_deref().unwrap_or_default();
        let mut env: Vec<String> = process.env().clone().unwrap_or_default();
        if !env.iter().any(|pair| pair.starts_with("HOME=")) {
            env.push(format!("HOME={}", user.home));
        }
        let path =
            env.iter().find_map(|pair| pair.strip_prefix("PATH=")).unwrap_or("/bin:/usr/bin").to_owned();
        let args = args
            .iter()
            .map(|arg| CString::new(arg.as_str()).map_err(|_| nul("an argument")))
            .collect::<Result<Vec<_>>>()?;
        let env = env
            .into_iter()
            .map(|pair| CString::new(pair).map_err(|_| nul("a variable")))
            .collect::<Result<_>>()?;
        if args.is_empty() {
            return Err(Error::new(Kind::Usage, "no command to run").hint("name one after the image"));
        }
        Ok(Command { args, env, path })
    }

    fn name(&self) -> String {
        self.args[0].to_string_lossy().into_owned()
    }

    /// The program's path, looked up in the container's PATH as execvp(3) would. `check`: look at a path with a
    /// slash as well, which exec would do soon enough otherwise.
    pub fn find(&self, check: bool) -> Result<CString> {
        let name = self.name();
        if name.is_empty() {
            return Err(self.refuse(Kind::CommandNotFound, "exec: \"\": executable file not found in $PATH"));
        }
        if name.contains('/') {
            if check {
                self.check(&name)?;
            }
            return Ok(self.args[0].clone());
        }
        let mut denied = false;
        for folder in self.path.split(':') {
            let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(&name);
            match executable(&candidate) {
                Ok(true) => {
                    use std::os::unix::ffi::OsStrExt;
                    return CString::new(candidate.as_os_str().as_bytes())
                        .map_err(|_| Error::new(Kind::Usage, "PATH with a NUL byte in it"));
                }
                Ok(false) => denied = true,
                Err(_) => {}
            }
        }
        Err(if denied {
            self.refuse(Kind::CommandNotExecutable, &format!("exec: {name:?}: permission denied"))
        } else {
            self.refuse(Kind::CommandNotFound, &format!("exec: {name:?}: executable file not found in $PATH"))
                .hint(format!("the image has no such command in {}", self.path))
        })
    }

    /// Whether the path could be executed; for a caller who wants to know long before it is.
    fn check(&self, name: &str) -> Result<()> {
        match executable(Path::new(name)) {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.refuse(
                Kind::CommandNotExecutable,
                &format!(
                    "exec: {name:?}: {}",
                    if Path::new(name).is_dir() {
                        "is a directory: permission denied"
                    } else {
                        "permission denied"
                    }
                ),
            )),
            Err(Errno::NOENT | Errno::NOTDIR) => Err(self.refuse(
                Kind::CommandNotFound,
                &format!("exec: {name:?}: stat {name}: no such file or directory"),
            )),
            Err(errno) => Err(Error::syscall(format!("exec: {name:?}: stat"), errno)),
        }
    }

    /// Refuses to run our own binary inside: an image can name it through /proc/self/exe, and would then have a
    /// process of the host's file to work on (CVE-2019-5736).
    pub fn is_not_us(&self, program: &CString) -> Result<()> {
        let ours = rustix::fs::stat("/proc/self/exe");
        match (ours, rustix::fs::stat(program.as_c_str())) {
            (Ok(ours), Ok(theirs)) if (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino) => {
                Err(self.refuse(
                    Kind::CommandNotExecutable,
                    &format!(
                        "exec: {:?}: permission denied: it is the engine itself",
                        program.to_string_lossy()
                    ),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Executes; comes back only with the reason why not, in words that callers of runc look for.
    pub fn execute(&self, program: &CString) -> Error {
        let errno = process::exec(program, &self.args, &self.env);
        let error = self.refused(program, errno);
        match errno {
            Errno::NOENT | Errno::NOEXEC | Errno::ACCESS | Errno::LIBBAD => match program::explain(program) {
                Some(why) => error.hint_instead(why),
                None => error,
            },
            _ => error,
        }
    }

    fn refused(&self, program: &CString, errno: Errno) -> Error {
        let path = program.to_string_lossy();
        match errno {
            Errno::NOENT if Path::new(&*path).exists() => self
                .refuse(Kind::CommandNotFound, &format!("exec: {path:?}: no such file or directory"))
                .hint("the file is there, but its interpreter or loader is not: look at its first line (CRLF?), or at its architecture"),
            Errno::NOENT | Errno::NOTDIR => self
                .refuse(Kind::CommandNotFound, &format!("exec: {path:?}: no such file or directory")),
            Errno::ACCESS if Path::new(&*path).is_dir() => {
                self.refuse(Kind::CommandNotExecutable, &format!("exec: {path:?}: is a directory: permission denied"))
            }
            Errno::ACCESS => self
                .refuse(Kind::CommandNotExecutable, &format!("exec: {path:?}: permission denied"))
                .hint("is it executable for this user, on a mount without noexec?"),
            Errno::NOEXEC => self
                .refuse(Kind::CommandNotExecutable, &format!("exec: {path:?}: exec format error"))
                .hint("a program for another architecture, or a script without a first line like #!/bin/sh"),
            Errno::PERM => Error::syscall(format!("exec {path:?}"), errno)
                .with_kind(Kind::CommandNotExecutable)
                .hint("its file capabilities ask for more than the container may have"),
            _ => Error::syscall(format!("exec {path:?}"), errno).with_kind(Kind::CommandNotExecutable),
        }
    }

    fn refuse(&self, kind: Kind, words: &str) -> Error {
        Error::new(kind, words)
    }
}

fn executable(path: &Path) -> std::result::Result<bool, Errno> {
    let stat = rustix::fs::stat(path)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(false);
    }
    match rustix::fs::accessat(
        rustix::fs::CWD,
        path,
        rustix::fs::Access::EXEC_OK,
        rustix::fs::AtFlags::EACCESS,
    ) {
        Ok(()) => Ok(true),
        Err(Errno::ACCESS) => Ok(false),
        Err(errno) => Err(errno),
    }
}
