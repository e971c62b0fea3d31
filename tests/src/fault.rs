//! Faults: where and when tests kill a process. A fault point is a step, and a step is a system call: its name, and which
//! of its kind it is; strace(1) kills just before it. Other kills come at moments that nobody has chosen.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::Signal;

use crate::attack::repetitions;
use crate::command::Tare;
use crate::patience::stretched;
use crate::process;

/// How a call ends that SIGKILL ended, strace's too.
pub const KILLED: i32 = 128 + 9;

/// A fault point: the name of a system call, and which of its kind it is. strace counts each kind by itself.
pub type Step = (String, usize);

/// A call under strace, by way of a shell that tells of its end in a number.
pub fn traced(flags: &[&str], call: Tare) -> Tare {
    let inner = call.into_command();
    let mut strace = Command::new("sh");
    strace.args(["-c", "\"$@\"; exit $?", "sh", "strace", "-qq"]);
    strace.args(flags).arg(inner.get_program()).args(inner.get_args());
    if let Some(folder) = inner.get_current_dir() {
        strace.current_dir(folder);
    }
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => strace.env(name, value),
            None => strace.env_remove(name),
        };
    }
    Tare::of(strace)
}

/// The steps of a process in their order, by its lines of what strace wrote.
pub fn steps<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Step> {
    let mut counts = BTreeMap::<&str, usize>::new();
    let mut steps = Vec::new();
    for line in lines {
        let Some((name, _)) = line.split_once('(') else { continue };
        // Not what tells of signals, ends, and calls that go on.
        if name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            let count = counts.entry(name).or_default();
            *count += 1;
            steps.push((name.to_owned(), *count));
        }
    }
    steps
}

/// As many of them as a test may take, evenly spread.
pub fn some(steps: &[Step], few: usize) -> impl Iterator<Item = &Step> {
    steps.iter().step_by(steps.len().div_ceil(repetitions(few)).max(1))
}

/// What strace has to be told to kill before this step.
pub fn before((name, n): &Step) -> String {
    format!("inject={name}:signal=KILL:when={n}")
}

/// Moments that nobody has chosen. The seed is printed; with `TARE_TEST_SEED` they can be had again.
#[derive(Debug)]
pub struct Moments(u64);

impl Moments {
    /// From a seed that nobody has chosen either.
    #[track_caller]
    #[allow(clippy::new_without_default, reason = "it looks at the clock and prints")]
    pub fn new() -> Moments {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
        let seed = std::env::var("TARE_TEST_SEED").ok().and_then(|text| text.parse().ok());
        let seed = seed.unwrap_or(now.as_nanos() as u64);
        println!("TARE_TEST_SEED={seed}");
        Moments(seed)
    }

    /// A number below `limit`.
    pub fn number(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 20) % limit.max(1) as u64) as usize
    }

    /// One of them.
    pub fn one_of<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        all.get(self.number(all.len()))
    }

    /// A time below `limit`.
    pub fn below(&mut self, limit: Duration) -> Duration {
        Duration::from_nanos(self.number(limit.as_nanos() as usize) as u64)
    }

    /// Starts a call and kills it after some time below `limit`, which is stretched on a slow machine.
    #[track_caller]
    pub fn kill(&mut self, call: Tare, limit: Duration) {
        let mut command = call.into_command();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("starting the call");
        std::thread::sleep(self.below(stretched(limit)));
        process::signal(child.id().cast_signed(), Signal::KILL);
        child.wait().expect("waiting for a child of our own");
    }
}
