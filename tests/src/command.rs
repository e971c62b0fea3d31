//! One call of the binary, with a time limit, and what came out.

use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::patience::stretched;
use crate::process;

/// No test waits longer for a command than this, unless it says so. Slow machines stretch this and the next.
const LIMIT: Duration = Duration::from_secs(60);
/// A background process that keeps our pipe open after the command ended would hang `id=$(tare run -d …)`.
const PIPES_CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// A call in the making.
#[derive(Debug)]
#[must_use = "nothing happens before run()"]
pub struct Tare {
    command: Command,
    stdin: Option<Vec<u8>>,
    limit: Duration,
}

impl Tare {
    /// A call of any program, for tests that wrap the binary in another.
    pub fn of(command: Command) -> Tare {
        Tare { command, stdin: None, limit: LIMIT }
    }

    /// One more word.
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Tare {
        self.command.arg(word);
        self
    }

    /// More words.
    pub fn args<W: AsRef<OsStr>>(mut self, words: impl IntoIterator<Item = W>) -> Tare {
        self.command.args(words);
        self
    }

    /// A variable in the command's own environment (not the container's).
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Tare {
        self.command.env(name, value);
        self
    }

    /// The folder that the command is called from.
    pub fn in_folder(mut self, folder: &Path) -> Tare {
        self.command.current_dir(folder);
        self
    }

    /// What the command reads; without this it is /dev/null.
    pub fn stdin(mut self, bytes: impl AsRef<[u8]>) -> Tare {
        self.stdin = Some(bytes.as_ref().to_vec());
        self
    }

    /// Another time limit.
    pub fn within(mut self, limit: Duration) -> Tare {
        self.limit = limit;
        self
    }

    /// The bare command, for tests that start it their own way.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Runs to the end. One that does not end within its limit is killed, and the test fails.
    #[track_caller]
    pub fn run(self) -> Outcome {
        let limit = self.limit;
        self.start().wait_within(limit)
    }

    /// Starts, and lets the test do something meanwhile.
    #[track_caller]
    pub fn start(mut self) -> Running {
        let line = line(&self.command);
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap_or_else(|error| panic!("starting `{line}`: {error}"));
        if let (Some(bytes), Some(mut pipe)) = (self.stdin.take(), child.stdin.take()) {
            // In a thread of its own: the command may write before it has read everything. That it stops
            // reading early (`head`) is its right.
            thread::spawn(move || drop(pipe.write_all(&bytes)));
        }
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        Running { child, stdout, stderr, line }
    }
}

/// A call that has been started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    line: String,
}

impl Running {
    /// The number of the process that was called.
    pub fn id(&self) -> i32 {
        self.child.id().try_into().expect("process numbers are small")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.id(), signal);
    }

    /// Waits for the end, at most a minute.
    #[track_caller]
    pub fn wait(self) -> Outcome {
        self.wait_within(LIMIT)
    }

    /// Waits for the end, at most so long.
    #[track_caller]
    pub fn wait_within(mut self, limit: Duration) -> Outcome {
        let limit = stretched(limit);
        let start = Instant::now();
        let status = loop {
            match self.child.try_wait().expect("waiting for a child of our own") {
                Some(status) => break status,
                None if start.elapsed() > limit => {
                    let _ = self.child.kill();
                    let _ = self.child.wait();
                    let wait = Duration::from_millis(500);
                    let stderr = self.stderr.recv_timeout(wait).unwrap_or_default();
                    panic!(
                        "`{}` did not end within {} s; stderr: {}",
                        self.line,
                        limit.as_secs(),
                        String::from_utf8_lossy(&stderr)
                    );
                }
                None => thread::sleep(Duration::from_millis(2)),
            }
        };
        let stdout = self.collect(&self.stdout, "stdout");
        let stderr = self.collect(&self.stderr, "stderr");
        Outcome { status, bytes: stdout, stderr: text(&stderr), line: self.line }
    }

    #[track_caller]
    fn collect(&self, pipe: &Receiver<Vec<u8>>, name: &str) -> Vec<u8> {
        pipe.recv_timeout(stretched(PIPES_CLOSE_WITHIN)).unwrap_or_else(|_| {
            panic!("`{}` has ended, but something in the background keeps its {name} open", self.line)
        })
    }
}

/// Reads a pipe to its end in a thread, so that a full one cannot stop the command.
fn drain(pipe: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        // The test may have given up already.
        let _ = send.send(bytes);
    });
    receive
}

/// How a call ended.
#[derive(Debug)]
pub struct Outcome {
    status: ExitStatus,
    bytes: Vec<u8>,
    stderr: String,
    line: String,
}

impl Outcome {
    /// The exit code; 128 + n for a death by signal n, as a shell has it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| 128 + self.status.signal().unwrap_or(0))
    }

    /// The command line, for messages.
    pub fn line(&self) -> &str {
        &self.line
    }

    /// What it printed, without the last line ends.
    pub fn stdout(&self) -> String {
        text(&self.bytes).trim_end().to_owned()
    }

    /// What it printed, byte for byte.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What it complained.
    pub fn stderr(&self) -> &str {
        &self.stderr
    }

    /// It went well; gives what it printed.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert!(self.status.success(), "should have gone well: {self:#?}");
        self.stdout()
    }

    /// It ended with this code.
    #[track_caller]
    pub fn fails(&self, code: i32) -> &Outcome {
        assert_eq!(self.code(), code, "exit code of {self:#?}");
        self
    }

    /// It printed exactly this (but for the last line ends), and went well.
    #[track_caller]
    pub fn prints(&self, expected: &str) -> &Outcome {
        assert_eq!(self.ok(), expected, "stdout of {self:#?}");
        self
    }

    /// Its complaint has every one of these words, in whatever case.
    #[track_caller]
    pub fn complains_of(&self, words: &[&str]) -> &Outcome {
        let stderr = self.stderr.to_lowercase();
        for word in words {
            assert!(stderr.contains(&word.to_lowercase()), "stderr should say `{word}`: {self:#?}");
        }
        // A message is for people: no panic, no Debug print of a struct.
        assert!(!stderr.contains("panicked at"), "a panic is no message: {self:#?}");
        self
    }
}

fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
